"""Pictures and videos of what an agent does and predicts; PNG, MP4 and curves.

Shape letters: B clips, T time, H W image, C channels. Finished pictures are uint8 `[H, W, 3]`,
videos uint8 `[T, H, W, 3]`. This file imports no torch: `numpy.asarray` takes tensors as well.
PyAV and matplotlib are imported when they are needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wmplatform.files import explained_writes
from wmplatform.json_lines import read_json_lines

__all__ = [
    "enlarge",
    "error_curve",
    "film",
    "film_strip",
    "learning_curve",
    "open_loop_strip",
    "open_loop_video",
    "scatter",
    "to_rgb",
    "write_png",
    "write_video",
]

Picture = NDArray[np.uint8]

_GAP = 4
_BACKGROUND = 255
_OBSERVED = (60, 160, 60)
_PREDICTED = (200, 60, 60)
_ENCODERS = ("libx264", "mpeg4")


def open_loop_strip(
    truth: Any, model: Any, observed: int, *, clips: int = 2, columns: int = 10, scale: int = 2
) -> Picture:
    """Lay an open-loop prediction out as one picture.

    Rows are truth, model and error, error = (model - truth + 1) / 2. Columns are moments of a
    clip; clips stand side by side. A thin red line parts what the model had seen from what it
    predicts.

    Args:
        truth: float `[B, T, C, H, W]` in 0..1.
        model: likewise.
        observed: how many of the T records the model had seen.
        clips: how many of the B clips are shown.
        columns: how many of the T moments are shown, evenly spread, first and last included.
        scale: size of one pixel.
    """
    rows = _with_error(truth, model)
    return film_strip(rows, observed, clips=clips, columns=columns, scale=scale)


def open_loop_video(
    truth: Any, model: Any, observed: int, *, clips: int = 6, scale: int = 2
) -> Picture:
    """Show an open-loop prediction as a video; rows and clips as in `open_loop_strip`.

    A bar on top is green while the model sees the records, and red while it predicts.
    """
    return film(_with_error(truth, model), observed, clips=clips, scale=scale)


def film_strip(
    rows: Sequence[Any], observed: int, *, clips: int = 2, columns: int = 10, scale: int = 2
) -> Picture:
    """Lay clips out as one picture: a row each of `rows`, float `[B, T, C, H, W]` in 0..1.

    Columns are moments, clips stand side by side; `observed` and the rest as in
    `open_loop_strip`. Where all T records are observed, there is no line.
    """
    stacked = _stacked(rows, clips)
    times = _moments(stacked.shape[1], columns)
    blocks = []
    for clip in stacked:
        shown = [enlarge(clip[time], scale) for time in times]
        first_predicted = int(np.searchsorted(times, observed))
        if 0 < first_predicted < len(shown):
            mark = np.full((shown[0].shape[0], _GAP // 2, 3), _PREDICTED, np.uint8)
            shown.insert(first_predicted, mark)
        blocks.append(np.concatenate(shown, axis=1))
    return _side_by_side(blocks)


def film(rows: Sequence[Any], observed: int, *, clips: int = 6, scale: int = 2) -> Picture:
    """Show clips as a video, rows as in `film_strip`, with the bar of `open_loop_video`."""
    frames = []
    for time, moment in enumerate(np.swapaxes(_stacked(rows, clips), 0, 1)):
        picture = _side_by_side([enlarge(clip, scale) for clip in moment])
        colour = _OBSERVED if time < observed else _PREDICTED
        bar = np.full((_GAP, picture.shape[1], 3), colour, np.uint8)
        frames.append(np.concatenate([bar, picture]))
    return np.stack(frames)


def to_rgb(image: Any) -> Picture:
    """Turn an image `[C, H, W]`, uint8 or float 0..1, into uint8 `[H, W, 3]`.

    One channel becomes grey; of a stack of frames (C > 3) the last three channels are shown.
    """
    array = np.asarray(image)
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array.astype(np.float32)).clip(0, 1) * 255).round().astype(np.uint8)
    if array.shape[0] < 3:
        array = np.repeat(array[-1:], 3, axis=0)
    return np.ascontiguousarray(array[-3:].transpose(1, 2, 0))


def enlarge(picture: Picture, scale: int) -> Picture:
    """Repeat every pixel of `[..., H, W, 3]` `scale` times in both directions."""
    return picture.repeat(scale, axis=-3).repeat(scale, axis=-2)


def write_png(path: Path, picture: Picture) -> Path:
    """Write a picture, whole or not at all.

    Raises:
        DiskFull: there is no space.
    """
    with _whole(path, "a picture") as aside:
        Image.fromarray(picture).save(aside, format="PNG")
    return path


def write_video(path: Path, frames: Picture, fps: int) -> Path:
    """Write a video, whole or not at all.

    Args:
        path: ends in `.mp4`.
        frames: uint8 `[T, H, W, 3]`; odd sizes lose nothing, a white line is added.
        fps: frames per second.

    Returns:
        `path`; where PyAV is not installed, the path of a GIF beside it instead.

    Raises:
        DiskFull: there is no space.
    """
    if find_spec("av") is None:
        return _write_gif(path.with_suffix(".gif"), frames, fps)
    with _whole(path, "a video") as aside:
        _encode(aside, _even(frames), fps)
    return path


def learning_curve(metrics: Path, target: Path, axis: str = "env_frames") -> Path | None:
    """Draw returns over `axis`, evaluation and training, into a PNG.

    Args:
        metrics: a `metrics.jsonl`.
        target: the PNG.
        axis: the counter on the x-axis.

    Returns:
        `target`, or None where matplotlib is not installed or there is nothing to draw.

    Raises:
        CannotRead: the metrics are damaged, or no regular file.
    """
    return _draw(_curves(metrics, axis, "return"), target, axis, "return of an episode")


def error_curve(metrics: Path, target: Path) -> Path | None:
    """Draw the errors of a world model on held-out videos over updates, as `learning_curve`."""
    curves = _curves(metrics, "updates", "reconstruction_mse")
    curves |= _curves(metrics, "updates", "open_loop_mse")
    return _draw(curves, target, "updates", "mean squared error of a pixel (0..1)")


def scatter(groups: Mapping[str, Any], target: Path) -> Path | None:
    """Draw points `[n, 2]` of named groups, a colour each, into a PNG.

    Returns:
        `target`, or None where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot(xticks=[], yticks=[])
    for name, points in groups.items():
        x, y = np.asarray(points).T
        axes.scatter(x, y, s=14, alpha=0.8, label=name)
    axes.legend()
    with _whole(target, "a picture") as aside:
        figure.savefig(aside, dpi=120, format="png")
    return target


