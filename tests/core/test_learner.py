"""Updates: what moves, in which order, and what happens where a gradient is not finite."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.interfaces import Imagined, Objective, Phase, Update
from wmplatform.training.learner import BadGroups, Learner
from wmplatform.training.optim import Adam
from wmplatform.world_model import WorldModel
from wmplugins.dreamer.decoders import ResNetDecoder
from wmplugins.dreamer.encoders import ResNetEncoder

from .tiny_dreamer import DISCRETE, SPEC, learner_of, model_parts, segments, tiny_agent

RESNETS = {"encoder": partial(ResNetEncoder, depth=2), "decoder": partial(ResNetDecoder, depth=2)}


def snapshot(agent: Agent) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in agent.state_dict().items()}


def changed(agent: Agent, before: dict[str, Tensor]) -> set[str]:
    """Names of parameters and buffers that differ, bit for bit."""
    return {k for k, v in agent.state_dict().items() if not torch.equal(v, before[k])}


def below(names: set[str], *prefixes: str) -> set[str]:
    return {n for n in names if n.startswith(prefixes)}


# What moves


def test_an_update_moves_every_trainable_parameter() -> None:
    agent = tiny_agent(model=RESNETS)
    learner, before = learner_of(agent), snapshot(agent)
    learner.update(segments())
    trainable = {k for k, p in agent.named_parameters() if p.requires_grad}
    assert trainable <= changed(agent, before)


@pytest.mark.parametrize("spec", [SPEC, DISCRETE])
def test_the_behavior_phase_leaves_the_world_model_alone(spec: Any) -> None:
    agent = tiny_agent(spec, model=RESNETS)
    learner = learner_of(agent)
    learner.update(segments(spec=spec))
    model, behavior = learner.plan
    update = Update(segments(1, spec=spec), updates=learner.updates)
    learner._run(model, update)
    before = snapshot(agent)
    learner._run(behavior, update)
    moved = changed(agent, before)
    assert moved == below(set(before), "behavior.actor.", "behavior.critic.")


def test_the_world_model_phase_leaves_the_behavior_alone() -> None:
    agent = tiny_agent(model=RESNETS)
    learner, before = learner_of(agent), snapshot(agent)
    learner._run(learner.plan[0], Update(segments()))
    moved = changed(agent, before)
    assert below(moved, "behavior.") == set()
    parameters = {k for k, _ in agent.world_model.named_parameters(prefix="world_model")}
    assert parameters <= moved


def test_no_gradient_is_left_behind() -> None:
    agent = tiny_agent()
    learner_of(agent).update(segments())
    assert all(p.grad is None for p in agent.parameters())
    slow = {k for k, p in agent.named_parameters() if not p.requires_grad}
    assert slow == {k for k, _ in agent.named_parameters() if "slow_critic" in k}


# Order


@contextmanager
def watched(agent: Agent, log: list[dict[str, Tensor]]) -> Iterator[list[Imagined]]:
    """Note the weights at every rollout."""
    dynamics, real = agent.world_model.dynamics, agent.world_model.dynamics.imagine
    rollouts: list[Imagined] = []

    def imagine(start: Any, *args: Any, **kwargs: Any) -> Imagined:
        log.append(snapshot(agent))
        starts.append(start)
        rollouts.append(real(start, *args, **kwargs))
        return rollouts[-1]

    starts: list[Any] = []
    dynamics.imagine = imagine
    yield starts
    del dynamics.imagine


def test_imagination_uses_the_stepped_model_from_states_of_before_the_step() -> None:
    agent = tiny_agent()
    learner, before = learner_of(agent), snapshot(agent)
    log: list[dict[str, Tensor]] = []
    with watched(agent, log) as starts:
        torch.manual_seed(5)
        learner.update(segments())
    after = snapshot(agent)
    (during,) = log
    for name in during:
        if name.startswith("world_model."):  # stepped before the rollout, and not again
            assert torch.equal(during[name], after[name]), name
            assert not torch.equal(during[name], before[name]), name
        else:  # actor and critics step after both of their losses
            assert torch.equal(during[name], before[name]), name
    other = tiny_agent()
    other.load_state_dict(before)
    torch.manual_seed(5)
    states = other.world_model.losses(segments()).observed.states
    for name, value in states.items():
        assert_allclose(starts[0][name], value.detach().flatten(0, 1), atol=1e-6)


def test_target_copies_come_after_the_critics_step() -> None:
    agent = tiny_agent(slow_target_every=3)
    learner = learner_of(agent)
    fast, slow = agent.behavior.critic, agent.behavior.slow_critic
    copied = []
    for number in range(1, 8):
        learner.update(segments(number))
        pairs = zip(fast.parameters(), slow.parameters(), strict=True)
        if all(torch.equal(a, b) for a, b in pairs):
            copied.append(number)
    assert copied == [3, 6]


def test_agent_steps_reach_the_schedules() -> None:
    """With an entropy scale of zero and of a half the actor's losses differ by the entropy."""
    losses = {}
    for steps in (0, 100):
        torch.manual_seed(3)
        agent = tiny_agent(entropy_scale="linear(0, 0.5, 100)")
        metrics = learner_of(agent).update(segments(), agent_steps=steps)
        losses[steps] = float(metrics["actor_loss"])
    assert losses[100] < losses[0] - 0.1


