"""Skipped updates: what comes back, which phases stand, and what goes on."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts import reference
from wmplatform.interfaces import ActionSpec, Objective, Phase, Update
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam

from .reference_behaviors import ActorCritic
from .test_learner import RESNETS, below, changed, snapshot
from .tiny_dreamer import learner_of, segments, tiny_agent


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    agent = tiny_agent(model=RESNETS, slow_target_every=1)
    learner = learner_of(agent)
    learner.update(segments())
    before = snapshot(agent)
    broken = segments(1)
    broken["reward"][0, 1] = bad
    learner.update(broken)
    assert changed(agent, before) == set()
    assert float(learner.bad_updates) == 1
    assert float(learner.bad_streak) == 1
    learner.update(segments(2))
    assert float(learner.bad_updates) == 1
    assert float(learner.bad_streak) == 0
    trainable = {k for k, p in agent.named_parameters() if p.requires_grad}
    assert trainable <= changed(agent, before)


class Restless(ActorCritic):
    """Changes buffers of all kinds while it computes its losses, and in its hook."""

    def __init__(self, views: Any, action: ActionSpec) -> None:
        super().__init__(views, action)
        image = torch.rand(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
        buffers = {
            "image": image,
            "column": torch.rand(3, 2)[:, 0],
            "short": torch.ones(2, dtype=torch.bfloat16),
            "empty": torch.ones(0),
            "count": torch.zeros((), dtype=torch.int64),
            "flag": torch.zeros(2, dtype=torch.bool),
            "assigned": torch.ones(2),
            "hooked": torch.ones(2),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.register_buffer("quiet", torch.ones(()), persistent=False)
        self.register_buffer("constant", torch.ones(1).expand(3))
        self.changing = {*buffers, "quiet"} - {"empty"}

    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        mean = reward.detach().mean()
        for buffer in (self.image, self.column, self.short, self.quiet):
            buffer.lerp_(mean.to(buffer).expand_as(buffer), 0.5)
        self.count.add_(1)
        self.flag.logical_not_()
        scaled = reward * self.assigned  # the backward pass reads the values of before
        self.assigned = 0.5 * self.assigned + reward.mean()
        return super().objectives(scaled, critic_loss)

    def hook(self, agent: Agent, copy: Any) -> Any:
        def move(update: Update) -> None:
            copy(update)
            self.hooked = self.hooked * 2

        return move


def restless() -> tuple[Agent, Learner]:
    torch.manual_seed(0)
    agent = reference.make_agent(Restless, ActionSpec(2))
    prefixes = {
        "model": ("world_model",),
        "actor": ("behavior.actor",),
        "critic": ("behavior.critic",),
    }
    return agent, Learner(agent, groups=prefixes, optimizers=dict.fromkeys(prefixes, Adam))


def test_a_skipped_update_puts_buffers_of_all_kinds_back() -> None:
    agent, learner = restless()
    buffers = dict(agent.behavior.named_buffers())
    for number in range(2):
        before = copy.deepcopy(buffers)
        learner.update(reference.draw_records(agent.spec, number))
        moved = {name for name, x in buffers.items() if not torch.equal(x, before[name])}
        assert moved == agent.behavior.changing | {"scale"}

        before, weights = copy.deepcopy(buffers), snapshot(agent)
        broken = reference.draw_records(agent.spec, number)
        broken["action"][0] = torch.nan
        learner.update(broken)
        assert all(torch.equal(x, before[name]) for name, x in buffers.items())
        assert changed(agent, weights) == set()
        # What was assigned lies in the same memory as ever, where a captured graph looks for it.
        assert all(x is buffers[name] for name, x in agent.behavior.named_buffers())
    assert learner.bad_updates == 2


def test_assigned_buffers_reach_their_memory_within_the_phase() -> None:
    """So that this is part of a captured graph."""
    agent, learner = restless()
    before, update = agent.behavior.assigned, Update(reference.draw_records(agent.spec, 0))
    for phase in learner.plan:
        learner._run(phase, update)
    assert agent.behavior.assigned is before
    assert not torch.equal(before, torch.ones(2))


def test_a_bad_phase_ends_the_update_and_earlier_phases_stand() -> None:
    agent, learner = restless()
    model, behavior = learner.plan
    actor = agent.behavior.actor.weight

    def compute(update: Update) -> Sequence[Objective]:
        return [Objective("bad", actor.sum() * torch.nan, ("behavior.actor",))]

    def mark(update: Update) -> None:
        agent.behavior.hooked.fill_(-1.0)

    learner.plan = [replace(model, after=mark), Phase("bad", compute, mark), behavior]
    before = snapshot(agent)
    learner.update(reference.draw_records(agent.spec, 0))
    moved = changed(agent, before)
    assert moved == {k for k, _ in agent.named_parameters() if k.startswith("world_model.")}
    learner.plan = [model, behavior]
    learner.update(reference.draw_records(agent.spec, 0))
    assert below(changed(agent, before), "behavior.actor", "behavior.slow", "behavior.count")


def test_clocks_go_on_while_updates_are_skipped() -> None:
    agent = tiny_agent(slow_target_every=2)
    learner = learner_of(agent, lr="linear(1e-3, 0, 10)")
    fast, slow = agent.behavior.critic, agent.behavior.slow_critic
    copied = []
    for number in range(6):
        batch = segments(number)
        if number == 3:
            batch["reward"][0] = torch.nan
        learner.update(batch)
        assert learner.optimizers["model"]._rate == pytest.approx(1e-3 * (1 - number / 10))
        pairs = zip(fast.parameters(), slow.parameters(), strict=True)
        copied += [number] if all(torch.equal(a, b) for a, b in pairs) else []
    assert learner.updates == 6
    assert copied == [1, 5]
