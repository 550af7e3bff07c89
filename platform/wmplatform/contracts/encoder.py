"""The laws of `Encoder`, runnable."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require
from wmplatform.contracts.probes import (
    any_changed,
    check_outputs,
    close,
    draw_specs,
    equal,
    require_gradients,
    require_unchanged,
    shake,
    snapshot,
    variants,
)
from wmplatform.images import to_centred
from wmplatform.interfaces.encoder import Encoder
from wmplatform.types import ArraySpec

__all__ = [
    "check_encoder",
    "law_1_frames_do_not_mix",
    "law_1_no_state",
    "law_2_leading_dims_are_free",
    "law_3_uint8_equals_centred_float",
    "law_4_outputs_as_declared",
    "law_5_gradients_reach_parameters",
]

Specs = Mapping[str, ArraySpec]

LEADS: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3), (2, 1, 2))


def check_encoder(
    make: Callable[[Specs], Encoder],
    observations: Specs,
    *,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `Encoder`.

    Args:
        make: builds the encoder for these observation specs.
        observations: what a record holds.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Encoder", collect=collect)
    encoder = shake(make(observations), seed).eval()
    for lead in LEADS:
        report.run(law_4_outputs_as_declared, encoder, observations, lead=lead, seed=seed)
    report.run(law_1_frames_do_not_mix, encoder, observations, batch=2, length=3, seed=seed)
    report.run(law_1_no_state, encoder, observations, batch=3, seed=seed)
    for lead in LEADS:
        report.run(law_2_leading_dims_are_free, encoder, observations, lead=lead, seed=seed)
    report.run(law_3_uint8_equals_centred_float, encoder, observations, lead=(2, 2), seed=seed)
    report.run(law_5_gradients_reach_parameters, encoder, observations, batch=4, seed=seed)
    return report


@law("Encoder", 1)
def law_1_frames_do_not_mix(
    encoder: Encoder, observations: Specs, *, batch: int, length: int, seed: int
) -> None:
    """Changing one frame changes its own embedding and no other."""
    frames = draw_specs(observations, (batch, length), seed)
    others = draw_specs(observations, (batch, length), seed + 1)
    b, t = seed % batch, (seed // batch) % length
    changed = {name: x.clone() for name, x in frames.items()}
    for name, x in changed.items():
        x[b, t] = others[name][b, t]
    before, after = _embed(encoder, frames), _embed(encoder, changed)
    for name in before:
        mask = torch.ones(batch, length, dtype=torch.bool)
        mask[b, t] = False
        require_unchanged(
            before[name][mask],
            after[name][mask],
            f"changing frame {t} of row {b} changes the {name} of other frames",
        )
    require(
        any(any_changed(_embed(e, frames), _embed(e, changed)) for e in variants(encoder)),
        "the embedding of a frame does not depend on the frame",
    )


@law("Encoder", 1)
def law_1_no_state(encoder: Encoder, observations: Specs, *, batch: int, seed: int) -> None:
    """Equal frames have equal embeddings, whatever was embedded in between."""
    frames = draw_specs(observations, (batch,), seed)
    before = _embed(encoder, frames)
    _embed(encoder, draw_specs(observations, (batch + 1,), seed + 1))
    require(
        equal(before, _embed(encoder, frames)),
        "equal frames are embedded differently after other frames",
    )


@law("Encoder", 2)
def law_2_leading_dims_are_free(
    encoder: Encoder, observations: Specs, *, lead: Sequence[int], seed: int
) -> None:
    """Folding the leading dims, and embedding each frame alone, change nothing."""
    frames = draw_specs(observations, lead, seed)
    whole = _embed(encoder, frames)
    folded = {name: x.reshape(-1, *observations[name].shape) for name, x in frames.items()}
    single = [_embed(encoder, {n: x[i] for n, x in folded.items()}) for i in range(_count(lead))]
    for name, embed in _embed(encoder, folded).items():
        require_unchanged(
            embed.reshape(whole[name].shape),
            whole[name],
            f"{name} of frames {list(lead)} differs from that of the folded frames",
        )
        require_unchanged(
            torch.stack([e[name] for e in single]).reshape(whole[name].shape),
            whole[name],
            f"{name} of frames {list(lead)} differs from that of each frame alone",
        )


@law("Encoder", 3)
def law_3_uint8_equals_centred_float(
    encoder: Encoder, observations: Specs, *, lead: Sequence[int], seed: int
) -> None:
    """An image as uint8 and as centred float has the same embedding."""
    frames = draw_specs(observations, lead, seed)
    centred = {name: to_centred(x) for name, x in frames.items()}
    require(
        close(_embed(encoder, frames), _embed(encoder, centred)),
        "uint8 images and the same images as float in -0.5..0.5 are embedded differently",
    )


@law("Encoder", 4)
def law_4_outputs_as_declared(
    encoder: Encoder, observations: Specs, *, lead: Sequence[int], seed: int
) -> None:
    """Keys, shapes and dtypes are those of `embed_specs`; unknown keys are ignored, inputs kept."""
    frames = draw_specs(observations, lead, seed)
    kept = snapshot(frames)
    check_outputs(_embed(encoder, frames), encoder.embed_specs, lead)
    require(equal(frames, kept), "the observations were changed in place")
    _embed(encoder, {**frames, "a key of another plug-in": torch.zeros(*lead, 2)})


@law("Encoder", 5)
def law_5_gradients_reach_parameters(
    encoder: Encoder, observations: Specs, *, batch: int, seed: int
) -> None:
    """Every trainable parameter takes part in training."""
    was_training = encoder.training
    encoder.train()
    try:
        embeds = encoder(draw_specs(observations, (batch,), seed))
    finally:
        encoder.train(was_training)
    loss = torch.stack([x.float().square().sum() for x in embeds.values()]).sum()
    require_gradients(loss, encoder, "the embeddings")


@torch.no_grad()
def _embed(encoder: Encoder, frames: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = encoder(frames)
    return out


def _count(lead: Sequence[int]) -> int:
    return int(torch.Size(lead).numel())
