"""The laws of `ContextEncoder`, runnable; law 3 is one of whole agents (`world_model.py`)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require
from wmplatform.contracts.probes import (
    any_changed,
    check_array,
    check_outputs,
    draw,
    equal,
    require_gradients,
    require_unchanged,
    seeded,
    set_row,
    shake,
    variants,
)
from wmplatform.images import to_centred
from wmplatform.interfaces.context_encoder import ContextEncoder
from wmplatform.types import ArraySpec, Context

__all__ = [
    "check_context_encoder",
    "law_1_frames_are_centred_and_detached",
    "law_1_frames_come_from_their_row",
    "law_1_only_observed_records",
    "law_2_context_as_declared",
    "law_2_rows_do_not_mix",
    "law_4_gradients_reach_parameters",
]

Specs = Mapping[str, ArraySpec]
LENGTH = 6


def check_context_encoder(
    make: Callable[[Specs], ContextEncoder],
    observations: Specs,
    *,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run the laws of `ContextEncoder`.

    Args:
        make: builds the context encoder for these observation specs.
        observations: what a record holds.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("ContextEncoder", collect=collect)
    encoder = shake(make(observations), seed).eval()
    pixels = observations["pixels"]
    for each in (seed, seed + 1, seed + 2):
        report.run(law_1_frames_are_centred_and_detached, encoder, pixels, seed=each)
        report.run(law_1_frames_come_from_their_row, encoder, pixels, row=1, seed=each)
        for observed in (1, 3):
            report.run(law_1_only_observed_records, encoder, pixels, observed=observed, seed=each)
    report.run(law_2_context_as_declared, encoder, pixels, batch=3, seed=seed)
    report.run(law_2_rows_do_not_mix, encoder, pixels, row=1, seed=seed)
    report.run(law_4_gradients_reach_parameters, encoder, pixels, seed=seed)
    return report


@law("ContextEncoder", 1)
def law_1_frames_are_centred_and_detached(
    encoder: ContextEncoder, pixels: ArraySpec, *, seed: int
) -> None:
    """`select` gives centred frames `[B, K, C, H, W]` in -0.5..0.5 without a gradient."""
    segment = draw(pixels, (3, LENGTH), seed)
    with seeded(seed):
        frames = encoder.select(segment)
    require(
        frames.dim() == 5 and frames.shape[0] == 3 and frames.shape[2:] == segment.shape[2:],
        f"frames have shape {tuple(frames.shape)}, not (3, K, *{pixels.shape})",
    )
    require(frames.is_floating_point(), f"frames are {frames.dtype} instead of centred floats")
    top = float(frames.abs().max())
    require(top <= 0.5 + 1e-5, f"frames leave -0.5..0.5: the largest magnitude is {top:.4g}")
    with seeded(seed):
        again = encoder.select(to_centred(segment).requires_grad_())
    require(not again.requires_grad, "the chosen frames are not detached")


@law("ContextEncoder", 1)
def law_1_frames_come_from_their_row(
    encoder: ContextEncoder, pixels: ArraySpec, *, row: int, seed: int
) -> None:
    """Another segment in one row changes the frames of that row and of no other."""
    segment = draw(pixels, (3, LENGTH), seed)
    changed = set_row(segment, draw(pixels, (3, LENGTH), seed + 1), row)
    before, after = _select(encoder, segment, None, seed), _select(encoder, changed, None, seed)
    others = [b for b in range(3) if b != row]
    require_unchanged(
        before[others], after[others], f"the segment of row {row} changes frames of other rows"
    )
    require(any_changed(before[row], after[row]), "the frames do not come from the segment")


@law("ContextEncoder", 1)
def law_1_only_observed_records(
    encoder: ContextEncoder, pixels: ArraySpec, *, observed: int, seed: int
) -> None:
    """With `observed=n` the frames come from the first n records."""
    segment = draw(pixels, (3, LENGTH), seed)
    changed = segment.clone()
    changed[:, observed:] = draw(pixels, (3, LENGTH), seed + 1)[:, observed:]
    require(
        equal(_select(encoder, segment, observed, seed), _select(encoder, changed, observed, seed)),
        f"with observed={observed} a frame comes from a later record",
    )


@law("ContextEncoder", 2)
def law_2_context_as_declared(
    encoder: ContextEncoder, pixels: ArraySpec, *, batch: int, seed: int
) -> None:
    """Outputs have the names, shapes and dtypes of `context_specs`, with one leading dim."""
    context = _context(encoder, draw(pixels, (batch, LENGTH), seed), seed)
    check_outputs(context, encoder.context_specs, (batch,))


@law("ContextEncoder", 2)
def law_2_rows_do_not_mix(
    encoder: ContextEncoder, pixels: ArraySpec, *, row: int, seed: int
) -> None:
    """Frames of one row change the context of that row and of no other."""
    segment = draw(pixels, (3, LENGTH), seed)
    changed = set_row(segment, draw(pixels, (3, LENGTH), seed + 1), row)
    before, after = _context(encoder, segment, seed), _context(encoder, changed, seed)
    others = [b for b in range(3) if b != row]
    for name in before:
        require_unchanged(
            before[name][others], after[name][others], f"row {row} changes {name} of other rows"
        )
    require(
        any(
            any_changed(_context(e, segment, seed), _context(e, changed, seed))
            for e in variants(encoder)
        ),
        "the context does not depend on the frames",
    )


@law("ContextEncoder", 4)
def law_4_gradients_reach_parameters(
    encoder: ContextEncoder, pixels: ArraySpec, *, seed: int
) -> None:
    """Every trainable parameter takes part in training."""
    frames = _select(encoder, draw(pixels, (3, LENGTH), seed), None, seed)
    encoder.train()
    try:
        with seeded(seed):
            context: Context = encoder(frames)
    finally:
        encoder.eval()
    loss = torch.stack([x.float().square().sum() for x in context.values()]).sum()
    check_array("the context", loss.detach(), ArraySpec(()), ())
    require_gradients(loss, encoder, "the context")


@torch.no_grad()
def _select(encoder: ContextEncoder, pixels: Tensor, observed: int | None, seed: int) -> Tensor:
    with seeded(seed):
        return encoder.select(pixels.clone(), observed)


@torch.no_grad()
def _context(encoder: ContextEncoder, pixels: Tensor, seed: int) -> Context:
    context: Context = encoder(_select(encoder, pixels, None, seed))
    return context
