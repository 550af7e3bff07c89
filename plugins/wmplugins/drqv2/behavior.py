"""DrQ-v2's learning rule: twin critic, deterministic actor, n-step targets, augmented images.

Shape letters: B batch, F features, A action.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.factory import Factory
from wmplatform.interfaces import Augmentation, Behavior, Objective, Phase, Update
from wmplatform.schedules import Schedule
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Batch,
    Distribution,
    Features,
    FeatureSpec,
    tree_map,
)
from wmplatform.world_model import IncompatibleParts
from wmplugins.blocks import NoisyMean, follow
from wmplugins.drqv2.nets import Actor, TwinCritic

__all__ = ["DrQActorCritic"]


class DrQActorCritic(Behavior):
    """Learns from n-step transitions of stacked frames; there is no world-model phase.

    Plan: the critic with the encoder, then the actor, then the slow critic follows. The actor reads
    the features of before the encoder's step, but the critic of after its own. Targets come from
    the online encoder and the online actor; only the critic has a slow copy.
    """

    def __init__(
        self,
        views: Mapping[str, FeatureSpec],
        action: ActionSpec,
        *,
        features: Annotated[int, Ge(1)] = 50,
        units: Annotated[int, Ge(1)] = 1024,
        std: float | str = "linear(1.0, 0.1, 100000)",
        clip: Annotated[float, Gt(0.0)] = 0.3,
        slow_fraction: Annotated[float, Interval(gt=0.0, le=1.0)] = 0.01,
        divide_by: Annotated[float, Gt(0.0)] = 1.0,
        augmentation: Factory[Augmentation] | None = None,
    ) -> None:
        """Build actor, critic and slow critic.

        Args:
            views: of the dynamics; actor and critic read `policy`.
            action: continuous.
            features: width of the two trunks.
            units: of the hidden layers.
            std: of the noise in targets and in the actor's loss, a schedule over agent steps; that
                of the explorer.
            clip: largest noise there.
            slow_fraction: by which the slow critic follows.
            divide_by: rewards are divided by this in targets; DrQ-v2 has tasks of up to 1 a frame.
            augmentation: of images, drawn for each observation of a transition by itself.
        """
        super().__init__()
        view = views["policy"]
        if not isinstance(view, ArraySpec) or len(view.shape) != 1:
            raise ValueError("behaviors.drq reads the view 'policy' as one vector")
        if action.kind != "continuous":
            raise ValueError("behaviors.drq takes continuous actions, these are discrete")
        sizes = {"features": features, "units": units}
        self.actor = Actor(view.shape[0], action.size, **sizes)
        self.critic = TwinCritic(view.shape[0], action.size, **sizes)
        self.slow_critic = TwinCritic(view.shape[0], action.size, **sizes).requires_grad_(False)
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.std, self.clip, self.slow_fraction = Schedule(std), clip, slow_fraction
        self.divide_by = divide_by
        self.augmentation = augmentation() if augmentation else None

    @property
    def capturable(self) -> bool:
        """Whether the noise is constant."""
        return self.std.constant

    def policy(self, features: Features) -> Distribution:
        """Distribution over actions; its noise is that at the end of the schedule."""
        assert isinstance(features, Tensor)
        return NoisyMean(self._mean(features), self.std(math.inf))

    def plan(self, agent: Agent) -> Sequence[Phase]:
        """Critic and encoder, then the actor, then the slow copy.

        Raises:
            IncompatibleParts: the dynamics has a memory, of which transitions hold nothing.
        """
        memory: list[Tensor] = []
        tree_map(memory.append, agent.world_model.dynamics.initial(1, agent.device))
        if memory:
            raise IncompatibleParts(
                f"{type(self).__name__} learns from transitions, but "
                f"{type(agent.world_model.dynamics).__name__} remembers what came before them",
                hint="leave WorldModel.dynamics out",
            )
        return [
            Phase("critic", partial(self._learn_critic, agent)),
            Phase("actor", self._learn_actor, after=self._follow),
        ]

    def critic_loss(self, values: Tensor, target: Tensor) -> Tensor:
        """Squared errors of `[2, B]`, mean over B, summed over heads (DrQ-v2 section 3.1)."""
        return (values - target).square().mean(-1).sum()

    def target(self, reward: Tensor, discount: Tensor, slow: Tensor) -> Tensor:
        """N-step target `[B]` from slow values `[2, B]` (DrQ-v2 section 3.1)."""
        return reward + discount * slow.amin(0)

    def actor_loss(self, values: Tensor) -> Tensor:
        """Minus the smaller value, from `[2, B]`, mean over B (DrQ-v2 section 3.1)."""
        return -values.amin(0).mean()

    def _learn_critic(self, agent: Agent, update: Update) -> Sequence[Objective]:
        batch = update.batch
        with torch.no_grad():
            following = self._observe(agent, batch["next"])
            action = self._act(following, update)
            slow = self._values(self.slow_critic, following, action)
            target = self.target(batch["reward"] / self.divide_by, batch["discount"], slow)
        features = self._observe(agent, batch)
        values = self._values(self.critic, features, batch["action"])
        update.memory["features"] = features.detach()
        update.metrics |= {
            "value": values.detach().mean(),
            "target_value": target.mean(),
            "batch_reward": batch["reward"].mean(),
        }
        loss = self.critic_loss(values, target)
        return [Objective("critic", loss, ("world_model.encoder", "behavior.critic"))]

    def _learn_actor(self, update: Update) -> Sequence[Objective]:
        features = update.memory["features"]
        values = self._values(self.critic, features, self._act(features, update))
        return [Objective("actor", self.actor_loss(values), ("behavior.actor",))]

    def _follow(self, update: Update) -> None:
        del update
        follow(self.slow_critic, self.critic, self.slow_fraction)

    def _observe(self, agent: Agent, batch: Batch) -> Tensor:
        """Features `[B, F]` of augmented observations, as the acting path would see them."""
        model = agent.world_model
        seen = {key: self._augmented(batch[key]) for key in model.spec.observations}
        embeds = model.embed(seen)
        rows = len(next(iter(embeds.values())))
        first = torch.ones(rows, dtype=torch.bool, device=agent.device)
        carry = model.dynamics.initial(rows, agent.device)
        state, _ = model.dynamics.observe_step(embeds, None, first, carry, deterministic=True)
        features = model.dynamics.features(state, "policy")
        assert isinstance(features, Tensor)
        return features

    def _augmented(self, observation: Tensor) -> Tensor:
        """Augment images, which are bytes."""
        if self.augmentation is None or observation.dtype != torch.uint8:
            return observation
        changed: Tensor = self.augmentation(observation)
        return changed

    def _act(self, features: Tensor, update: Update) -> Tensor:
        std = self.std(update.agent_steps)
        return NoisyMean(self._mean(features), std).sample(self.clip)

    def _mean(self, features: Tensor) -> Tensor:
        """Mean action, out of autocast."""
        with torch.autocast(features.device.type, enabled=False):
            mean: Tensor = self.actor(features.float())
        return mean

    def _values(self, critic: TwinCritic, features: Tensor, action: Tensor) -> Tensor:
        """Both values `[2, B]`, out of autocast."""
        with torch.autocast(features.device.type, enabled=False):
            values: Tensor = critic(features.float(), action)
        return values

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"features": 4, "units": 8}

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Transitions for the contract checks."""
        return {"data": "transitions"}
