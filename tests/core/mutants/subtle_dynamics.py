"""Latent dynamics with faults that show at some rows, records, steps, sizes or modes only."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wmplatform.interfaces import Imagined, Observed
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Carry,
    Context,
    Features,
    Latent,
    select_where,
    tree_map,
)
from wmplugins.apv.dynamics import StackedRSSM

from ..reference_dynamics import (
    BranchedDynamics,
    ClockedDynamics,
    ContextualDynamics,
    RecurrentDynamics,
    WindowDynamics,
)

Embeds = Mapping[str, Tensor]
Specs = Mapping[str, ArraySpec]


def odd(rows: int) -> Tensor:
    """Mask of the odd rows, bool `[rows, 1]`."""
    return (torch.arange(rows) % 2 == 1).unsqueeze(1)


# ---------------------------------------------------------------- actions


class DropsTheFirstTransition(ClockedDynamics):
    """The action into the record after an episode's start is lost."""

    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        carry, action = super().reset(is_first, carry, action)
        return carry, action.masked_fill(carry["age"] == 1, 0.0)


class DropsTheActionAfterAResetInside(RecurrentDynamics):
    """So does a mask that was shifted and joined, in `observe` only."""

    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, *a: Any, **k: Any
    ) -> Observed:
        after = torch.cat([torch.zeros_like(is_first[:, :2]), is_first[:, 1:-1]], 1)
        return super().observe(embeds, actions.masked_fill(after[..., None], 0), is_first, *a, **k)


class OneBranchDropsTheFirstTransition(BranchedDynamics):
    def __init__(self, embeds: Specs, action: ActionSpec) -> None:
        super().__init__(embeds, action)
        self.ctrl = DropsTheFirstTransition(embeds, action, embed="ctrl")


class ShiftsActionsOfOddRows(ClockedDynamics):
    """They arrive one record late, in `observe` and while acting."""

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        late = torch.zeros(batch, self.cell.in_features - self.deter - self.stoch, device=device)
        return {**super().initial(batch, device), "late": late}

    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        carry, self.now = super().reset(is_first, carry, action)
        return carry, torch.where(odd(len(action)), carry["late"], self.now)

    def _state(self, carry: Carry, *a: Any) -> Latent:
        return {**super()._state(carry, *a), "late": self.now}

    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        self.now = carry["late"]
        return super().imagine(start, carry, policy, horizon, **k)


class DeafInTheLastRow(RecurrentDynamics):
    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        last = torch.arange(len(action)) == len(action) - 1
        return super()._advance(carry, action.masked_fill(last[:, None], 0.0))


class WindowDeafInOddRows(WindowDynamics):
    def observe_step(
        self, embeds: Embeds, action: Any, is_first: Tensor, carry: Carry, **k: Any
    ) -> tuple[Latent, Carry]:
        action = action.masked_fill(odd(len(action)), 0.0)
        return super().observe_step(embeds, action, is_first, carry, **k)


class DeafWhileTraining(RecurrentDynamics):
    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        return super()._advance(carry, action * (not self.training))


# ---------------------------------------------------------------- resets


class ResetsEvenRowsOnly(ClockedDynamics):
    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        cut, action = super().reset(is_first, carry, action)
        return select_where(odd(len(action))[:, 0], carry, cut), action


class ResetsTheFirstRowOnly(ClockedDynamics):
    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        cut, action = super().reset(is_first, carry, action)
        return select_where(torch.arange(len(action)) > 0, carry, cut), action


class ResetsWhileActingOnly(ClockedDynamics):
    """As a mask would that somebody forgot in the branch for training."""

    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        cut, action = super().reset(is_first, carry, action)
        return (carry if self.training else cut), action


# ---------------------------------------------------------------- views and embeddings


class ValuesTheFreeBranch(BranchedDynamics):
    def features(self, state: Latent, view: str) -> Features:
        return (
            self.free.features(state["free"], view)
            if view == "value"
            else super().features(state, view)
        )


class CriticReadsTheClock(ClockedDynamics):
    def features(self, state: Latent, view: str) -> Features:
        if view != "value":
            return super().features(state, view)
        age: Tensor = state["age"]
        return age.expand(*age.shape[:-1], self.deter + self.stoch)


class RewardsTheStateBefore(ClockedDynamics):
    """The view `reward` is one record late."""

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        zeros = torch.zeros(batch, self.deter, device=device)
        return {**super().initial(batch, device), "before": zeros}

    def _state(self, carry: Carry, *a: Any) -> Latent:
        return {**super()._state(carry, *a), "before": carry["deter"]}

    def features(self, state: Latent, view: str) -> Features:
        if view == "reward":
            return torch.cat([state["before"], torch.zeros_like(state["stoch"])], -1)
        return super().features(state, view)


