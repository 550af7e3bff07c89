"""The laws of `LatentDynamics` about resets, runnable."""

from dataclasses import replace

import torch

from wmplatform.contracts.laws import law, require, skip
from wmplatform.contracts.probes import fill_floats, finite, require_unchanged
from wmplatform.contracts.segments import (
    DynamicsCase,
    Segment,
    copy_segment,
    draw_segment,
    observe,
    records_of,
    states_at,
    step,
)
from wmplatform.interfaces.latent_dynamics import LatentDynamics
from wmplatform.types import tree_map

__all__ = ["law_3_carry_is_cut", "law_3_reset_cuts_history", "law_3_reset_is_for_its_row_only"]


@law("LatentDynamics", 3)
def law_3_reset_cuts_history(
    dynamics: LatentDynamics, case: DynamicsCase, row: int, cut: int
) -> None:
    """What came before a reset does not matter in that row: other values, infinity, NaN."""
    _require_mid_resets(dynamics)
    segment = _with_reset(draw_segment(dynamics, case), row, cut)
    before = observe(dynamics, segment)
    later = [r for r in records_of(before, segment.length) if r >= cut]
    for value in (3.0, torch.inf, torch.nan):
        after = observe(dynamics, _with_past(segment, row, cut, value))
        a, b = (tree_map(lambda x: x[row], s) for s in states_at(before, after, segment, later))
        require(finite(b), f"{value} before a reset at record {cut} survives it in row {row}")
        require_unchanged(
            a, b, f"row {row} still depends after its reset at record {cut} on what came before"
        )


@law("LatentDynamics", 3)
def law_3_reset_is_for_its_row_only(
    dynamics: LatentDynamics, case: DynamicsCase, row: int, cut: int
) -> None:
    """A reset in one row leaves the others as they are, and does change its own row."""
    _require_mid_resets(dynamics)
    segment = _with_reset(draw_segment(dynamics, case), None, cut)
    before, after = observe(dynamics, segment), observe(dynamics, _with_reset(segment, row, cut))
    others = [b for b in range(segment.batch) if b != row]
    require_unchanged(
        tree_map(lambda x: x[others], before.states),
        tree_map(lambda x: x[others], after.states),
        f"a reset of row {row} at record {cut} changes other rows",
    )


@law("LatentDynamics", 3)
def law_3_carry_is_cut(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`is_first` at record 0 makes the carry irrelevant, in `observe` and in `observe_step`."""
    segment = draw_segment(dynamics, case)
    segment = replace(segment, is_first=segment.is_first.index_fill(1, torch.tensor(0), True))
    fresh = observe(dynamics, segment)
    used = observe(dynamics, draw_segment(dynamics, replace(case, seed=case.seed + 7))).carry
    for name, carry in (("a used", used), ("a NaN", fill_floats(used, torch.nan))):
        what = f"{name} carry survives is_first at record 0"
        require_unchanged(fresh.states, observe(dynamics, segment, carry).states, what)
        latent, _ = step(dynamics, segment, 0, carry)
        first, _ = step(dynamics, segment, 0, dynamics.initial(segment.batch))
        require_unchanged(first, latent, f"{what} in observe_step")


def _require_mid_resets(dynamics: LatentDynamics) -> None:
    if not dynamics.capabilities.resets_mid_sequence:
        skip("resets_mid_sequence is False")


def _with_reset(segment: Segment, row: int | None, cut: int) -> Segment:
    """Set `is_first` at `cut` in `row`, or clear it in all rows."""
    is_first = segment.is_first.clone()
    is_first[slice(None) if row is None else row, cut] = row is not None
    return replace(segment, is_first=is_first)


def _with_past(segment: Segment, row: int, cut: int, value: float) -> Segment:
    """Fill embeddings and actions of one row before `cut`, and the action that led into it."""
    segment = copy_segment(segment)
    for x in segment.embeds.values():
        if x.is_floating_point():
            x[row, :cut] = value
    segment.actions[row, : cut + 1] = value
    return segment