def _draw(
    curves: dict[str, list[tuple[int, float]]], target: Path, axis: str, label: str
) -> Path | None:
    if not curves or find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel=axis, ylabel=label)
    for name, points in sorted(curves.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=name, marker="o" if len(points) < 30 else None, markersize=3)
    axes.grid(alpha=0.3)
    axes.legend()
    with _whole(target, "a picture") as aside:
        figure.savefig(aside, dpi=120, format="png")
    return target


def _curves(metrics: Path, axis: str, metric: str) -> dict[str, list[tuple[int, float]]]:
    """Read every `.../<metric>` of a run, by name."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in read_json_lines(metrics):
        for name, value in line.items():
            if name.endswith(f"/{metric}") and _is_number(value) and _is_number(line.get(axis)):
                curves.setdefault(name, []).append((line[axis], value))
    return curves


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _with_error(truth: Any, model: Any) -> list[NDArray[np.float32]]:
    truth, model = np.asarray(truth, np.float32), np.asarray(model, np.float32)
    return [truth, model, (model - truth + 1) / 2]


def _stacked(rows: Sequence[Any], clips: int) -> Picture:
    """Put rows `[B, T, C, H, W]` below each other: uint8 `[B, T, n H + gaps, W, 3]`."""
    parts = [_video_rgb(np.asarray(row, np.float32)[:clips]) for row in rows]
    gap = np.full_like(parts[0][:, :, :1], _BACKGROUND)
    between = [each for part in parts for each in (gap, part)]
    return np.concatenate(between[1:], axis=2)


def _video_rgb(images: NDArray[np.float32]) -> Picture:
    return np.stack([np.stack([to_rgb(image) for image in clip]) for clip in images])


def _moments(length: int, columns: int) -> list[int]:
    """Choose at most `columns` of `length` moments, evenly, with the first and the last."""
    return sorted({round(float(time)) for time in np.linspace(0, length - 1, columns)})


def _side_by_side(pictures: Sequence[Picture]) -> Picture:
    gap = np.full((pictures[0].shape[0], _GAP, 3), _BACKGROUND, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)


def _even(frames: Picture) -> Picture:
    """Pad to even height and width, which yuv420p needs."""
    _, height, width, _ = frames.shape
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    return np.pad(frames, pad, constant_values=_BACKGROUND)


def _encode(path: Path, frames: Picture, fps: int) -> None:
    import av

    encoder = next(name for name in _ENCODERS if name in av.codecs_available)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(encoder, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Picture, fps: int) -> Path:
    pictures = [Image.fromarray(frame) for frame in frames]
    with _whole(path, "a video") as aside:
        pictures[0].save(
            aside,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=max(20, round(1000 / fps)),
            loop=0,
        )
    return path


@contextmanager
def _whole(path: Path, what: str) -> Iterator[Path]:
    """Give a name to write to; rename it to `path` if all went well, delete it if not."""
    aside = path.with_name(f".writing-{path.name}")
    with explained_writes(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.unlink(missing_ok=True)  # of a process that was killed, or a link
            yield aside
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