class FreeBranchHearsActions(BranchedDynamics):
    def _branches(self, action: Tensor) -> list[tuple[str, RecurrentDynamics, Tensor]]:
        return [("ctrl", self.ctrl, action), ("free", self.free, action)]


class BlindToHalfOfTheEmbedding(RecurrentDynamics):
    def observe_step(self, embeds: Embeds, *a: Any, **k: Any) -> tuple[Latent, Carry]:
        embed = embeds[self.embed]
        seen = torch.arange(embed.shape[-1]) < embed.shape[-1] // 2
        return super().observe_step({self.embed: embed * seen}, *a, **k)


class BlindToTheSecondEmbedding(BranchedDynamics):
    def observe_step(self, embeds: Embeds, *a: Any, **k: Any) -> tuple[Latent, Carry]:
        blind = {**embeds, "free": torch.zeros_like(embeds["free"])}
        return super().observe_step(blind, *a, **k)

    def observe(self, embeds: Embeds, *a: Any, **k: Any) -> Observed:
        return super().observe({**embeds, "free": torch.zeros_like(embeds["free"])}, *a, **k)


class BlindInOddRows(WindowDynamics):
    def observe_step(self, embeds: Embeds, *a: Any, **k: Any) -> tuple[Latent, Carry]:
        embed = embeds["embed"]
        return super().observe_step({"embed": embed.masked_fill(odd(len(embed)), 0.0)}, *a, **k)


# ---------------------------------------------------------------- rows, sizes and modes


class MixesManyRows(RecurrentDynamics):
    """Batches of at most four are healthy."""

    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        deter = super()._advance(carry, action)
        return deter + 0.1 * deter.roll(1, 0) if len(deter) > 4 else deter


class LastRowSeesTheFirst(RecurrentDynamics):
    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        deter = super()._advance(carry, action)
        return torch.cat([deter[:-1], deter[-1:] + 0.1 * deter[:1]]) if len(deter) > 2 else deter


class OddRowsSeeTheNext(WindowDynamics):
    def _push(self, carry: Carry, x: Tensor) -> tuple[Latent, Carry]:
        state, carry = super()._push(carry, x)
        hidden = state["hidden"]
        mixed = torch.where(odd(len(hidden)), hidden + 0.1 * hidden.roll(-1, 0), hidden)
        return {**state, "hidden": mixed}, carry


class MixesRowsInTraining(RecurrentDynamics):
    """As batch normalisation does, without declaring it."""

    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        deter = super()._advance(carry, action)
        return deter - deter.mean(0, keepdim=True) if self.training else deter


class StackedMixesRowsInTraining(StackedRSSM):
    def _evidence(self, embed: Tensor, z: Any) -> Tensor:
        seen = super()._evidence(embed, z)
        return seen - 0.1 * seen.mean(0, keepdim=True) if self.training else seen


class ViewMixesManyRows(RecurrentDynamics):
    def features(self, state: Latent, view: str) -> Features:
        x = super().features(state, view)
        assert isinstance(x, Tensor)
        return x + 0.1 * x.roll(1, 0) if view == "value" and x.dim() == 3 and len(x) > 4 else x


class ForgetsEveryTenRecords(RecurrentDynamics):
    """A segment is scanned in chunks, each from the initial carry."""

    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, carry: Any = None, **k: Any
    ) -> Observed:
        parts = []
        for t in range(0, is_first.shape[1], 10):
            part = slice(t, t + 10)
            seen = {name: x[:, part] for name, x in embeds.items()}
            begin = carry if t == 0 else None
            parts.append(super().observe(seen, actions[:, part], is_first[:, part], begin, **k))
        states = tree_map(lambda *x: torch.cat(x, 1), *[part.states for part in parts])
        return Observed(states, parts[-1].carry)


class SelectsEachRowOnce(RecurrentDynamics):
    """A row that is asked for again is the first one."""

    def select(self, carry: Carry, index: Tensor) -> Carry:
        asked: set[int] = set()
        once = [0 if i in asked else (asked.add(i), i)[1] for i in index.tolist()]  # type: ignore[func-returns-value]
        return super().select(carry, torch.tensor(once))


class DetachesNothing(RecurrentDynamics):
    def detach(self, carry: Carry) -> Carry:
        return carry


