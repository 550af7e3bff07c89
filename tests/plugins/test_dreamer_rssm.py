"""The recurrent state-space model against a float64 NumPy loop and published numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from torch import Tensor, nn

from wmplatform.types import ActionSpec, ArraySpec
from wmplugins.dreamer.cell import GRUCell, balanced_kl, categorical_kl
from wmplugins.dreamer.rssm import RSSM

from . import dreamer_reference as ref
from .numpy_rssm import NumpyRSSM

POST = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
PRIOR = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
GRU_WEIGHT = [
    [0.1, -0.2, 0.3, 0.4],
    [-0.5, 0.2, 0.1, 0.0],
    [0.3, 0.3, -0.1, 0.2],
    [0.0, -0.4, 0.5, 0.1],
    [0.2, 0.1, 0.0, -0.3],
    [-0.1, 0.6, -0.2, 0.3],
]
GRU_BIAS = [0.01, -0.02, 0.03, -0.04, 0.05, -0.06]
GRU_GAIN = [1, 1.1, 0.9, 1.2, 0.8, 1]
GRU_SHIFT = [0, 0.1, -0.1, 0.2, 0, -0.2]


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


# Divergence


def logits(flat: Tensor) -> Tensor:
    """One batch, one record."""
    return flat[None, None].clone().requires_grad_()


def test_divergence_of_known_logits() -> None:
    assert_allclose(categorical_kl(POST, PRIOR), 0.83155719, atol=1e-6)
    assert_allclose(categorical_kl(PRIOR, POST), 0.88473465, atol=1e-6)
    each = categorical_kl(POST[:, None], PRIOR[:, None])
    assert_allclose(each, [0.26621671, 0.56534049], atol=1e-6)


def test_balanced_divergence_trains_the_prior_four_times_harder() -> None:
    post, prior = logits(POST), logits(PRIOR)
    loss, kl = balanced_kl(post, prior, 0.8, 0.0)
    loss.backward()
    assert_allclose(loss.detach(), 0.83155719, atol=1e-6)
    assert_allclose(kl, [[0.83155719]], atol=1e-6)
    assert not kl.requires_grad
    assert post.grad is not None
    assert prior.grad is not None
    expected = [[-0.26552610, 0.07088389, 0.19464221], [0.04612863, 0.33746889, -0.38359752]]
    assert_allclose(prior.grad[0, 0], expected, atol=1e-6)
    expected = [[0.05651749, -0.02815407, -0.02836342], [-0.02724219, -0.05809834, 0.08534053]]
    assert_allclose(post.grad[0, 0], expected, atol=1e-6)


def test_no_gradient_at_all_below_the_free_nats() -> None:
    post, prior = logits(POST), logits(PRIOR)
    loss, _ = balanced_kl(post, prior, 0.8, 1.0)
    loss.backward()
    assert loss.item() == 1.0
    assert post.grad is not None
    assert prior.grad is not None
    assert (post.grad == 0).all()
    assert (prior.grad == 0).all()


def test_free_nats_clip_the_batch_mean_not_each_record() -> None:
    """Divergences 0.3 and 2.1 under one free nat give 1.2; clipping each would give 1.55."""

    def with_divergence(kl: float) -> Tensor:
        """Logits [x, 0] whose divergence from [0, 0] is `kl`, over several groups."""
        share = kl / 4
        low, high = 0.0, 60.0
        for _ in range(200):
            middle = (low + high) / 2
            below = float(ref.kl([[middle, 0.0]], [[0.0, 0.0]])) < share
            low, high = (middle, high) if below else (low, middle)
        return torch.tensor([[low, 0.0]]).expand(4, 2)

    post = torch.stack([with_divergence(0.3), with_divergence(2.1)])[None]
    loss, kl = balanced_kl(post, torch.zeros_like(post), 0.8, 1.0)
    assert_allclose(kl, [[0.3, 2.1]], atol=1e-5)
    assert_allclose(loss, 1.2, atol=1e-5)


def test_divergence_stays_finite_where_the_prior_underflows() -> None:
    post, prior = torch.zeros(1, 2), torch.tensor([[0.0, -200.0]], requires_grad=True)
    kl = categorical_kl(post, prior)
    kl.backward()
    assert_allclose(kl.detach(), 99.30685282, rtol=1e-6)
    assert prior.grad is not None
    assert torch.isfinite(prior.grad).all()


@given(st.integers(0, 2**16), st.floats(0, 1), st.floats(0, 30))
def test_balanced_divergence_against_numpy(seed: int, balance: float, free: float) -> None:
    rng = np.random.default_rng(seed)
    post, prior = rng.normal(size=(2, 3, 4, 5)) * 2, rng.normal(size=(2, 3, 4, 5)) * 2
    a, b = (torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in (post, prior))
    loss, _ = balanced_kl(a, b, balance, free)
    loss.backward()
    mean = ref.kl(post, prior).mean()
    assert_allclose(loss.detach(), max(mean, free), rtol=1e-5)
    if abs(mean - free) < 1e-3:
        return
    active = float(mean > free) / 6
    by_post, by_prior = ref.kl_grad_post(post, prior), ref.kl_grad_prior(post, prior)
    assert a.grad is not None
    assert b.grad is not None
    assert_allclose(a.grad, (1 - balance) * active * by_post, atol=1e-6)
    assert_allclose(b.grad, balance * active * by_prior, atol=1e-6)


# Recurrence


def known_gru() -> GRUCell:
    cell = GRUCell(2, 2)
    with torch.no_grad():
        cell.linear.weight.copy_(torch.tensor(GRU_WEIGHT))
        cell.linear.bias.copy_(torch.tensor(GRU_BIAS))
        cell.norm.weight.copy_(torch.tensor(GRU_GAIN))
        cell.norm.bias.copy_(torch.tensor(GRU_SHIFT))
    return cell


def test_gru_of_known_weights() -> None:
    out = known_gru()(torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.3]]))
    assert_allclose(out.detach(), [[0.05835723, -0.25679824]], atol=1e-6)
    args = (GRU_WEIGHT, GRU_BIAS, GRU_GAIN, GRU_SHIFT)
    assert_allclose(ref.gru([0.5, -1], [0.2, -0.3], *args), [0.05835723, -0.25679824], atol=1e-8)


def test_gru_counts_and_initial_bounds() -> None:
    cell = GRUCell(1024, 1024)
    assert parameters(cell) == 6_300_672
    assert parameters(cell.linear) == 6_294_528
    weight = cell.linear.weight.detach()
    bound = math.sqrt(6 / (2048 + 3072))
    assert 0.99 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)
    assert (cell.linear.bias == 0).all()


def test_gru_of_the_torch_initialisation() -> None:
    linear = GRUCell(1024, 1024, init="torch").linear
    for p in (linear.weight.detach(), linear.bias.detach()):
        assert 0.0215 < float(p.abs().max()) <= 0.022097 * (1 + 2e-5)


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
