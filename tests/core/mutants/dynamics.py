"""Latent dynamics that each break one law."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wmplatform.interfaces import Capabilities, Imagined, Observed, Starts
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Carry,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    tree_map,
)

from ..reference_dynamics import ClockedDynamics, RecurrentDynamics

Embeds = Mapping[str, Tensor]


# ---------------------------------------------------------------- actions


class ShiftsActionsLater(RecurrentDynamics):
    """The state of record t is reached by the action of record t - 1."""

    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, *a: Any, **k: Any
    ) -> Observed:
        late = torch.cat([torch.zeros_like(actions[:, :1]), actions[:, :-1]], 1)
        return super().observe(embeds, late, is_first, *a, **k)


class ShiftsActionsEarlier(RecurrentDynamics):
    """The action taken at record t is taken for the one that led into it."""

    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, *a: Any, **k: Any
    ) -> Observed:
        early = torch.cat([actions[:, 1:], torch.zeros_like(actions[:, :1])], 1)
        return super().observe(embeds, early, is_first, *a, **k)


class IgnoresActions(RecurrentDynamics):
    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        return super()._advance(carry, torch.zeros_like(action))


class UsesTheActionAtFirst(ClockedDynamics):
    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        return super().reset(is_first, carry, action)[0], action


class MultipliesTheActionAtFirst(ClockedDynamics):
    """Zero times NaN is NaN."""

    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        return super().reset(is_first, carry, action)[0], action * (~is_first)[:, None]


# ---------------------------------------------------------------- resets


class ResetsByMultiplication(ClockedDynamics):
    """Zero times NaN is NaN."""

    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        keep = (~is_first).float()[:, None]
        return tree_map(lambda x: x * keep, carry), super().reset(is_first, carry, action)[1]


class NeverResets(ClockedDynamics):
    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        return carry, super().reset(is_first, carry, action)[1]


class ResetsHalfOfTheCarry(ClockedDynamics):
    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        clean, action = super().reset(is_first, carry, action)
        return {**clean, "stoch": carry["stoch"]}, action


class ResetsAllRows(ClockedDynamics):
    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        every = is_first.any().expand_as(is_first)
        return super().reset(every, carry, action)[0], super().reset(is_first, carry, action)[1]


class ResetsAtRecordZeroOnly(RecurrentDynamics):
    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, *a: Any, **k: Any
    ) -> Observed:
        first = is_first.clone()
        first[:, 1:] = False
        return super().observe(embeds, actions, first, *a, **k)


class ResetsOneRecordLate(RecurrentDynamics):
    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, *a: Any, **k: Any
    ) -> Observed:
        return super().observe(embeds, actions, is_first.roll(1, 1), *a, **k)


class KeepsTheCarryAtRecordZero(RecurrentDynamics):
    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, carry: Any = None, **k: Any
    ) -> Observed:
        if carry is not None:
            is_first = is_first.index_fill(1, torch.tensor(0), False)
        return super().observe(embeds, actions, is_first, carry, **k)


# ---------------------------------------------------------------- steps, rows and time


class ForgetsItsCarry(RecurrentDynamics):
    def observe(self, *a: Any, **k: Any) -> Observed:
        observed = super().observe(*a, **k)
        observed.carry = self.initial(len(observed.carry["deter"]))
        return observed


class StepsDifferently(RecurrentDynamics):
    """Acting goes on from the prior's mean, training from the posterior."""

    def observe(self, *a: Any, **k: Any) -> Observed:
        observed = super().observe(*a, **k)
        observed.states["stoch"] = self.prior(observed.states["deter"])
        return observed


class MixesRows(RecurrentDynamics):
    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        deter = super()._advance(carry, action)
        return deter - deter.mean(0, keepdim=True)


class LeaksNaNIntoOtherRows(RecurrentDynamics):
    """Harmless numbers do not show it."""

    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        return super()._advance(carry, action) + 0 * action.sum()


class SeesTheFuture(RecurrentDynamics):
    def observe(self, embeds: Embeds, *a: Any, **k: Any) -> Observed:
        smooth = {n: x + x.flip(1).cumsum(1).flip(1) for n, x in embeds.items()}
        return super().observe(smooth, *a, **k)


class SeesTheNextReset(RecurrentDynamics):
    """Drops the last state of an episode because it knows that another one follows."""

    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, *a: Any, **k: Any
    ) -> Observed:
        observed = super().observe(embeds, actions, is_first, *a, **k)
        last = is_first.roll(-1, 1)[..., None]
        observed.states["deter"] = observed.states["deter"].masked_fill(last, 0.0)
        return observed


