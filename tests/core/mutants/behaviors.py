"""Behaviors that each break one law."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import Objective, Phase, Update
from wmplatform.types import ActionSpec, Distribution, Features, FeatureSpec

from ..reference_components import ActorCritic


class ActsOutOfRange(ActorCritic):
    def policy(self, features: Features) -> Distribution:
        return UnitNormal(self.actor(features) * 5, event_dims=1)


class MixesRows(ActorCritic):
    def policy(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        return super().policy(features - features.mean(0, keepdim=True))


class MixesFoldedRows(ActorCritic):
    def policy(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        return super().policy(features.cumsum(1) if features.dim() > 2 else features)


class MovesTheModel(ActorCritic):
    """A regulariser that writes weights while the losses are computed."""

    def plan(self, agent: Agent) -> Sequence[Phase]:
        first, second = super().plan(agent)

        def compute(update: Update) -> Sequence[Objective]:
            objectives = second.compute(update)
            with torch.no_grad():
                for parameter in agent.world_model.dynamics.parameters():
                    parameter.mul_(0.999)
            return objectives

        return [first, Phase(second.name, compute, second.after)]


class CopiesOntoTheActor(ActorCritic):
    """The hook moves a network that is trained, but not by this phase."""

    def hook(self, agent: Agent, copy: Any) -> Callable[[Update], None]:
        def move(update: Update) -> None:
            copy(update)
            with torch.no_grad():
                next(agent.world_model.encoder.parameters()).add_(1e-6)

        return move


class TrainsAMisspeltName(ActorCritic):
    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        actor, critic = super().objectives(reward, critic_loss)
        return [actor, Objective("critic", critic.loss, ("behavior.kritik",))]


class TrainsWhatItDoesNotReach(ActorCritic):
    """The critic's loss is said to train the actor."""

    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        return [
            Objective("actor", -reward.mean(), ("behavior.critic",)),
            Objective("critic", critic_loss, ("behavior.critic",)),
        ]


class LossesAreVectors(ActorCritic):
    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        actor, critic = super().objectives(reward, critic_loss)
        return [Objective("actor", -reward.mean(1), actor.trains), critic]


class ObjectivesShareAName(ActorCritic):
    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        actor, critic = super().objectives(reward, critic_loss)
        return [actor, Objective("actor", critic.loss, critic.trains)]


class DrawsFromNumPy(ActorCritic):
    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        return super().objectives(reward * np.random.default_rng().normal(), critic_loss)


class ReadsItsLoss(ActorCritic):
    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        self.last_loss = critic_loss.item()
        return super().objectives(reward, critic_loss)


class BranchesOnATensor(ActorCritic):
    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        return super().objectives(reward * 2 if reward.mean() > 100 else reward, critic_loss)


class CountsOnItself(ActorCritic):
    count = 0

    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        self.count += 1
        return super().objectives(reward / self.count, critic_loss)


class ScaleIsNoBuffer(ActorCritic):
    def __init__(self, views: Mapping[str, FeatureSpec], action: ActionSpec) -> None:
        super().__init__(views, action)
        del self._buffers["scale"]
        self.__dict__["scale"] = torch.ones(())


MUTANTS = {
    ActsOutOfRange: "law_1_policy_gives_valid_actions",
    MixesRows: "law_1_policy_rows_do_not_mix",
    MixesFoldedRows: "law_1_policy_folds_leading_dims",
    MovesTheModel: "law_2_only_the_named_parameters_move",
    CopiesOntoTheActor: "law_2_only_the_named_parameters_move",
    TrainsAMisspeltName: "law_2_objectives_are_well_formed",
    TrainsWhatItDoesNotReach: "law_2_objectives_are_well_formed",
    LossesAreVectors: "law_2_objectives_are_well_formed",
    ObjectivesShareAName: "law_2_objectives_are_well_formed",
    DrawsFromNumPy: "law_3_plan_is_deterministic",
    ReadsItsLoss: "law_3_plan_never_waits",
    BranchesOnATensor: "law_3_plan_never_waits",
    CountsOnItself: "law_4_state_is_checkpointed",
    ScaleIsNoBuffer: "law_4_state_is_checkpointed",
}
