"""Random segments for the laws of `LatentDynamics`, and the ways to observe them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wmplatform.contracts.dependence import StepTrial, repeat_rows
from wmplatform.contracts.laws import require
from wmplatform.contracts.probes import (
    draw_actions,
    draw_specs,
    leaves,
    seeded,
    snapshot,
)
from wmplatform.interfaces.latent_dynamics import LatentDynamics, Observed
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Carry,
    Context,
    Latent,
    tree_map,
)

__all__ = [
    "DynamicsCase",
    "Segment",
    "draw_segment",
    "exchange_records",
    "observe",
    "observe_sampled",
    "records_of",
    "step",
    "step_through",
]


@dataclass(frozen=True)
class DynamicsCase:
    """Specs and sizes of the random segments that a law observes."""

    embeds: Mapping[str, ArraySpec]
    action: ActionSpec
    context: Mapping[str, ArraySpec] | None = None
    batch: int = 5
    length: int = 6
    resets: frozenset[tuple[int, int]] = frozenset()
    """`(row, record)` where an episode starts, besides those at record 0."""
    seed: int = 0


class Segment(NamedTuple):
    """What `observe` is given, B rows of T records; a pytree."""

    embeds: dict[str, Tensor]
    actions: Tensor
    is_first: Tensor
    context: Context | None = None

    @property
    def batch(self) -> int:
        """Number of rows B."""
        return self.is_first.shape[0]

    @property
    def length(self) -> int:
        """Number of records T."""
        return self.is_first.shape[1]

    def cut(self, start: int, stop: int) -> "Segment":
        """Records start..stop-1."""
        embeds, actions, is_first = tree_map(lambda x: x[:, start:stop], self[:3])
        return Segment(embeds, actions, is_first, self.context)


def draw_segment(dynamics: LatentDynamics, case: DynamicsCase) -> Segment:
    """Draw a random segment; every row starts an episode at record 0 unless its number is odd."""
    lead = (case.batch, case.length)
    is_first = torch.zeros(lead, dtype=torch.bool)
    is_first[::2, 0] = True
    if dynamics.capabilities.warmup_frames or not dynamics.capabilities.resets_mid_sequence:
        is_first[:, 0] = True
    for b, t in case.resets:
        is_first[b, t] = True
    actions = draw_actions(case.action, lead, case.seed + 1)
    embeds = draw_specs(case.embeds, lead, case.seed + 2)
    context = draw_specs(case.context, (case.batch,), case.seed + 3) if case.context else None
    return Segment(embeds, actions.masked_fill(is_first[..., None], 0.0), is_first, context)


def observe(
    dynamics: LatentDynamics,
    segment: Segment,
    carry: Carry | None = None,
    *,
    deterministic: bool = True,
    seed: int | None = 0,
) -> Observed:
    """Observe without gradients, on copies, from a fixed random state; check the states' shape."""
    given = snapshot(segment)
    with torch.no_grad(), seeded(seed):
        observed = dynamics.observe(
            given.embeds,
            given.actions,
            given.is_first,
            None if carry is None else snapshot(carry),
            context=given.context,
            deterministic=deterministic,
        )
    lead = (segment.batch, len(records_of(observed, segment.length)))
    for leaf in leaves(observed.states):
        require(tuple(leaf.shape[:2]) == lead, f"states are {tuple(leaf.shape)}, not {lead} + ...")
    return observed


def observe_sampled(dynamics: LatentDynamics, segment: Segment) -> Observed:
    """Observe as in training, with a fixed random state."""
    with seeded(0):
        return dynamics.observe(
            segment.embeds, segment.actions, segment.is_first, context=segment.context
        )


def step(
    dynamics: LatentDynamics,
    segment: Segment,
    t: int,
    carry: Carry,
    *,
    deterministic: bool = True,
    seed: int | None = 0,
) -> tuple[Latent, Carry]:
    """Observe record t alone, as `observe` above."""
    embeds, action, is_first = snapshot(tree_map(lambda x: x[:, t], segment[:3]))
    with torch.no_grad(), seeded(seed):
        return dynamics.observe_step(
            embeds,
            action,
            is_first,
            snapshot(carry),
            context=segment.context,
            deterministic=deterministic,
        )


def step_through(dynamics: LatentDynamics, segment: Segment) -> list[tuple[Latent, Carry]]:
    """All records one at a time: the state of each, and the carry after it."""
    carry, found = dynamics.initial(segment.batch), []
    for t in range(segment.length):
        state, carry = step(dynamics, segment, t, carry)
        found.append((state, carry))
    return found


def records_of(observed: Observed, length: int) -> list[int]:
    """Numbers of the records that remain."""
    return list(range(length)[observed.records])


def exchange_records(
    dynamics: LatentDynamics, segment: Segment, *others: Segment, onwards: bool = False
) -> tuple[list[int], StepTrial[LatentDynamics]]:
    """Numbers of the records that remain, and observed states with one after another exchanged."""
    kept = records_of(observe(dynamics, segment), segment.length)

    def run(module: LatentDynamics, given: tuple[dict[str, Tensor], Tensor, Tensor]) -> Latent:
        context = repeat_rows(segment.context, len(kept)) if segment.context else None
        return observe(module, Segment(*given, context)).states

    exchanged = [other[:3] for other in others]
    return kept, StepTrial(run, dynamics, segment[:3], exchanged, kept, onwards=onwards)