# One step, by hand


def test_a_step_is_clipped_adam_on_the_objectives_gradient() -> None:
    agent, twin = tiny_agent(), tiny_agent()
    twin.load_state_dict(agent.state_dict())
    learner = learner_of(agent, clip_norm=0.5, lr=1e-2, weight_decay=0.0, decay="adamw")
    torch.manual_seed(4)
    metrics = learner.update(segments())
    torch.manual_seed(4)
    total, _ = twin.world_model.balancer(twin.world_model.losses(segments()).losses)
    total.backward()
    parameters = list(twin.world_model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    torch.optim.Adam(parameters, lr=1e-2, eps=1e-5).step()
    assert_allclose(metrics["model_loss"], total.detach(), rtol=1e-5)
    assert_allclose(metrics["model_grad_norm"], norm, rtol=1e-4)
    mine = dict(agent.world_model.named_parameters())
    for name, p in twin.world_model.named_parameters():
        assert_allclose(mine[name].detach(), p.detach(), rtol=1e-4, atol=2e-5, err_msg=name)


def test_metrics_are_detached_scalars() -> None:
    metrics = learner_of(tiny_agent()).update(segments())
    assert {"image_loss", "kl_loss", "reward_loss", "actor_loss", "critic_loss"} <= set(metrics)
    for name, value in metrics.items():
        assert isinstance(value, Tensor), name
        assert value.shape == (), name
        assert not value.requires_grad, name


# Groups


def groups(**prefixes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return prefixes


def test_the_longest_prefix_wins() -> None:
    agent = tiny_agent()
    made = Learner(
        agent,
        groups=groups(
            encoder=("world_model.encoder",), model=("world_model",), behavior=("behavior",)
        ),
        optimizers=dict.fromkeys(("encoder", "model", "behavior"), Adam),
    )
    sizes = made.group_sizes()
    assert sizes["encoder"] == sum(p.numel() for p in agent.world_model.encoder.parameters())
    assert sum(sizes.values()) == sum(p.numel() for p in agent.parameters() if p.requires_grad)


def test_one_loss_may_step_two_groups_that_clip_by_themselves() -> None:
    """APV gives encoder and lower model an optimiser of their own, under the same loss."""
    agent = tiny_agent()
    optimizers = {
        "lower": partial(Adam, lr=0.1, frozen_updates=1),
        "upper": partial(Adam, lr=0.1),
        "actor": Adam,
        "critic": Adam,
    }
    learner = Learner(
        agent,
        groups=groups(
            lower=("world_model.encoder",),
            upper=("world_model",),
            actor=("behavior.actor",),
            critic=("behavior.critic",),
        ),
        optimizers={k: partial(v, weight_decay=0.0) for k, v in optimizers.items()},
    )
    before = snapshot(agent)
    metrics = learner.update(segments())
    assert below(changed(agent, before), "world_model.encoder") == set()
    assert below(changed(agent, before), "world_model.dynamics")
    assert metrics["lower_grad_norm"] != metrics["upper_grad_norm"]
    before = snapshot(agent)
    learner.update(segments())
    assert below(changed(agent, before), "world_model.encoder")


def test_what_is_frozen_stays_as_it_is_statistics_included() -> None:
    agent = tiny_agent(model=RESNETS)
    learner, before = learner_of(agent, frozen=("world_model.encoder",)), snapshot(agent)
    for seed in range(2):
        learner.update(segments(seed))
    moved = changed(agent, before)
    assert below(moved, "world_model.encoder") == set()
    assert below(moved, "world_model.dynamics")
    assert any("running_mean" in name for name in below(moved, "world_model.decoder"))
    assert learner.group_sizes()["model"] == sum(
        p.numel() for p in agent.world_model.parameters() if p.requires_grad
    )


def test_freezing_what_is_not_there_is_refused() -> None:
    with pytest.raises(BadGroups, match=r"names 'world_model\.encodr'"):
        learner_of(tiny_agent(), frozen=("world_model.encodr",))


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        ({"model": ("world_model",)}, "no optimiser group"),
        ({"all": ("world_model", "behavior"), "none": ("explorer",)}, "without a parameter"),
    ],
)
def test_groups_that_do_not_fit_are_explained(
    prefixes: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(BadGroups, match=message):
        Learner(tiny_agent(), groups=prefixes, optimizers=dict.fromkeys(prefixes, Adam))


def test_a_group_partly_below_an_objective_is_explained() -> None:
    prefixes = {"one": ("world_model", "behavior.actor"), "critic": ("behavior.critic",)}
    learner = Learner(tiny_agent(), groups=prefixes, optimizers=dict.fromkeys(prefixes, Adam))
    with pytest.raises(BadGroups, match="split the group"):
        learner.update(segments())


def test_a_joint_phase_sums_objectives_of_one_group() -> None:
    agent = Agent(SPEC, world_model=partial(WorldModel, **model_parts()))
    learner = Learner(agent, groups={"all": ("world_model",)}, optimizers={"all": Adam})
    real = learner.plan[0]

    def halves(update: Update) -> list[Objective]:
        (whole,) = real.compute(update)
        return [
            Objective("a", 0.25 * whole.loss, whole.trains),
            Objective("b", 0.75 * whole.loss, whole.trains),
        ]

    torch.manual_seed(2)
    split = learner._gradients(Phase("joint", halves).compute(Update(segments())))
    torch.manual_seed(2)
    whole = learner._gradients(real.compute(Update(segments())))
    for a, b in zip(split["all"], whole["all"], strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# State


def test_restoring_continues_bit_for_bit() -> None:
    def run(cut: int | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        agent = tiny_agent(model=RESNETS, slow_target_every=2)
        learner = learner_of(agent)
        for number in range(5):
            if number == cut:
                state, weights = learner.state_dict(), snapshot(agent)
                agent = tiny_agent(model=RESNETS, slow_target_every=2)
                agent.load_state_dict(weights)
                learner = learner_of(agent)
                learner.load_state_dict(state)
            torch.manual_seed(100 + number)
            learner.update(segments(number))
        return snapshot(agent)

    straight, resumed = run(None), run(3)
    assert all(torch.equal(v, resumed[k]) for k, v in straight.items())


def test_a_state_is_a_copy_or_may_be_saved_at_once() -> None:
    """What is saved after an update must not depend on updates that come later."""
    learner = learner_of(tiny_agent())
    learner.update(segments())
    saved = {k: v.clone() for k, v in learner.state_dict()["guard"].items()}
    kept = learner.state_dict()["guard"]
    learner.update(segments(1))
    assert all(torch.equal(v, kept[k]) for k, v in saved.items())


# Precision


def test_bf16_updates_stay_close_to_fp32() -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        learner = learner_of(tiny_agent(), precision=precision)
        torch.manual_seed(1)
        losses[precision] = learner.update(segments())
    for name in ("image_loss", "reward_loss", "critic_loss"):
        assert_allclose(losses["bf16"][name], losses["fp32"][name], rtol=0.05, atol=0.02)


def test_parameters_and_moments_stay_fp32_under_bf16() -> None:
    learner = learner_of(tiny_agent(), precision="bf16")
    metrics = learner.update(segments())
    tensors = [*learner.agent.parameters(), *metrics.values()]
    tensors += [m for o in learner.optimizers.values() for m in (*o.first, *o.second)]
    assert {t.dtype for t in tensors} == {torch.float32}
