"""A model-free agent in the manner of DrQ-v2: no dynamics, no decoder, no heads."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.distributions import UnitNormal
from wmplatform.factory import Factory
from wmplatform.interfaces import (
    ActionSpec,
    ArraySpec,
    Augmentation,
    Behavior,
    Explorer,
    Objective,
    Phase,
    Update,
)
from wmplatform.schedules import Schedule
from wmplatform.types import Batch, Distribution, Features, FeatureSpec, Mode
from wmplatform.world_model import WorldModel

from .kit import SPEC, Flat

GROUPS = {
    "encoder": ("world_model.encoder",),
    "critic": ("behavior.critic",),
    "actor": ("behavior.actor",),
}
STACK = 3


class Roll(Augmentation):
    """Moves each image by a pixel or not at all."""

    def forward(self, images: Tensor) -> Tensor:
        shift = torch.rand(len(images), device=images.device) < 0.5
        return torch.where(shift.view(-1, 1, 1, 1), images.roll(1, -1), images)


class NoisyMean(Explorer):
    """Adds noise of a scheduled scale to the policy's mean; the clock is agent steps."""

    def __init__(
        self, action: ActionSpec, views: Mapping[str, FeatureSpec], *, scale: float | str = 0.5
    ) -> None:
        super().__init__(action)
        self.scale = Schedule(scale)

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        if mode == "eval":
            return policy.mode
        noise = self.scale(agent_steps) * torch.randn_like(policy.mode)
        return (policy.mode + noise).clamp(-1, 1)


class TwinCritic(nn.Module):
    """Two values of a state and an action, `[2, B]`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(inputs, 1) for _ in range(2))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([features, action], -1)
        return torch.stack([head(x).squeeze(-1) for head in self.heads])


class TwinCriticActor(Behavior):
    """Critic and encoder learn together; then the actor, on the features of before."""

    def __init__(
        self,
        views: Mapping[str, FeatureSpec],
        action: ActionSpec,
        *,
        augmentation: Factory[Augmentation] | None = None,
        scale: float | str = 0.5,
        train_encoder: bool = True,
    ) -> None:
        super().__init__()
        spec = views["policy"]
        assert isinstance(spec, ArraySpec)
        self.actor = nn.Linear(spec.shape[0], action.size)
        self.critic = TwinCritic(spec.shape[0] + action.size)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.augmentation = augmentation() if augmentation else None
        self.scale, self.train_encoder = Schedule(scale), train_encoder

    def policy(self, features: Features) -> Distribution:
        return UnitNormal(self.actor(features).tanh(), event_dims=1)

    def plan(self, agent: Agent) -> Sequence[Phase]:
        return [
            Phase("critic", partial(self._critic, agent)),
            Phase("actor", self._actor, after=self._move_target),
        ]

    def _features(self, agent: Agent, batch: Batch) -> Features:
        model = agent.world_model
        seen = {"pixels": batch["pixels"]}
        if self.augmentation:
            seen = {"pixels": self.augmentation(seen["pixels"])}
        return model.dynamics.features(model.embed(seen), "policy")

    def _noisy(self, features: Features, update: Update) -> Tensor:
        mean = self.policy(features).mean
        noise = self.scale(update.agent_steps) * torch.randn_like(mean)
        return mean + noise.clamp(-0.3, 0.3)

    def _critic(self, agent: Agent, update: Update) -> Sequence[Objective]:
        batch = update.batch
        features = self._features(agent, batch)
        update.memory["features"] = features.detach()
        with torch.no_grad():
            following = self._features(agent, batch["next"])
            value = self.target(following, self._noisy(following, update)).min(0).values
            target = batch["reward"] + batch["discount"] * value
        loss = (self.critic(features, batch["action"]) - target).square().sum(0).mean()
        trains = ("world_model.encoder", "behavior.critic")
        return [Objective("critic", loss, trains if self.train_encoder else trains[1:])]

    def _actor(self, update: Update) -> Sequence[Objective]:
        features = update.memory["features"]
        value = self.critic(features, self._noisy(features, update)).min(0).values
        return [Objective("actor", -value.mean(), ("behavior.actor",))]

    @torch.no_grad()
    def _move_target(self, update: Update) -> None:
        targets, now = list(self.target.parameters()), list(self.critic.parameters())
        torch._foreach_lerp_(targets, now, 0.25)


def build(**behavior: Any) -> Agent:
    """The agent, three frames deep."""
    torch.manual_seed(0)
    return Agent(
        SPEC,
        world_model=partial(WorldModel, encoder=Flat),
        behavior=partial(TwinCriticActor, augmentation=Roll, **behavior),
        explorer=NoisyMean,
        frame_stack=STACK,
    )
