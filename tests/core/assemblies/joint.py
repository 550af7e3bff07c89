"""One joint phase in the manner of DreamerV3, with learned loss weights (HarmonyDream)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.contracts.reference import RecurrentDynamics
from wmplatform.distributions import TruncatedNormal, UnitNormal
from wmplatform.interfaces import (
    ActionSpec,
    ArraySpec,
    Behavior,
    LossBalancer,
    Objective,
    Phase,
    RewardHead,
    Update,
)
from wmplatform.types import Batch, Distribution, Features, FeatureSpec, Metrics, Target, tree_map
from wmplatform.world_model import WorldModel

from .kit import SPEC, Flat, Plain

GROUPS = {
    "all": ("world_model", "behavior.actor", "behavior.critic"),
    "harmony": ("world_model.balancer",),
}


class Harmony(LossBalancer):
    """Learned scales: L exp(-s) + log(1 + exp(s)) for each loss (HarmonyDream eq. 6)."""

    def __init__(self, names: Sequence[str], *, plain: tuple[str, ...] = ()) -> None:
        super().__init__(names)
        self.log_scale = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in names if name not in plain}
        )

    def needed(self, name: str) -> bool:
        return True

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        terms = []
        for name, loss in losses.items():
            if name in self.log_scale:
                s = self.log_scale[name]
                loss = loss * torch.exp(-s) + nn.functional.softplus(s)
            terms.append(loss)
        return torch.stack(terms).sum(), {}


class NextReward(RewardHead):
    """The reward of the next record, from the state and the action that leads there."""

    timing = "transition"

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        sizes = [features[part].shape[0] for part in ("before", "action")]
        self.linear = nn.Linear(sum(sizes), 1)

    def forward(self, features: Features) -> Distribution:
        x = torch.cat([features["before"], features["action"]], -1)
        return UnitNormal(self.linear(x).squeeze(-1), event_dims=0)

    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"])


class DepartureReward(RewardHead):
    """The reward of the next record, from the state alone."""

    timing = "departure"

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        assert isinstance(features, ArraySpec)
        self.linear = nn.Linear(features.shape[0], 1)

    def forward(self, features: Features) -> Distribution:
        return UnitNormal(self.linear(features).squeeze(-1), event_dims=0)

    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"])


class Joint(Behavior):
    """World model, actor, critic and replayed values in one loss; the slow critic moves after."""

    needs_imagination = True
    horizon = 3

    def __init__(
        self, views: Mapping[str, FeatureSpec], action: ActionSpec, *, stored: bool = False
    ) -> None:
        super().__init__()
        spec = views["policy"]
        assert isinstance(spec, ArraySpec)
        self.actor, self.critic = nn.Linear(spec.shape[0], action.size), nn.Linear(*spec.shape, 1)
        self.slow = copy.deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("range", torch.ones(()))
        self.range: Tensor
        self.stored = stored

    def policy(self, features: Features) -> Distribution:
        mean = self.actor(features).tanh()
        return TruncatedNormal(mean, torch.full_like(mean, 0.5))

    def plan(self, agent: Agent) -> Sequence[Phase]:
        return [Phase("joint", partial(self._losses, agent), after=self._move_slow)]

    def _losses(self, agent: Agent, update: Update) -> Sequence[Objective]:
        if self.stored:  # the first record only lends the state that replay kept with it
            batch, names = update.batch, ("deter", "stoch")
            update.memory["carry"] = {name: batch[f"kept_{name}"][:, 0] for name in names}
            update = replace(update, batch=batch[:, 1:])
        (model,) = agent.world_model.phase(agent.explorer).compute(update)
        dynamics, observed = agent.world_model.dynamics, update.memory["observed"]
        start = dynamics.starts(observed)
        imagined = dynamics.imagine(
            start.states, start.carry, lambda f: self.policy(f.detach()).sample(), self.horizon
        )
        states = tree_map(lambda a, b: torch.cat([a[:, None], b], 1), start.states, imagined.states)
        actor, critic = self._imagined(agent, states, imagined.actions)
        update.metrics["critic_replay"] = (replayed := self._replayed(agent, update)).detach()
        total = model.loss + actor + critic + 0.3 * replayed
        trains = (*model.trains, "behavior.actor", "behavior.critic")
        return [Objective("joint", total, trains)]

    def _imagined(self, agent: Agent, states: Any, actions: Tensor) -> tuple[Tensor, Tensor]:
        features = agent.world_model.dynamics.features(states, "value").detach()
        with torch.no_grad():
            # Prediction i is what the step from state i to state i + 1 brings.
            reward = agent.world_model.predict("reward", states, actions).mean[:, : self.horizon]
            value = self.critic(features).squeeze(-1)
            returns = reward + 0.99 * value[:, 1:]
            self.range.lerp_(returns.abs().amax(), 0.01)
            advantage = (returns - value[:, :-1]) / self.range.clamp_min(1.0)
        log_prob = self.policy(features[:, :-1]).log_prob(actions.detach())
        predicted = self.critic(features[:, :-1]).squeeze(-1)
        return -(log_prob * advantage).mean(), (predicted - returns).square().mean()

    def _replayed(self, agent: Agent, update: Update) -> Tensor:
        """Value loss on real records; shapes the representation."""
        observed = update.memory["observed"]
        value = self.critic(agent.world_model.dynamics.features(observed.states, "value"))
        value, reward = value.squeeze(-1), update.batch["reward"][:, observed.records]
        return (value[:, :-1] - (reward[:, 1:] + 0.99 * value[:, 1:].detach())).square().mean()

    @torch.no_grad()
    def _move_slow(self, update: Update) -> None:
        torch._foreach_lerp_(list(self.slow.parameters()), list(self.critic.parameters()), 0.02)


def build(reward: Any = NextReward, **behavior: Any) -> Agent:
    """The agent."""
    torch.manual_seed(0)
    parts = {"encoder": Flat, "dynamics": RecurrentDynamics, "heads": {"reward": reward}}
    return Agent(
        SPEC,
        world_model=partial(WorldModel, balancer=Harmony, **parts),
        behavior=partial(Joint, **behavior),
        explorer=Plain,
    )
