"""The recurrent state-space model against a float64 NumPy loop and published numbers."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats
from torch import Tensor, nn

from wmplatform.types import ActionSpec, ArraySpec
from wmplugins.dreamer.rssm import RSSM

from . import dreamer_reference as ref
from .numpy_rssm import NumpyRSSM


def tiny(embed: int = 5, action: int = 2, **settings: object) -> RSSM:
    """4 groups of 3 classes, 6 deterministic units."""
    sizes = {"deter": 6, "hidden": 7, "groups": 4, "classes": 3} | settings
    return RSSM({"embed": ArraySpec((embed,))}, ActionSpec(action), **sizes)


def segment(batch: int = 3, length: int = 5) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Random embeddings, actions and episode starts; every row starts an episode."""
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = True
    first[1, 3] = True
    return {"embed": torch.randn(batch, length, 5)}, torch.randn(batch, length, 2), first


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters())


# Recurrence


def test_observe_against_numpy() -> None:
    rssm = tiny()
    embeds, actions, first = segment()
    ours = rssm.observe(embeds, actions, first, deterministic=True)
    theirs = NumpyRSSM(rssm.cell).observe(ref.f64(embeds["embed"]), ref.f64(actions), first.numpy())
    for name in ("stoch", "deter"):
        assert_allclose(ours.states[name].detach(), theirs[name], atol=1e-5)
    for name in ("post", "prior"):
        assert_allclose(ours.aux[name].detach(), theirs[name], atol=1e-5)


def test_imagine_against_numpy() -> None:
    rssm = tiny()
    actions = torch.rand(3, 4, 2) * 2 - 1
    start = {"stoch": torch.zeros(3, 12), "deter": torch.randn(3, 6)}
    start["stoch"][:, ::3] = 1
    ours = rssm.imagine(start, start, actions, 4, deterministic=True)
    numpy = NumpyRSSM(rssm.cell)
    stoch, deter = ref.f64(start["stoch"]), ref.f64(start["deter"])
    for t in range(4):
        deter = numpy.advance(stoch, deter, ref.f64(actions[:, t]))
        stoch = numpy.mode(numpy.prior(deter))
        assert_allclose(ours.states["deter"][:, t].detach(), deter, atol=1e-5)
        assert_allclose(ours.states["stoch"][:, t].detach(), stoch, atol=1e-5)
    assert torch.equal(ours.actions, actions)


def test_features_put_the_stochastic_part_first() -> None:
    rssm = tiny()
    state = {"stoch": torch.ones(2, 12), "deter": torch.zeros(2, 6)}
    for view in rssm.views:
        features = rssm.features(state, view)
        assert isinstance(features, Tensor)
        assert features[0].tolist() == [1.0] * 12 + [0.0] * 6
        assert rssm.feature_spec(view) == ArraySpec((18,))


def test_posterior_samples_follow_their_logits() -> None:
    rssm = tiny()
    rows = 6_000
    embeds = {"embed": torch.randn(1, 1, 5).expand(rows, 1, 5) * 3}
    first = torch.ones(rows, 1, dtype=torch.bool)
    observed = rssm.observe(embeds, torch.zeros(rows, 1, 2), first)
    counts = observed.states["stoch"].detach().sum(0).view(4, 3)
    expected = np.exp(ref.log_softmax(observed.aux["post"][0, 0].detach())) * rows
    for group in range(4):
        assert stats.chisquare(counts[group].double(), expected[group]).pvalue > 1e-3


def test_imagined_samples_follow_the_prior() -> None:
    rssm = tiny()
    rows = 6_000
    start = {"stoch": torch.zeros(rows, 12), "deter": torch.randn(1, 6).expand(rows, 6)}
    imagined = rssm.imagine(start, start, torch.zeros(rows, 1, 2), 1)
    deter = imagined.states["deter"][:1, 0].detach()
    counts = imagined.states["stoch"].detach().sum(0).view(4, 3)
    expected = np.exp(ref.log_softmax(rssm.cell.prior(deter)[0].detach())) * rows
    for group in range(4):
        assert stats.chisquare(counts[group].double(), expected[group]).pvalue > 1e-3


def test_sampled_states_are_one_hot_and_send_straight_through_gradients() -> None:
    rssm = tiny()
    embeds, actions, first = segment()
    embeds["embed"].requires_grad_()
    states = rssm.observe(embeds, actions, first).states
    groups = states["stoch"].detach().view(3, 5, 4, 3)
    assert set(groups.unique().tolist()) == {0.0, 1.0}
    assert (groups.sum(-1) == 1).all()
    weights = torch.randn_like(states["stoch"][:, 0])
    (states["stoch"][:, 0] * weights).sum().backward()
    assert embeds["embed"].grad is not None
    assert (embeds["embed"].grad[:, 0] != 0).any()
    assert (embeds["embed"].grad[:, 1:] == 0).all()


