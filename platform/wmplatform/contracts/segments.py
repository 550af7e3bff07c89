"""Random segments for the laws of `LatentDynamics`, and the ways to observe them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wmplatform.contracts.laws import require, skip
from wmplatform.contracts.probes import draw_actions, draw_specs, leaves, seeded, snapshot
from wmplatform.interfaces.latent_dynamics import LatentDynamics, Observed
from wmplatform.types import ActionSpec, ArraySpec, Carry, Context, TensorTree, tree_map

__all__ = [
    "DynamicsCase",
    "Segment",
    "copy_segment",
    "draw_segment",
    "observe",
    "observe_sampled",
    "records_of",
    "states_at",
    "step",
    "step_through",
]


@dataclass(frozen=True)
class DynamicsCase:
    """Specs and sizes of the random segments that a law observes."""

    embeds: Mapping[str, ArraySpec]
    action: ActionSpec
    context: Mapping[str, ArraySpec] | None = None
    batch: int = 3
    length: int = 6
    resets: frozenset[tuple[int, int]] = frozenset()
    """`(row, record)` where an episode starts, besides those at record 0."""
    seed: int = 0


@dataclass(frozen=True)
class Segment:
    """What `observe` is given."""

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
        embeds = {name: x[:, start:stop] for name, x in self.embeds.items()}
        actions, is_first = self.actions[:, start:stop], self.is_first[:, start:stop]
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


@torch.no_grad()
def observe(dynamics: LatentDynamics, segment: Segment, carry: Carry | None = None) -> Observed:
    """Observe deterministically, on copies, and check the states' shape."""
    segment, carry = copy_segment(segment), None if carry is None else snapshot(carry)
    observed = dynamics.observe(
        segment.embeds,
        segment.actions,
        segment.is_first,
        carry,
        context=segment.context,
        deterministic=True,
    )
    lead = (segment.batch, len(records_of(observed, segment.length)))
    for leaf in leaves(observed.states):
        require(tuple(leaf.shape[:2]) == lead, f"states are {tuple(leaf.shape)}, not {lead} + ...")
    return observed


def copy_segment(segment: Segment) -> Segment:
    """Copy a segment, in case the component writes into its inputs."""
    context = None if segment.context is None else snapshot(segment.context)
    return Segment(
        snapshot(segment.embeds), segment.actions.clone(), segment.is_first.clone(), context
    )


def observe_sampled(dynamics: LatentDynamics, segment: Segment) -> Observed:
    """Observe as in training, with a fixed random state."""
    with seeded(0):
        return dynamics.observe(
            segment.embeds, segment.actions, segment.is_first, context=segment.context
        )


@torch.no_grad()
def step(
    dynamics: LatentDynamics, segment: Segment, t: int, carry: Carry
) -> tuple[TensorTree, Carry]:
    return dynamics.observe_step(
        {name: x[:, t].clone() for name, x in segment.embeds.items()},
        segment.actions[:, t].clone(),
        segment.is_first[:, t].clone(),
        snapshot(carry),
        context=segment.context,
        deterministic=True,
    )


def step_through(dynamics: LatentDynamics, segment: Segment) -> tuple[TensorTree, Carry]:
    """All records one at a time: states `[B, T, ...]` and the last carry."""
    carry, states = dynamics.initial(segment.batch), []
    for t in range(segment.length):
        state, carry = step(dynamics, segment, t, carry)
        states.append(state)
    return tree_map(lambda *x: torch.stack(x, 1), *states), carry


def records_of(observed: Observed, length: int) -> list[int]:
    """Numbers of the records that remain."""
    return list(range(length)[observed.records])


def states_at(
    before: Observed, after: Observed, segment: Segment, records: Sequence[int]
) -> tuple[TensorTree, TensorTree]:
    """States of these records in two runs over equally long segments."""
    kept = records_of(before, segment.length)
    if not records or any(r not in kept for r in records):
        skip("observe uses up the records in question")
    index = [kept.index(r) for r in records]
    one, two = (tree_map(lambda x: x[:, index], run.states) for run in (before, after))
    return one, two