class SeesTheLastFrame(RecurrentDynamics):
    """The posterior of record t reads the embedding of record t - 1."""

    def observe(self, embeds: Embeds, *a: Any, **k: Any) -> Observed:
        return super().observe({n: x.roll(1, 1) for n, x in embeds.items()}, *a, **k)


class SelectsOtherRows(RecurrentDynamics):
    def select(self, carry: Carry, index: Tensor) -> Carry:
        return super().select(carry, index.flip(0))


# ---------------------------------------------------------------- imagination


class ImaginesFromTheStart(RecurrentDynamics):
    """Output 0 is the start itself."""

    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        imagined = super().imagine(start, carry, policy, horizon, **k)
        imagined.states = tree_map(
            lambda s, x: torch.cat([s.unsqueeze(1), x[:, :-1]], 1), start, imagined.states
        )
        return imagined


class ImaginesWithTheNextAction(RecurrentDynamics):
    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        if not isinstance(policy, Tensor):
            return super().imagine(start, carry, policy, horizon, **k)
        imagined = super().imagine(start, carry, policy.roll(-1, 1), horizon, **k)
        return replace(imagined, actions=policy)


class AsksThePolicyOnce(RecurrentDynamics):
    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        if not isinstance(policy, Tensor):
            action = policy(self.features(start, "policy"))
            policy = action[:, None].expand(-1, horizon, -1)
        return super().imagine(start, carry, policy, horizon, **k)