def test_reset_forgets_nan_and_the_first_action() -> None:
    rssm = tiny()
    embeds, actions, first = segment()
    broken = {"stoch": torch.full((3, 12), math.nan), "deter": torch.full((3, 6), math.inf)}
    actions[:, 0] = math.nan
    observed = rssm.observe(embeds, actions, first, broken, deterministic=True)
    clean = rssm.observe(embeds, torch.nan_to_num(actions), first, deterministic=True)
    for name in ("stoch", "deter"):
        assert torch.equal(observed.states[name], clean.states[name])
    (observed.states["deter"].sum() + observed.aux["post"].sum()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in rssm.parameters())


def test_the_multiplying_reset_lets_nan_through() -> None:
    rssm = tiny(reset="multiply")
    embeds, actions, first = segment()
    broken = {"stoch": torch.full((3, 12), math.nan), "deter": torch.zeros(3, 6)}
    observed = rssm.observe(embeds, actions, first, broken)
    assert observed.states["deter"].isnan().any()


def test_prior_logits_follow_from_the_deterministic_state_alone() -> None:
    rssm = tiny()
    embeds, actions, first = segment()
    observed = rssm.observe(embeds, actions, first)
    assert torch.equal(observed.aux["prior"], rssm.cell.prior(observed.states["deter"]))


def test_divergence_sends_gradients_both_ways() -> None:
    rssm = tiny()
    embeds, actions, first = segment()
    losses, metrics = rssm.losses(rssm.observe(embeds, actions, first))
    assert set(losses) == {"kl"}
    losses["kl"].backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in rssm.cell.img_dist.parameters())
    assert all(p.grad is not None and (p.grad != 0).any() for p in rssm.cell.obs_dist.parameters())
    assert all(not m.requires_grad for m in metrics.values())


# Published sizes


@pytest.mark.parametrize(
    ("embed", "action", "size", "expected"),
    [
        (1536, 4, 1024, 13_125_632),
        (3072, 4, 1024, 14_698_496),
        (1536, 6, 1024, 13_127_680),
        (1536, 6, 200, 1_247_248),
        (1536, 18, 600, 5_664_848),
    ],
)
def test_published_counts(embed: int, action: int, size: int, expected: int) -> None:
    spec = {"embed": ArraySpec((embed,))}
    with torch.device("meta"):
        rssm = RSSM(spec, ActionSpec(action), deter=size, hidden=size)
    assert parameters(rssm) == expected


@pytest.mark.parametrize(("width", "expected"), [(50, 1_100_800), (4, 1_053_696), (6, 1_055_744)])
def test_input_layer_counts(width: int, expected: int) -> None:
    with torch.device("meta"):
        rssm = RSSM({"embed": ArraySpec((1536,))}, ActionSpec(4), pad_action=width)
    assert parameters(rssm.cell.img_in) == expected


@pytest.mark.parametrize(
    ("embed", "expected"),
    [(1536, 2_622_464), (2048, 3_146_752), (3072, 4_195_328), (5120, 6_292_480)],
)
def test_dense_counts(embed: int, expected: int) -> None:
    with torch.device("meta"):
        cell = RSSM({"embed": ArraySpec((embed,))}, ActionSpec(4)).cell
    assert parameters(cell.obs_out) == expected
    assert [parameters(m) for m in (cell.img_out, cell.img_dist, cell.obs_dist)] == [1_049_600] * 3


def test_padded_actions_change_the_width_only() -> None:
    rssm = tiny(pad_action=5)
    assert rssm.cell.img_in.in_features == 12 + 5
    embeds, actions, first = segment()
    before = rssm.observe(embeds, actions, first, deterministic=True).states["deter"]
    with torch.no_grad():
        rssm.cell.img_in.weight[:, 14:] = 100.0  # the columns of the padding
    after = rssm.observe(embeds, actions, first, deterministic=True).states["deter"]
    assert torch.equal(before, after)


def test_initial_bounds_of_the_dense_layers() -> None:
    cell = RSSM({"embed": ArraySpec((3072,))}, ActionSpec(4), pad_action=50, deter=8).cell
    weight = cell.img_in.weight.detach()
    assert 0.0532 < float(weight.abs().max()) <= 0.053478 * (1 + 2e-5)
    layers = [m for m in cell.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.97 * bound < float(layer.weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert (layer.bias == 0).all()
