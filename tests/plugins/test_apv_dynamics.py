"""Action-free and stacked dynamics against float64 NumPy, and what a fine-tuning update moves."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.interfaces import Update
from wmplatform.types import ActionSpec, ArraySpec
from wmplugins.apv.dynamics import ActionFreeRSSM, StackedRSSM

from ..core.tiny_dreamer import segments
from . import dreamer_reference as ref
from .numpy_rssm import NumpyRSSM
from .tiny_contextwm import contextwm_agent, contextwm_learner

SIZES = {"deter": 6, "hidden": 7, "groups": 4, "classes": 3, "pad_action": 4}
EMBED, ACTION, PAD = 5, 2, 4
WINDOW = 3


def action_free(**settings: Any) -> ActionFreeRSSM:
    return ActionFreeRSSM({"embed": ArraySpec((EMBED,))}, ActionSpec(0), **(SIZES | settings))


def stacked(**settings: Any) -> StackedRSSM:
    return StackedRSSM({"embed": ArraySpec((EMBED,))}, ActionSpec(ACTION), **(SIZES | settings))


def segment(batch: int = 3, length: int = 6) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = True
    first[1, 3] = True
    return {"embed": torch.randn(batch, length, EMBED)}, torch.randn(batch, length, ACTION), first


def features(states: dict[str, ref.Array]) -> ref.Array:
    """Stochastic part first."""
    return np.concatenate([states["stoch"], states["deter"]], -1)


# Against NumPy


def test_the_action_free_model_against_numpy() -> None:
    dynamics = action_free()
    embeds, actions, first = segment()
    ours = dynamics.observe(embeds, None, first, deterministic=True)
    still = np.zeros((*first.shape, PAD))
    theirs = NumpyRSSM(dynamics.action_free).observe(ref.f64(embeds["embed"]), still, first.numpy())
    for name in ("stoch", "deter"):
        assert_allclose(ours.states[name].detach(), theirs[name], atol=1e-5)
    for name in ("post", "prior"):
        assert_allclose(ours.aux[name].detach(), theirs[name], atol=1e-5)
    given = dynamics.observe(embeds, actions, first, deterministic=True)
    assert torch.equal(ours.states["deter"], given.states["deter"])


@pytest.mark.parametrize("concat", [False, True])
def test_the_stack_against_numpy(concat: bool) -> None:
    """The posterior of s reads z's features, after the image embedding where both are read."""
    dynamics = stacked(concat_embed=concat)
    embeds, actions, first = segment()
    ours = dynamics.observe(embeds, actions, first, deterministic=True)
    embed, still = ref.f64(embeds["embed"]), np.zeros((*first.shape, PAD))
    z = NumpyRSSM(dynamics.action_free).observe(embed, still, first.numpy())
    evidence = np.concatenate([embed, features(z)], -1) if concat else features(z)
    padded = np.concatenate([ref.f64(actions), still[..., ACTION:]], -1)
    s = NumpyRSSM(dynamics.conditional).observe(evidence, padded, first.numpy())
    for latent, theirs in (("z", z), ("s", s)):
        for name in ("stoch", "deter"):
            assert_allclose(ours.states[latent][name].detach(), theirs[name], atol=1e-5)
    for prefix, theirs in (("af_", z), ("", s)):
        for name in ("post", "prior"):
            assert_allclose(ours.aux[f"{prefix}{name}"].detach(), theirs[name], atol=1e-5)
    assert_allclose(dynamics.features(ours.states, "intrinsic").detach(), features(z), atol=1e-5)
    for view in dynamics.views - {"intrinsic"}:
        assert_allclose(dynamics.features(ours.states, view).detach(), features(s), atol=1e-5)