class ReportsActionsLate(RecurrentDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        imagined = super().imagine(*a, **k)
        return replace(imagined, actions=imagined.actions.roll(1, 1))


class ImaginesWithTheLastObservation(RecurrentDynamics):
    seen: Tensor | float = 0.0

    def observe(self, embeds: Embeds, *a: Any, **k: Any) -> Observed:
        self.seen = embeds[self.embed].detach().mean()
        return super().observe(embeds, *a, **k)

    def imagine(self, *a: Any, **k: Any) -> Imagined:
        imagined = super().imagine(*a, **k)
        imagined.states["stoch"] = imagined.states["stoch"] + self.seen
        return imagined


class ImaginesMixingRows(RecurrentDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        imagined = super().imagine(*a, **k)
        imagined.states["deter"] = imagined.states["deter"].cumsum(0)
        return imagined


class StartsAttached(RecurrentDynamics):
    def starts(self, observed: Observed) -> Starts:
        states = tree_map(lambda x: x.flatten(0, 1), observed.states)
        return Starts(states, states, super().starts(observed).rows)


class StartsTimeFirst(RecurrentDynamics):
    def starts(self, observed: Observed) -> Starts:
        states = tree_map(lambda x: x.detach().transpose(0, 1).flatten(0, 1), observed.states)
        return Starts(states, states, super().starts(observed).rows)


# ---------------------------------------------------------------- views, gradients, randomness


class LacksAView(RecurrentDynamics):
    @property
    def views(self) -> frozenset[str]:
        return frozenset({"policy", "reward", "decode"})


class DeclaresAnotherWidth(RecurrentDynamics):
    def feature_spec(self, view: str) -> FeatureSpec:
        return ArraySpec((self.deter,))


class FeaturesInHalf(RecurrentDynamics):
    def features(self, state: Latent, view: str) -> Features:
        features = super().features(state, view)
        assert isinstance(features, Tensor)
        return features.bfloat16()


class FeaturesNeedTime(RecurrentDynamics):
    def features(self, state: Latent, view: str) -> Features:
        features = super().features(state, view)
        assert isinstance(features, Tensor)
        return features - features.mean(-2, keepdim=True) if features.dim() > 2 else features


class NeverTrainsThePrior(RecurrentDynamics):
    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        gap = observed.states["mean"] - self.prior(observed.states["deter"]).detach()
        return {"kl": gap.square().mean()}, {}


class CutsTheEncoder(RecurrentDynamics):
    def observe(self, embeds: Embeds, *a: Any, **k: Any) -> Observed:
        return super().observe({n: x.detach() for n, x in embeds.items()}, *a, **k)


class LossForEachRow(RecurrentDynamics):
    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        gap = observed.states["mean"] - self.prior(observed.states["deter"])
        return {"kl": gap.square().mean((1, 2))}, {}


class LossWithoutItsName(RecurrentDynamics):
    loss_names = ("divergence",)


class MetricsAttached(RecurrentDynamics):
    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        losses, _ = super().losses(observed)
        return losses, dict(losses)


class CutsTheActions(RecurrentDynamics):
    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        policy = policy.detach() if isinstance(policy, Tensor) else policy
        return super().imagine(start, carry, policy, horizon, **k)


class CutsTheRollout(RecurrentDynamics):
    """Gradients reach the last action only."""

    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        return super()._advance(self.detach(carry), action)


class DeniesItsGradient(RecurrentDynamics):
    capabilities = Capabilities(differentiable_rollout=False)


class AlwaysSamples(RecurrentDynamics):
    def observe_step(self, *a: Any, **k: Any) -> tuple[Latent, Carry]:
        return super().observe_step(*a, **{**k, "deterministic": False})


class DrawsForNothing(RecurrentDynamics):
    def observe_step(self, *a: Any, **k: Any) -> tuple[Latent, Carry]:
        torch.randn(1)
        return super().observe_step(*a, **k)


class AlwaysSamplesInImagination(RecurrentDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        return super().imagine(*a, **{**k, "deterministic": False})


class CannotTakeOneHot(RecurrentDynamics):
    """Not a mutant: it refuses discrete actions when it is built, which is its right."""

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        if action.kind == "discrete":
            raise ValueError("continuous actions only")
        super().__init__(embeds, action)


MUTANTS = {
    ShiftsActionsLater: "law_1_action_leads_into_its_record",
    ShiftsActionsEarlier: "law_1_action_leads_into_its_record",
    IgnoresActions: "law_1_action_leads_into_its_record",
    UsesTheActionAtFirst: "law_1_action_ignored_at_first",
    MultipliesTheActionAtFirst: "law_1_action_ignored_at_first",
    ForgetsItsCarry: "law_2_observe_goes_on_from_its_carry",
    StepsDifferently: "law_2_observe_equals_steps",
    ResetsAtRecordZeroOnly: "law_3_reset_cuts_history",
    ResetsByMultiplication: "law_3_reset_cuts_history",
    ResetsHalfOfTheCarry: "law_3_reset_cuts_history",
    NeverResets: "law_3_reset_cuts_history",
    ResetsAllRows: "law_3_reset_is_for_its_row_only",
    ResetsOneRecordLate: "law_3_reset_cuts_history",
    KeepsTheCarryAtRecordZero: "law_3_carry_is_cut",
    ImaginesFromTheStart: "law_4_first_output_is_one_step_on",
    ImaginesWithTheNextAction: "law_4_first_output_is_one_step_on",
    AsksThePolicyOnce: "law_4_policy_reads_each_state",
    ReportsActionsLate: "law_4_policy_reads_each_state",
    ImaginesWithTheLastObservation: "law_4_imagination_sees_no_observation",
    StartsAttached: "law_4_starts_are_the_observed_states",
    StartsTimeFirst: "law_4_starts_are_the_observed_states",
    MixesRows: "law_5_rows_do_not_mix",
    LeaksNaNIntoOtherRows: "law_5_rows_do_not_mix",
    SelectsOtherRows: "law_5_select_takes_rows",
    ImaginesMixingRows: "law_5_imagined_rows_do_not_mix",
    SeesTheFuture: "law_6_causal",
    SeesTheNextReset: "law_6_causal",
    SeesTheLastFrame: "law_6_depends_on_embedding",
    LacksAView: "law_7_features_as_declared",
    DeclaresAnotherWidth: "law_7_features_as_declared",
    FeaturesInHalf: "law_7_features_as_declared",
    FeaturesNeedTime: "law_7_features_as_declared",
    NeverTrainsThePrior: "law_8_gradients_reach_parameters",
    CutsTheEncoder: "law_8_gradients_reach_parameters",
    LossForEachRow: "law_8_losses_are_scalars",
    LossWithoutItsName: "law_8_losses_are_scalars",
    MetricsAttached: "law_8_losses_are_scalars",
    CutsTheActions: "law_8_actions_get_gradients",
    CutsTheRollout: "law_8_actions_get_gradients",
    DeniesItsGradient: "law_8_actions_get_gradients",
    AlwaysSamples: "law_9_deterministic_draws_nothing",
    DrawsForNothing: "law_9_deterministic_draws_nothing",
    AlwaysSamplesInImagination: "law_9_deterministic_imagination_draws_nothing",
}
