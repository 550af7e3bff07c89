"""Video files through PyAV, resized while they are decoded.

Shape letters: C H W image, S side of the square that a frame becomes.
"""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from wmplatform.files import CannotRead, open_regular
from wmplatform.videos.errors import UnreadableVideo

__all__ = ["Decoding", "Fit", "Resample", "decode", "decoder_name"]

Fit: TypeAlias = Literal["squash", "center_crop"]
Resample: TypeAlias = Literal["area", "bicubic", "bilinear"]
Frames: TypeAlias = Iterator[NDArray[np.uint8]]

_FILTERS = {
    "area": Interpolation.AREA,
    "bicubic": Interpolation.BICUBIC,
    "bilinear": Interpolation.BILINEAR,
}
# The same pixels whatever the processor's vector instructions; costs nothing at this size.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_MOST_OBLONG = 20
_SHORTFALL = 0.1
"""Share of a video's declared length that may be missing before it counts as cut off."""

_HERE = threading.local()


@dataclass(frozen=True)
class Decoding:
    """How a file becomes frames."""

    size: int = 64
    fit: Fit = "squash"
    """`squash` gives up the aspect ratio; `center_crop` keeps the square in the middle."""
    resample: Resample = "bicubic"
    fps: float | None = None
    """Frames per second of time, each the last one shown by then; None takes each coded frame."""
    skip: int = 0
    """Frames left out at the start."""
    every: int = 1
    """Keep every n-th frame after that."""


def decoder_name() -> str:
    """Name what decodes and resizes, with versions: pixels may depend on them."""
    libraries = ("libavcodec", "libswscale")
    found = [f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in libraries]
    return f"PyAV {av.__version__}, {', '.join(found)}"


def decode(path: Path, key: str, how: Decoding) -> Frames:
    """Decode a file's first video stream, uint8 `[3, S, S]` RGB frame by frame.

    Raises:
        UnreadableVideo: it is no video, damaged, or ends before its declared end.
    """
    try:
        open_regular(path, links=True).close()  # FFmpeg would wait at a pipe for ever
        # No name is taken for a protocol where it begins with a slash.
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            yield from _decoded(container, key, how)
    except UnreadableVideo:
        raise
    except CannotRead as error:
        missing = "there is no such file"
        reason = missing if error.reason == "is missing" else f"it {error.reason}"
        raise UnreadableVideo(key, reason) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableVideo(key, _reason(error)) from error


def _decoded(container: Any, key: str, how: Decoding) -> Frames:
    pictures = [s for s in container.streams.video if not _is_cover(s)]
    if not pictures:
        raise UnreadableVideo(key, "it has no video stream")
    stream = pictures[0]
    stream.codec_context.thread_count = 1  # one worker, one core
    kept = _chosen(_whole(container, stream, key), key, how)
    for number, frame in enumerate(kept):
        if number >= how.skip and (number - how.skip) % how.every == 0:
            yield _resized(frame, key, how)


def _is_cover(stream: Any) -> bool:
    """Tell the picture of a sound file, or a poster, from a video."""
    return bool(getattr(stream.disposition, "value", 0) & av.stream.Disposition.attached_pic.value)


def _whole(container: Any, stream: Any, key: str) -> Iterator[Any]:
    """Decode every frame, and notice damage and a premature end."""
    count = 0
    first_s = last_s = None
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise UnreadableVideo(key, "a frame is damaged")
        if frame.time is not None:
            first_s = frame.time if first_s is None else first_s
            last_s = frame.time
        count += 1
        yield frame
    if count < stream.frames * (1 - _SHORTFALL):
        raise UnreadableVideo(key, "it ends early: frames are missing")
    declared_s = _declared_s(container, stream)
    if declared_s and first_s is not None and last_s is not None and stream.average_rate:
        shown_s = last_s - first_s + 1 / float(stream.average_rate)
        if shown_s < declared_s * (1 - _SHORTFALL):
            raise UnreadableVideo(key, "it ends early: its declared end is not there")


def _declared_s(container: Any, stream: Any) -> float | None:
    """Return the duration of a stream in seconds; None where only other streams may have it."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if match := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, match.groups())
        return hours * 3600 + minutes * 60 + seconds
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / av.time_base if alone else None


def _chosen(frames: Iterator[Any], key: str, how: Decoding) -> Iterator[Any]:
    """Resample in time: at each tick the last frame that began by then."""
    if how.fps is None:
        yield from frames
        return
    shown, ticks, start_s = None, 0, 0.0
    for frame in frames:
        if frame.time is None:
            raise UnreadableVideo(key, "its frames have no times")
        if shown is None:
            start_s = frame.time
        # Half a millisecond for containers that round times.
        while shown is not None and start_s + ticks / how.fps < frame.time - 5e-4:
            yield shown
            ticks += 1
        shown = frame
    if shown is not None:
        yield shown


def _resized(frame: Any, key: str, how: Decoding) -> NDArray[np.uint8]:
    width, height = _target(frame, key, how)
    picture = _reformatter().reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        interpolation=_FILTERS[how.resample] | _EXACT,
        threads=1,
    )
    image_HWC: NDArray[np.uint8] = np.asarray(picture.to_ndarray(), np.uint8)
    left, top = (width - how.size) // 2, (height - how.size) // 2
    image_HWC = image_HWC[top : top + how.size, left : left + how.size]
    if quarters := round(frame.rotation / 90) % 4:  # held upright by a phone, lying in the file
        image_HWC = np.rot90(image_HWC, quarters)
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))


def _target(frame: Any, key: str, how: Decoding) -> tuple[int, int]:
    """Choose the width and height that a frame is scaled to before it is cropped."""
    if how.fit == "squash":
        return how.size, how.size
    short, long = sorted((frame.width, frame.height))
    if long > _MOST_OBLONG * short:
        raise UnreadableVideo(key, f"{frame.width}x{frame.height} has no square worth keeping")
    scale = how.size / short
    return max(how.size, round(frame.width * scale)), max(how.size, round(frame.height * scale))


def _reformatter() -> VideoReformatter:
    """Return this thread's own: it keeps its tables between frames, and that halves the cost."""
    if not hasattr(_HERE, "reformatter"):
        _HERE.reformatter = VideoReformatter()
    reformatter: VideoReformatter = _HERE.reformatter
    return reformatter


def _reason(error: BaseException) -> str:
    """Say what was wrong without the file's name, so that equal reasons can be counted."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