def test_both_divergences_against_numpy() -> None:
    dynamics = stacked(free_nats=0.01)
    embeds, actions, first = segment()
    observed = dynamics.observe(embeds, actions, first)
    losses, metrics = dynamics.losses(observed)
    assert set(losses) == {"kl", "af_kl"}
    for prefix in ("", "af_"):
        post, prior = (observed.aux[f"{prefix}{name}"].detach() for name in ("post", "prior"))
        expected = max(ref.kl(post, prior).mean(), 0.01)
        assert_allclose(losses[f"{prefix}kl"].detach(), expected, rtol=1e-5)
        assert_allclose(
            metrics[f"{prefix}post_entropy"], ref.entropy(post).sum(-1).mean(), rtol=1e-5
        )


def test_imagination_scans_the_conditional_prior_alone() -> None:
    dynamics = stacked()
    start = {"stoch": torch.zeros(3, 12), "deter": torch.randn(3, 6)}
    actions = torch.rand(3, 4, ACTION) * 2 - 1
    ours = dynamics.imagine({"s": start}, {"s": start}, actions, 4, deterministic=True)
    assert set(ours.states) == {"s"}
    numpy = NumpyRSSM(dynamics.conditional)
    stoch, deter = ref.f64(start["stoch"]), ref.f64(start["deter"])
    padded = np.concatenate([ref.f64(actions), np.zeros((3, 4, PAD - ACTION))], -1)
    for t in range(4):
        deter = numpy.advance(stoch, deter, padded[:, t])
        stoch = numpy.mode(numpy.prior(deter))
        assert_allclose(ours.states["s"]["deter"][:, t].detach(), deter, atol=1e-5)
        assert_allclose(ours.states["s"]["stoch"][:, t].detach(), stoch, atol=1e-5)


def test_each_model_goes_on_from_its_own_carry() -> None:
    dynamics = stacked()
    embeds, actions, first = segment()
    first[:, 1:] = False
    whole = dynamics.observe(embeds, actions, first, deterministic=True)
    parts, carry = [], None
    for part in (slice(0, 4), slice(4, 6)):
        some = {"embed": embeds["embed"][:, part]}
        found = dynamics.observe(some, actions[:, part], first[:, part], carry, deterministic=True)
        parts.append(found.states)
        carry = found.carry
    for latent in ("z", "s"):
        joined = torch.cat([states[latent]["deter"] for states in parts], 1)
        assert_allclose(joined.detach(), whole.states[latent]["deter"].detach(), atol=1e-6)


def test_an_episode_start_forgets_nan_in_both_models() -> None:
    dynamics = stacked()
    embeds, actions, first = segment()
    broken = {
        latent: {"stoch": torch.full((3, 12), torch.nan), "deter": torch.full((3, 6), torch.inf)}
        for latent in ("z", "s")
    }
    ours = dynamics.observe(embeds, actions, first, broken, deterministic=True)
    clean = dynamics.observe(embeds, actions, first, deterministic=True)
    for latent in ("z", "s"):
        assert torch.equal(ours.states[latent]["deter"], clean.states[latent]["deter"])


def test_dead_columns_of_the_action_free_input_are_never_read() -> None:
    dynamics = action_free()
    embeds, _, first = segment()
    before = dynamics.observe(embeds, None, first, deterministic=True).states["deter"]
    with torch.no_grad():
        dynamics.action_free.img_in.weight[:, 12:] = torch.nan
    assert torch.equal(
        before, dynamics.observe(embeds, None, first, deterministic=True).states["deter"]
    )


def test_actions_wider_than_the_padding_are_refused() -> None:
    with pytest.raises(ValueError, match="pad_action = 1 is less than the action's 2"):
        stacked(pad_action=1)
    embeds, _, first = segment()
    with pytest.raises(ValueError, match="action-conditional"):
        stacked().observe(embeds, None, first)


def test_what_pre_training_saves_fits_the_stack_by_name() -> None:
    """Before and after: same names, same shapes, and the same z for the same weights."""
    low, high = action_free(), stacked()
    weights = low.state_dict()
    named = {k: v for k, v in high.state_dict().items() if k.startswith("action_free.")}
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in named.items()}
    assert not high.load_state_dict(weights, strict=False).unexpected_keys
    embeds, actions, first = segment()
    z = high.observe(embeds, actions, first, deterministic=True).states["z"]
    alone = low.observe(embeds, None, first, deterministic=True).states
    assert torch.equal(z["stoch"], alone["stoch"])
    assert torch.equal(z["deter"], alone["deter"])


