"""Behaviors that each break one law."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import Objective, Phase, Update
from wmplatform.types import ActionSpec, Distribution, Features, FeatureSpec

from ..reference_behaviors import ActorCritic, TargetCritic, UntilTheEnd


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


class HasAGammaOfItsOwn(TargetCritic):
    """A termination's discount of 0 is not looked at."""

    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"] + 0.97 * value


class KeepsALittleBootstrap(TargetCritic):
    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"] + batch["discount"].clamp_min(0.01) * value


class TakesTheDiscountForAFlag(TargetCritic):
    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"] + 0.97 * (batch["discount"] > 0) * value


class AveragesTheDiscount(TargetCritic):
    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"] + batch["discount"].mean() * value


class RewardsAnotherRow(TargetCritic):
    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"].roll(1) + batch["discount"] * value


class BootstrapsFromAnotherRow(TargetCritic):
    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"] + batch["discount"] * value.flip(0)


class DiscountsAnotherRow(TargetCritic):
    def target(self, batch: Any, value: Tensor) -> Tensor:
        return batch["reward"] + batch["discount"].roll(1) * value


class ImaginesPastTheEnd(UntilTheEnd):
    """The head is read and its answer forgotten."""

    def going(self, agent: Agent, states: Any) -> Tensor:
        return torch.full_like(super().going(agent, states), 0.99)


class NeverAsksWhetherItEnds(UntilTheEnd):
    def going(self, agent: Agent, states: Any) -> Tensor:
        return torch.full_like(agent.world_model.predict("reward", states).mean, 0.99)


class EndsTooLate(UntilTheEnd):
    """Each state is cut off by the head's answer two states before."""

    def going(self, agent: Agent, states: Any) -> Tensor:
        going = super().going(agent, states).roll(2, 1)
        return torch.cat([torch.ones_like(going[:, :2]), going[:, 2:]], 1)


class ReadsAHeadInSecret(UntilTheEnd):
    continue_head = ""


class ImaginesInTrainMode(UntilTheEnd):
    """Dropout and batch statistics are on while it imagines."""

    def imagined(self, agent: Agent, update: Update) -> Any:
        agent.world_model.train()
        states = super().imagined(agent, update)
        agent.world_model.eval()
        return states


class PredictsInTrainMode(UntilTheEnd):
    def going(self, agent: Agent, states: Any) -> Tensor:
        head = agent.world_model.head("continue").train()
        going = super().going(agent, states)
        head.eval()
        return going


class LeavesTheModelInTrainMode(ActorCritic):
    def hook(self, agent: Agent, copy: Any) -> Any:
        def after(update: Update) -> None:
            copy(update)
            agent.world_model.train()

        return after


class LeavesItselfInTrainMode(ActorCritic):
    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        self.critic.train()
        return super().objectives(reward, critic_loss)


class TargetsInTrainMode(TargetCritic):
    """The encoder is not trained by the actor's phase, and yet in train mode there."""

    def plan(self, agent: Agent) -> Sequence[Phase]:
        critic, actor = super().plan(agent)

        def compute(update: Update) -> Sequence[Objective]:
            encoder = agent.world_model.encoder.train()
            with torch.no_grad():
                agent.world_model.embed(update.batch)
            encoder.eval()
            return actor.compute(update)

        return [critic, Phase(actor.name, compute, actor.after)]


class DropsOutWhileActing(ActorCritic):
    def policy(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        return super().policy(torch.nn.functional.dropout(features, 0.2, training=True))


class JittersTheMode(ActorCritic):
    """Too little to see, but every run is another one."""

    def policy(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        return super().policy(features + 1e-7 * torch.randn_like(features))


class RemembersNaN(ActorCritic):
    """Trusts no reward any more, once one was NaN; on finite ones nothing ever changes."""

    def __init__(self, views: Mapping[str, FeatureSpec], action: ActionSpec) -> None:
        super().__init__(views, action)
        self.__dict__["trust"] = torch.ones(())

    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        self.trust = self.trust * reward.detach().isfinite().all()
        return super().objectives(reward * self.trust, critic_loss)


class KeepsReturnsInAList(ActorCritic):
    """Normalises by what it has seen, NaN included, in a Python attribute."""

    def __init__(self, views: Mapping[str, FeatureSpec], action: ActionSpec) -> None:
        super().__init__(views, action)
        self.seen: list[Tensor] = []

    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        self.seen.append(reward.detach().abs().mean())
        return super().objectives(reward / torch.stack(self.seen).mean(), critic_loss)


class ReplacesItsTarget(ActorCritic):
    """The hook makes a new target network, which nobody knows how to put back."""

    def hook(self, agent: Agent, copy: Any) -> Callable[[Update], None]:
        def move(update: Update) -> None:
            copy(update)
            self.slow = deepcopy(self.slow)
            with torch.no_grad():
                self.slow.weight.mul_(0.99)

        return move


class HookShrinksTheActor(ActorCritic):
    """Decay outside of the optimiser, which skipped updates do not stop."""

    def hook(self, agent: Agent, copy: Any) -> Callable[[Update], None]:
        def move(update: Update) -> None:
            copy(update)
            with torch.no_grad():
                self.actor.weight.mul_(0.99)

        return move


class BufferGrows(ActorCritic):
    def __init__(self, views: Mapping[str, FeatureSpec], action: ActionSpec) -> None:
        super().__init__(views, action)
        self.register_buffer("seen", torch.ones(1))
        self.seen: Tensor

    def objectives(self, reward: Tensor, critic_loss: Tensor) -> Sequence[Objective]:
        self.seen = torch.cat([self.seen, reward.detach().mean().reshape(1)])
        return super().objectives(reward, critic_loss)


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
    HasAGammaOfItsOwn: "law_5_transitions_end_where_discount_is_zero",
    KeepsALittleBootstrap: "law_5_transitions_end_where_discount_is_zero",
    TakesTheDiscountForAFlag: "law_5_transitions_end_where_discount_is_zero",
    AveragesTheDiscount: "law_5_transitions_end_where_discount_is_zero",
    ImaginesPastTheEnd: "law_5_imagination_ends_where_the_head_says",
    NeverAsksWhetherItEnds: "law_5_imagination_ends_where_the_head_says",
    EndsTooLate: "law_5_imagination_ends_where_the_head_says",
    ReadsAHeadInSecret: "law_5_imagination_ends_where_the_head_says",
    RewardsAnotherRow: "law_6_rows_of_transitions_belong_together",
    BootstrapsFromAnotherRow: "law_6_rows_of_transitions_belong_together",
    DiscountsAnotherRow: "law_6_rows_of_transitions_belong_together",
    ImaginesInTrainMode: "law_7_what_is_only_read_is_in_eval_mode",
    PredictsInTrainMode: "law_7_what_is_only_read_is_in_eval_mode",
    LeavesTheModelInTrainMode: "law_7_what_is_only_read_is_in_eval_mode",
    LeavesItselfInTrainMode: "law_7_what_is_only_read_is_in_eval_mode",
    TargetsInTrainMode: "law_7_what_is_only_read_is_in_eval_mode",
    DropsOutWhileActing: "law_1_policy_gives_valid_actions",
    JittersTheMode: "law_1_policy_gives_valid_actions",
    RemembersNaN: "law_8_skipped_updates_leave_no_trace",
    KeepsReturnsInAList: "law_8_skipped_updates_leave_no_trace",
    ReplacesItsTarget: "law_8_skipped_updates_leave_no_trace",
    HookShrinksTheActor: "law_8_skipped_updates_leave_no_trace",
    BufferGrows: "law_8_skipped_updates_leave_no_trace",
}