class GradientStopsInTheMiddle(RecurrentDynamics):
    """Imagination is cut before its second half, where the first action is not lost."""

    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        if isinstance(policy, Tensor):
            first = torch.arange(horizon) == 0
            policy = torch.where(first[:, None], policy, policy.detach())
        return super().imagine(start, carry, policy, horizon, **k)


# ---------------------------------------------------------------- inputs


class MasksActionsInPlace(RecurrentDynamics):
    def observe(
        self, embeds: Embeds, actions: Any, is_first: Tensor, *a: Any, **k: Any
    ) -> Observed:
        actions += is_first[..., None]
        return super().observe(embeds, actions, is_first, *a, **k)


class MovesTheCarryInPlace(RecurrentDynamics):
    def observe_step(
        self, embeds: Embeds, action: Any, is_first: Tensor, carry: Carry, **k: Any
    ) -> tuple[Latent, Carry]:
        state, after = super().observe_step(embeds, action, is_first, carry, **k)
        carry["deter"].copy_(after["deter"])
        return state, after


class ImaginesInPlace(WindowDynamics):
    def imagine(self, start: Latent, *a: Any, **k: Any) -> Imagined:
        imagined = super().imagine(start, *a, **k)
        start["hidden"].copy_(imagined.states["hidden"][:, -1])
        return imagined


# ---------------------------------------------------------------- contexts


class ContextOfTheNextRow(ContextualDynamics):
    def background(self, context: Context) -> Tensor:
        return super().background(context).roll(1, 0)


class ContextOfTheFirstRow(ContextualDynamics):
    def background(self, context: Context) -> Tensor:
        x = super().background(context)
        return x[:1].expand_as(x)


class OddRowsHaveTheContextAbove(ContextualDynamics):
    def background(self, context: Context) -> Tensor:
        x = super().background(context)
        return torch.where(odd(len(x)), x.roll(1, 0), x)


class IgnoresTheContextOfTheLastRow(ContextualDynamics):
    def background(self, context: Context) -> Tensor:
        x = super().background(context)
        return torch.cat([x[:-1], 0 * x[-1:]])


MUTANTS = {
    DropsTheFirstTransition: "law_1_action_leads_into_its_record",
    DropsTheActionAfterAResetInside: "law_1_action_leads_into_its_record",
    OneBranchDropsTheFirstTransition: "law_1_action_leads_into_its_record",
    ShiftsActionsOfOddRows: "law_1_action_leads_into_its_record",
    DeafInTheLastRow: "law_1_action_leads_into_its_record",
    WindowDeafInOddRows: "law_1_action_leads_into_its_record",
    DeafWhileTraining: "law_1_action_leads_into_its_record",
    ResetsEvenRowsOnly: "law_3_reset_cuts_history",
    ResetsTheFirstRowOnly: "law_3_reset_cuts_history",
    ResetsWhileActingOnly: "law_3_reset_cuts_history",
    ValuesTheFreeBranch: "law_6_imagined_views_hear_actions_as_declared",
    CriticReadsTheClock: "law_6_imagined_views_hear_actions_as_declared",
    RewardsTheStateBefore: "law_6_imagined_views_hear_actions_as_declared",
    FreeBranchHearsActions: "law_6_views_hear_actions_as_declared",
    BlindToHalfOfTheEmbedding: "law_6_depends_on_all_of_an_embedding",
    BlindToTheSecondEmbedding: "law_6_depends_on_all_of_an_embedding",
    BlindInOddRows: "law_6_depends_on_embedding",
    MixesManyRows: "law_5_rows_do_not_mix",
    LastRowSeesTheFirst: "law_5_rows_do_not_mix",
    OddRowsSeeTheNext: "law_5_rows_do_not_mix",
    MixesRowsInTraining: "law_5_rows_do_not_mix",
    StackedMixesRowsInTraining: "law_5_rows_do_not_mix",
    ViewMixesManyRows: "law_5_rows_do_not_mix",
    ForgetsEveryTenRecords: "law_2_observe_equals_steps",
    SelectsEachRowOnce: "law_5_select_takes_rows",
    DetachesNothing: "law_8_detach_cuts_the_carry",
    GradientStopsInTheMiddle: "law_8_actions_get_gradients",
    MasksActionsInPlace: "law_10_inputs_are_kept",
    MovesTheCarryInPlace: "law_10_inputs_are_kept",
    ImaginesInPlace: "law_10_inputs_are_kept",
    ContextOfTheNextRow: "law_5_rows_do_not_mix",
    ContextOfTheFirstRow: "law_5_rows_do_not_mix",
    OddRowsHaveTheContextAbove: "law_5_rows_do_not_mix",
    IgnoresTheContextOfTheLastRow: "law_6_depends_on_its_context",
}