# Fine-tuning


def gradients(agent: Agent, batch: Any) -> dict[str, Tensor | None]:
    """Of the weighted sum of all losses, by name; None where a parameter takes no part."""
    model = agent.world_model.train()
    found = model.losses(batch, agent.explorer)
    total, _ = model.balancer(found.losses)
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return dict(zip(named, grads, strict=True))


def test_the_prior_of_z_gets_no_gradient_and_its_posterior_does() -> None:
    grads = gradients(contextwm_agent(), segments(length=6))
    none = {name for name, grad in grads.items() if grad is None}
    assert none == {
        f"dynamics.action_free.{layer}.{kind}"
        for layer in ("img_out.0", "img_dist")
        for kind in ("weight", "bias")
    }
    for name, grad in grads.items():
        assert grad is None or (grad != 0).any(), name


def test_the_prior_of_z_learns_where_its_divergence_counts() -> None:
    model = {"balancer": None}
    grads = gradients(contextwm_agent(model=model), segments(length=6))
    grad = grads["dynamics.action_free.img_dist.weight"]
    assert grad is not None
    assert (grad != 0).any()


def test_an_infinite_divergence_of_z_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = contextwm_agent()
    learner = contextwm_learner(agent)
    real = StackedRSSM.losses

    def infinite(self: StackedRSSM, observed: Any) -> Any:
        losses, metrics = real(self, observed)
        return losses | {"af_kl": losses["af_kl"] * torch.inf}, metrics

    monkeypatch.setattr(StackedRSSM, "losses", infinite)
    metrics = learner.update(segments(length=6))
    assert metrics["af_kl_loss"].isinf()
    assert metrics["model_loss"].isfinite()
    assert int(metrics["skipped_updates"]) == 0
    assert all(p.isfinite().all() for p in agent.parameters())


def test_the_behavioural_head_sees_the_bonus_and_the_other_head_the_pure_reward() -> None:
    """The bonus covers the first T - window + 1 records only, so one head reads fewer of them."""
    agent = contextwm_agent(bonus={"scale": 0.7})
    model, batch = agent.world_model, segments(length=6)
    twin = copy.deepcopy(agent.explorer)
    found = model.losses(batch, agent.explorer)
    z, s = (model.dynamics.features(found.observed.states, v) for v in ("intrinsic", "reward"))
    bonus = twin.intrinsic(z.detach())
    assert bonus is not None
    assert bonus.values.shape == (3, 6 - WINDOW + 1)
    with torch.no_grad():
        behavioural = model.head("reward").mlp(s[:, : 6 - WINDOW + 1])[..., 0]
        pure = model.head("aux_reward").mlp(s)[..., 0]
    target = ref.f64(batch["reward"][:, : 6 - WINDOW + 1]) + ref.f64(bonus.values)
    expected = 0.5 * ((ref.f64(behavioural) - target) ** 2).mean()
    assert_allclose(found.losses["reward"].detach(), expected, rtol=1e-5)
    expected = 0.5 * ((ref.f64(pure) - ref.f64(batch["reward"])) ** 2).mean()
    assert_allclose(found.losses["aux_reward"].detach(), expected, rtol=1e-5)


def test_beta_scales_the_bonus_only() -> None:
    large, small = (contextwm_agent(bonus={"scale": scale}) for scale in (1.0, 0.1))
    small.load_state_dict(large.state_dict())
    z = torch.randn(3, 6, 24)
    a, b = (agent.explorer.intrinsic(z) for agent in (large, small))
    assert a is not None
    assert b is not None
    assert_allclose(b.values, 0.1 * a.values, rtol=1e-6)
    assert torch.equal(a.metrics["intrinsic"], b.metrics["intrinsic"])


