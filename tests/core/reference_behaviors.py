"""Small healthy behaviors; the mutants are these with one thing broken."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.distributions import OneHot, TruncatedNormal
from wmplatform.interfaces import Behavior, Objective, Phase, Update
from wmplatform.types import ActionSpec, ArraySpec, Distribution, Features, FeatureSpec

__all__ = ["ActorCritic", "TargetCritic", "UntilTheEnd"]


class ActorCritic(Behavior):
    """Imagined rewards for the actor, their mean for the critic, and a slow critic.

    The returns are normalised by a running scale, so there is a buffer that changes.
    """

    needs_imagination = True
    horizon = 2

    def __init__(self, views: Mapping[str, FeatureSpec], action: ActionSpec) -> None:
        super().__init__()
        spec = views["policy"]
        assert isinstance(spec, ArraySpec)
        self.action = action
        self.actor = nn.Linear(spec.shape[0], action.size)
        self.critic = nn.Linear(spec.shape[0], 1)
        self.slow = nn.Linear(spec.shape[0], 1).requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    def policy(self, features: Features) -> Distribution:
        raw = self.actor(features)
        if self.action.kind == "discrete":
            return OneHot(raw)
        return TruncatedNormal(raw.tanh(), torch.full_like(raw, 0.5))

    def plan(self, agent: Agent) -> Sequence[Phase]:
        model = agent.world_model

        def compute(update: Update) -> Sequence[Objective]:
            start = model.dynamics.starts(update.memory["observed"])
            imagined = model.dynamics.imagine(
                start.states, start.carry, lambda f: self.policy(f).sample(), self.horizon
            )
            features = model.dynamics.features(imagined.states, "value")
            reward = model.predict("reward", imagined.states).mean
            self.scale.lerp_(reward.detach().abs().mean(), 0.1)
            value = self.critic(features.detach()).squeeze(-1)  # type: ignore[union-attr]
            target = (reward + self.slow(features).squeeze(-1)).detach()
            return self.objectives(reward / self.scale, (value - target).square().mean())

        def copy(update: Update) -> None:
            with torch.no_grad():
                for slow, fast in zip(
                    self.slow.parameters(), self.critic.parameters(), strict=True
                ):
                    slow.lerp_(fast, 0.5)

        return [model.phase(agent.explorer), Phase("behavior", compute, self.hook(agent, copy))]

    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        return [
            Objective("actor", -reward.mean(), ("behavior.actor",)),
            Objective("critic", critic_loss, ("behavior.critic",)),
        ]

    def hook(self, agent: Agent, copy: Any) -> Any:
        return copy


class UntilTheEnd(ActorCritic):
    """Imagined returns that a head of the model ends."""

    continue_head = "continue"
    horizon = 4

    def plan(self, agent: Agent) -> Sequence[Phase]:
        model = agent.world_model

        def compute(update: Update) -> Sequence[Objective]:
            states = self.imagined(agent, update)
            features = model.dynamics.features(states, "value")
            reward, going = model.predict("reward", states).mean, self.going(agent, states)
            returns = self.slow(features).squeeze(-1)[:, -1]
            steps = list(zip(reward.unbind(1), going.unbind(1), strict=True))
            for earned, goes_on in reversed(steps[:-1]):
                returns = earned + goes_on * returns
            value = self.critic(features[:, 0].detach()).squeeze(-1)  # type: ignore[index]
            return self.objectives(returns, (value - returns.detach()).square().mean())

        def copy(update: Update) -> None:
            with torch.no_grad():
                self.slow.load_state_dict(self.critic.state_dict())

        return [model.phase(agent.explorer), Phase("behavior", compute, copy)]

    def imagined(self, agent: Agent, update: Update) -> Any:
        dynamics = agent.world_model.dynamics
        start = dynamics.starts(update.memory["observed"])
        return dynamics.imagine(
            start.states, start.carry, lambda f: self.policy(f).sample(), self.horizon
        ).states

    def going(self, agent: Agent, states: Any) -> Tensor:
        return agent.world_model.predict("continue", states).mean


class TargetCritic(Behavior):
    """Learns from transitions: a critic of actions, its slow copy, an actor that climbs it."""

    def __init__(self, views: Mapping[str, FeatureSpec], action: ActionSpec) -> None:
        super().__init__()
        spec = views["policy"]
        assert isinstance(spec, ArraySpec)
        self.action = action
        self.actor = nn.Linear(spec.shape[0], action.size)
        self.critic = nn.Bilinear(spec.shape[0], action.size, 1)
        self.slow = nn.Bilinear(spec.shape[0], action.size, 1).requires_grad_(False)

    def policy(self, features: Features) -> Distribution:
        raw = self.actor(features)
        if self.action.kind == "discrete":
            return OneHot(raw)
        return TruncatedNormal(raw.tanh(), torch.full_like(raw, 0.5))

    def plan(self, agent: Agent) -> Sequence[Phase]:
        model = agent.world_model

        def read(batch: Any) -> Tensor:
            x = model.dynamics.features(model.embed(batch), "policy")
            assert isinstance(x, Tensor)
            return x

        def learn_critic(update: Update) -> Sequence[Objective]:
            batch, features = update.batch, read(update.batch)
            with torch.no_grad():
                later = read(batch["next"])
                value = self.slow(later, self.policy(later).sample()).squeeze(-1)
                target = self.target(batch, value)
            error = self.critic(features, batch["action"]).squeeze(-1) - target
            update.memory["features"] = features.detach()
            trains = ("world_model.encoder", "behavior.critic")
            return [Objective("critic", error.square().mean(), trains)]

        def learn_actor(update: Update) -> Sequence[Objective]:
            features = update.memory["features"]
            value = self.critic(features, self.policy(features).sample())
            return [Objective("actor", -value.mean(), ("behavior.actor",))]

        def follow(update: Update) -> None:
            with torch.no_grad():
                self.slow.load_state_dict(self.critic.state_dict())

        return [Phase("critic", learn_critic), Phase("actor", learn_actor, follow)]

    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"] + batch["discount"] * value

    @classmethod
    def contract_wiring(cls) -> dict[str, Any]:
        return {"data": "transitions"}
