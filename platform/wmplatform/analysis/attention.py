"""Where in the context frame a patch of the image looks: heat maps of the decoder's attention.

Shape letters: B clips, T time, N = B * T frames, S positions, K context frames, M = K * S tokens,
h w rows and columns of a scale.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.analysis.results import CannotAnalyse, Results
from wmplatform.interfaces.decoder import Decoder
from wmplatform.pictures import Picture, enlarge, to_rgb
from wmplatform.types import Batch

__all__ = ["HeatMaps", "attend", "overlay", "patch_positions"]

_MARK = (40, 220, 60)
_HOT = np.array([255.0, 30.0, 0.0])
_GAP, _SCALE, _COLUMNS = 4, 3, 6


@dataclass(frozen=True)
class HeatMaps:
    """Attention of one patch, on the CPU."""

    frames: Tensor
    """The images that are decoded, uint8 `[B, T, C, H, W]`."""
    context: Tensor
    """The context frames, float `[B, K, C, H, W]` in 0..1."""
    weights: Tensor
    """float `[B, T, K, h, w]`; they sum to one over the last three axes."""
    patch: tuple[slice, slice]
    """Rows and columns of the patch among the h and w positions."""
    scale: str
    """Name of the scale."""


@torch.no_grad()
def attend(agent: Agent, batch: Batch, observed: int, at: tuple[int, int], size: int) -> HeatMaps:
    """Compute how strongly a patch looks at each place of the context, at the finest scale.

    Weights are averaged over heads and over the patch's positions; no token is masked. States are
    inferred from all frames; the context frame is the last of the first `observed` ones.

    Args:
        agent: in eval mode.
        batch: records `[B, T, ...]`.
        observed: at least 1.
        at: column and row of the patch's centre, in positions of the scale (0..15 at 64 x 64).
        size: positions across.

    Raises:
        CannotAnalyse: the decoder does not attend to a context, or `at` lies outside.
    """
    model = agent.world_model
    decoder, context_encoder = model.decoder, model.context_encoder
    if decoder is None or context_encoder is None or not _attends(decoder):
        raise CannotAnalyse(
            f"decoder {type(decoder).__name__} does not attend to a context",
            hint="analyse a run whose decoder does, such as decoders.cross_attention",
        )
    frames = context_encoder.select(batch["pixels"], observed)
    context = context_encoder(frames)
    actions = batch.get("action")
    seen = model.dynamics.observe(
        model.embed(batch), actions, batch["is_first"], context=context, deterministic=True
    )
    found = decoder.attention(model.dynamics.features(seen.states, decoder.view), context)
    scale = max(found, key=lambda name: found[name].shape[1])
    weights_NSM = found[scale]
    height, width = _grid(weights_NSM.shape[1], batch["pixels"].shape[-2:])
    patch = patch_positions(at, size, height, width)
    weights_NhwM = weights_NSM.unflatten(1, (height, width))
    mean_NM = weights_NhwM[:, patch[0], patch[1]].mean((1, 2))
    pixels = batch["pixels"][:, seen.records]
    shape = (*pixels.shape[:2], frames.shape[1], height, width)
    return HeatMaps(
        pixels.cpu(), frames.float().cpu() + 0.5, mean_NM.reshape(shape).cpu(), patch, scale
    )


def patch_positions(at: tuple[int, int], size: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a square patch around a column and a row, cut off at the border.

    Raises:
        CannotAnalyse: the centre lies outside.
    """
    column, row = at
    if column >= width or row >= height:
        raise CannotAnalyse(
            f"--at {column},{row} lies outside of the {width} x {height} positions",
            hint=f"name a column from 0 to {width - 1} and a row from 0 to {height - 1}",
        )
    before, after = (size - 1) // 2, size // 2 + 1
    return (
        slice(max(0, row - before), min(height, row + after)),
        slice(max(0, column - before), min(width, column + after)),
    )


def overlay(frame: Picture, weights_hw: NDArray[np.float32]) -> Picture:
    """Lay weights over a frame `[H, W, 3]`: from dark, the lightest, to red, the heaviest."""
    height, width = weights_hw.shape
    low, high = float(weights_hw.min()), float(weights_hw.max())
    blocks = (weights_hw - low) / max(high - low, 1e-12)
    heat = np.repeat(np.repeat(blocks, frame.shape[0] // height, 0), frame.shape[1] // width, 1)
    heat = heat[..., None]
    mixed = frame * 0.5 * (1 - heat) + (0.4 * frame + 0.6 * _HOT) * heat
    return mixed.round().clip(0, 255).astype(np.uint8)


def write(results: Results, maps: HeatMaps, fps: int) -> dict[str, float]:
    """Write frames with the patch above context frames with the heat, and all weights."""
    clips, length = maps.frames.shape[:2]
    times = np.linspace(0, length - 1, min(_COLUMNS, length)).round().astype(int)
    blocks = [_row([_column(maps, b, t) for t in times], axis=1) for b in range(min(clips, 4))]
    results.picture(_row(blocks, axis=0))
    moments = [_row([_column(maps, b, t) for b in range(clips)], axis=1) for t in range(length)]
    results.video(np.stack(moments), fps)
    rows, columns = maps.patch
    results.numbers(
        {
            "scale": maps.scale,
            "rows": [rows.start, rows.stop],
            "columns": [columns.start, columns.stop],
            "weights": maps.weights.tolist(),
        }
    )
    return {"heaviest_weight": float(maps.weights.max())}


def _attends(decoder: Decoder) -> bool:
    return type(decoder).attention is not Decoder.attention


def _grid(positions: int, image: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a scale that divides an image `(H, W)` evenly."""
    factor = round(math.sqrt(image[0] * image[1] / positions))
    return image[0] // factor, image[1] // factor


def _column(maps: HeatMaps, clip: int, time: int) -> Picture:
    """One frame with its patch, and below it the context frames with the heat."""
    frame = enlarge(_marked(to_rgb(maps.frames[clip, time]), maps), _SCALE)
    parts = [frame]
    for context, weights in zip(maps.context[clip], maps.weights[clip, time].numpy(), strict=True):
        parts.append(enlarge(overlay(to_rgb(context), weights), _SCALE))
    return _row(parts, axis=0)


def _marked(frame: Picture, maps: HeatMaps) -> Picture:
    """Draw a frame around the patch."""
    high, wide = (frame.shape[axis] // maps.weights.shape[axis - 2] for axis in (0, 1))
    rows, columns = maps.patch
    top, bottom = rows.start * high, rows.stop * high - 1
    left, right = columns.start * wide, columns.stop * wide - 1
    frame = frame.copy()
    frame[[top, bottom], left : right + 1] = _MARK
    frame[top : bottom + 1, [left, right]] = _MARK
    return frame


def _row(parts: list[Picture], axis: int) -> Picture:
    """Join pictures with white gaps."""
    shape = list(parts[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    between = [each for part in parts for each in (gap, part)]
    return np.concatenate(between[1:], axis=axis)