def untouched(agent: Agent) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that imagination has nothing to do with."""
    parts = ("encoder", "context_encoder", "decoder", "dynamics.action_free", "heads.aux_reward")
    for part in parts:
        yield from agent.world_model.get_submodule(part).named_parameters(prefix=part)


def test_imagination_touches_nothing_but_the_conditional_model() -> None:
    """Neither values nor gradients: its losses stay the same, to the bit, if all else is noise."""
    agent = contextwm_agent()
    model_phase, behavior_phase = agent.plan()
    update = Update(segments(length=6))
    model_phase.compute(update)

    def losses() -> list[Tensor]:
        torch.manual_seed(5)
        return [objective.loss for objective in behavior_phase.compute(update)]

    before = losses()
    parameters = [p for _, p in untouched(agent)]
    for loss in before:
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        assert all(grad is None for grad in grads)
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(torch.nan)
    assert all(torch.equal(a, b) for a, b in zip(before, losses(), strict=True))
    with torch.no_grad():
        agent.world_model.dynamics.conditional.img_dist.bias.add_(torch.randn(16))
    assert not torch.equal(before[0], losses()[0])


def test_acting_reads_no_context_and_no_decoder() -> None:
    agent = contextwm_agent()
    pixels, first = segments()["pixels"][:, 0], torch.ones(3, dtype=torch.bool)

    def action() -> Tensor:
        torch.manual_seed(5)
        return agent.act({"pixels": pixels}, first, None, mode="train", agent_steps=0)[0]

    before = action()
    with torch.no_grad():
        for part in ("context_encoder", "decoder", "heads"):
            for parameter in agent.world_model.get_submodule(part).parameters():
                parameter.fill_(torch.nan)
    assert torch.equal(before, action())


def moved(agent: Agent, before: dict[str, Tensor]) -> set[str]:
    """Components of the world model with a parameter that is no longer what it was."""
    named = dict(agent.world_model.named_parameters())
    changed = {name for name, p in named.items() if not torch.equal(p, before[name])}
    return {".".join(n.split(".")[: 2 if n.startswith("dynamics") else 1]) for n in changed}


def test_what_was_pre_trained_rests_for_a_while() -> None:
    """Its learning rate is 0, while moments and batch statistics move and all else learns."""
    agent = contextwm_agent()
    learner = contextwm_learner(agent, {"frozen_updates": 3, "weight_decay": 0.0})
    pretrained = {"encoder", "context_encoder", "dynamics.action_free"}
    before = {name: p.detach().clone() for name, p in agent.world_model.named_parameters()}
    running = agent.world_model.encoder.stages[0][0].norm1.running_mean.clone()
    for number in range(3):
        learner.update(segments(number, length=6))
    assert moved(agent, before) == {"dynamics.conditional", "decoder", "heads"}
    assert any((moment != 0).any() for moment in learner.optimizers["pretrained"].first)
    assert not torch.equal(running, agent.world_model.encoder.stages[0][0].norm1.running_mean)
    learner.update(segments(3, length=6))
    assert moved(agent, before) == {"dynamics.conditional", "decoder", "heads"} | pretrained


def test_decoupled_decay_goes_on_while_they_rest() -> None:
    """As in the original: w <- (1 - wd) w whatever the learning rate."""
    agent = contextwm_agent()
    learner = contextwm_learner(agent, {"frozen_updates": 2, "weight_decay": 1e-3})
    before = agent.world_model.encoder.stem.weight.detach().clone()
    learner.update(segments(0, length=6))
    assert_allclose(agent.world_model.encoder.stem.weight.detach(), before * (1 - 1e-3), rtol=1e-6)


def test_the_optimisers_clip_by_themselves() -> None:
    agent = contextwm_agent()
    metrics = contextwm_learner(agent).update(segments(length=6))
    assert {"pretrained_grad_norm", "model_grad_norm"} <= set(metrics)
    assert float(metrics["pretrained_grad_norm"]) != float(metrics["model_grad_norm"])
