"""The laws of `LatentDynamics` about resets, runnable."""

import torch
from torch import Tensor

from wmplatform.contracts.dependence import repeat_rows, require_rows_alone
from wmplatform.contracts.laws import law, skip
from wmplatform.contracts.probes import (
    fill_floats,
    generator,
    require_nowhere,
    require_unchanged,
    where_apart,
)
from wmplatform.contracts.segments import (
    DynamicsCase,
    Segment,
    draw_segment,
    observe,
    records_of,
    step,
)
from wmplatform.interfaces.latent_dynamics import LatentDynamics

__all__ = ["law_3_carry_is_cut", "law_3_reset_cuts_history", "law_3_reset_is_for_its_row_only"]


@law("LatentDynamics", 3)
def law_3_reset_cuts_history(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """What came before a reset does not matter in that row: other values, infinity, NaN."""
    _require_mid_resets(dynamics)
    segment = draw_segment(dynamics, case)

    # A copy of the segment for each record from 1 on, with a reset there in every row, [K * B, T].
    record, count = torch.arange(segment.length), segment.length - 1
    cut = (1 + torch.arange(count)).repeat_interleave(segment.batch).unsqueeze(1)
    copies = repeat_rows(segment, count)
    copies = copies._replace(is_first=copies.is_first | (record == cut))
    before = observe(dynamics, copies)

    later = torch.tensor(records_of(before, segment.length)) >= cut
    for value in (3.0, torch.inf, torch.nan):
        after = observe(dynamics, _with_past(copies, record < cut, record <= cut, value))
        apart = where_apart(before.states, after.states, 2) & later
        require_nowhere(
            apart.unflatten(0, (count, -1)),
            lambda k, b, _, value=value: (
                f"row {b} still depends after its reset at record {k + 1} on what came before "
                f"(there it was {value})"
            ),
        )


@law("LatentDynamics", 3)
def law_3_reset_is_for_its_row_only(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Resets in some rows leave the others as they are."""
    _require_mid_resets(dynamics)
    segment = draw_segment(dynamics, case)
    often = torch.rand(segment.is_first.shape, generator=generator(case.seed + 5)) < 0.5
    segment = segment._replace(is_first=often)
    carry = observe(dynamics, segment).carry
    require_rows_alone(
        lambda given: observe(dynamics, *given).states, (segment, carry), "states between resets"
    )


@law("LatentDynamics", 3)
def law_3_carry_is_cut(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`is_first` at record 0 makes the carry irrelevant, in `observe` and in `observe_step`."""
    segment = draw_segment(dynamics, case)
    segment = segment._replace(is_first=segment.is_first.index_fill(1, torch.tensor(0), value=True))
    fresh = observe(dynamics, segment)
    used = observe(dynamics, draw_segment(dynamics, case)).carry
    for name, carry in (("a used", used), ("a NaN", fill_floats(used, torch.nan))):
        what = f"{name} carry survives is_first at record 0"
        require_unchanged(fresh.states, observe(dynamics, segment, carry).states, what)
        latent, _ = step(dynamics, segment, 0, carry)
        first, _ = step(dynamics, segment, 0, dynamics.initial(segment.batch))
        require_unchanged(first, latent, f"{what} in observe_step")


def _require_mid_resets(dynamics: LatentDynamics) -> None:
    if not dynamics.capabilities.resets_mid_sequence:
        skip("resets_mid_sequence is False")


def _with_past(segment: Segment, past: Tensor, led: Tensor, value: float) -> Segment:
    """Fill embeddings where `past` `[B, T]`, and actions where `led`, into the reset included."""

    def fill(x: Tensor, where: Tensor) -> Tensor:
        mask = where.reshape(*where.shape, *[1] * (x.dim() - 2))
        return x.masked_fill(mask, value) if x.is_floating_point() else x

    embeds = {name: fill(x, past) for name, x in segment.embeds.items()}
    return segment._replace(embeds=embeds, actions=fill(segment.actions, led))
