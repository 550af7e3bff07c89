"""The laws of `VideoSource`, runnable; needs no torch."""

import json
import math
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.contracts.laws import Report, fail, law, require, skip
from wmplatform.interfaces.video_source import Video, VideoSource

__all__ = [
    "check_video_source",
    "law_1_keys_are_stable_and_unique",
    "law_2_frames_are_as_declared",
    "law_2_frames_are_the_same_every_time",
    "law_2_videos_do_not_disturb_each_other",
    "law_3_undecodable_raises_with_its_key",
    "law_4_settings_are_json_and_stable",
    "law_5_lengths_and_parts_agree",
    "law_6_a_pickled_copy_decodes_the_same",
    "law_7_groups_are_weighted",
]


def check_video_source(
    make: Callable[[], VideoSource], *, videos: int = 3, seed: int = 0, collect: bool = False
) -> Report:
    """Run every law of `VideoSource`.

    Args:
        make: builds the source; called twice.
        videos: how many videos are decoded.
        seed: which ones.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("VideoSource", collect=collect)
    source = make()
    report.run(law_1_keys_are_stable_and_unique, source, make)
    chosen = np.random.default_rng(seed).permutation(len(source.videos()))[:videos]
    for index in chosen:
        report.run(law_2_frames_are_as_declared, source, int(index))
        report.run(law_2_frames_are_the_same_every_time, source, make, int(index))
        report.run(law_5_lengths_and_parts_agree, source, int(index))
        report.run(law_6_a_pickled_copy_decodes_the_same, source, int(index))
    report.run(law_2_videos_do_not_disturb_each_other, source, seed)
    report.run(law_3_undecodable_raises_with_its_key, source)
    report.run(law_4_settings_are_json_and_stable, source, make)
    report.run(law_7_groups_are_weighted, source)
    return report


@law("VideoSource", 1)
def law_1_keys_are_stable_and_unique(source: VideoSource, make: Callable[[], VideoSource]) -> None:
    """Two listings, and that of another copy, give the same videos in the same order."""
    videos = source.videos()
    keys = [video.key for video in videos]
    require(bool(keys), "there are no videos")
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    require(not repeated, f"keys are repeated: {repeated[:3]}")
    for name, again in (("a second listing", source), ("another copy", make())):
        others = again.videos()
        require(keys == [video.key for video in others], f"{name} gives another order")
        require(videos == others, f"{name} says something else of the videos than their keys")


@law("VideoSource", 2)
def law_2_frames_are_as_declared(source: VideoSource, index: int) -> None:
    """Frames are uint8 of the declared shape, and no frame is overwritten by a later one."""
    video = _video(source, index)
    frames, copies = [], []
    for frame in source.frames(video):
        frames.append(frame)
        copies.append(frame.copy())
    require(bool(frames), f"video {video.key!r} has no frame")
    for i, frame in enumerate(frames):
        require(
            frame.dtype == np.uint8 and frame.shape == source.frame_shape,
            f"frame {i} of {video.key!r} is {frame.dtype} {frame.shape}, not uint8 "
            f"{source.frame_shape}",
        )
        require(
            np.array_equal(frame, copies[i]), f"frame {i} of {video.key!r} changes after its turn"
        )


@law("VideoSource", 2)
def law_2_frames_are_the_same_every_time(
    source: VideoSource, make: Callable[[], VideoSource], index: int
) -> None:
    """Decoding again, here or in another copy, gives the same frames.

    Whatever was written into the frames of before.
    """
    video = _video(source, index)
    lent = list(source.frames(video))
    first = [frame.copy() for frame in lent]
    for frame in lent:
        if frame.flags.writeable:
            frame ^= np.uint8(255)
    for name, again in (("the same source", source), ("another copy", make())):
        second = _decode(again, video)
        require(
            len(first) == len(second) and all(map(np.array_equal, first, second)),
            f"{name} decodes {video.key!r} differently the second time",
        )


@law("VideoSource", 2)
def law_2_videos_do_not_disturb_each_other(source: VideoSource, index: int) -> None:
    """Decoding two videos in turns gives the frames of each one alone."""
    video, other = _video(source, index), _video(source, index + 1)
    alone, beside, frames = _decode(source, video), source.frames(other), []
    for frame in source.frames(video):
        frames.append(frame)
        next(beside, None)
    require(
        len(alone) == len(frames) and all(map(np.array_equal, alone, frames)),
        f"{video.key!r} gives other frames where {other.key!r} is decoded in turns with it",
    )


@law("VideoSource", 3)
def law_3_undecodable_raises_with_its_key(source: VideoSource) -> None:
    """A video that does not exist raises `ValueError` with its key, read whole or in part."""
    video = Video("no-such-video/of the contract check")
    for name, decode in (
        ("decoded", lambda: list(source.frames(video))),
        ("read", lambda: list(source.read(video, 0, 1))),
    ):
        _require_refused(decode, video, f"{name} though it does not exist")


@law("VideoSource", 4)
def law_4_settings_are_json_and_stable(
    source: VideoSource, make: Callable[[], VideoSource]
) -> None:
    """The settings survive JSON, and another copy has the same."""
    try:
        text = json.dumps(source.settings(), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        fail(f"settings are not JSON: {error}")
    other = json.dumps(make().settings(), allow_nan=False, sort_keys=True)
    require(text == other, f"another copy has other settings: {other}, not {text}")


@law("VideoSource", 5)
def law_5_lengths_and_parts_agree(source: VideoSource, index: int) -> None:
    """The count is that of the frames, and a part equals those frames of the whole.

    There is no part beyond the end.
    """
    video = _video(source, index)
    whole = _decode(source, video)
    length = source.frame_count(video)
    require(
        length is None or length == len(whole),
        f"{video.key!r} has {len(whole)} frames, not {length}",
    )
    start = len(whole) // 2
    count = max(1, len(whole) - start - 1)
    for size in (count, 1):
        part, expected = source.read(video, start, size), np.stack(whole[start : start + size])
        require(
            part.shape == expected.shape and np.array_equal(part, expected),
            f"read({video.key!r}, {start}, {size}) differs from those frames",
        )
        if part.flags.writeable:
            part ^= np.uint8(255)
    beyond = len(whole) - start + 1
    _require_refused(
        lambda: list(source.read(video, start, beyond)),
        video,
        f"read for {beyond} frames from {start}, of {len(whole)},",
    )


@law("VideoSource", 6)
def law_6_a_pickled_copy_decodes_the_same(source: VideoSource, index: int) -> None:
    """A copy as a worker process gets it lists the same videos, and gives the same frames."""
    try:
        copy = ForkingPickler.loads(ForkingPickler.dumps(source))
    except Exception as error:  # noqa: BLE001 - pickling raises whatever the parts raise
        fail(f"it cannot be pickled: {type(error).__name__}: {error}")
    require(source.videos() == copy.videos(), "a pickled copy lists other videos")
    require(source.settings() == copy.settings(), "a pickled copy has other settings")
    video = _video(source, index)
    first, second = _decode(source, video), _decode(copy, video)
    require(
        len(first) == len(second) and all(map(np.array_equal, first, second)),
        f"a pickled copy decodes {video.key!r} differently",
    )


@law("VideoSource", 7)
def law_7_groups_are_weighted(source: VideoSource) -> None:
    """Every group of videos has a weight, no other has, and weights are finite and above 0."""
    weights = dict(source.group_weights())
    groups = {video.group for video in source.videos()}
    require(
        groups == set(weights),
        f"group_weights names {sorted(weights)}, videos are of {sorted(groups)}",
    )
    bad = {name: weight for name, weight in weights.items() if not 0 < weight < math.inf}
    require(not bad, f"weights are not finite numbers above 0: {bad}")


def _video(source: VideoSource, index: int) -> Video:
    videos = source.videos()
    if not videos:
        skip("there are no videos")
    return videos[index % len(videos)]


def _require_refused(decode: Callable[[], list[Any]], video: Video, what: str) -> None:
    """Break the law unless decoding raises `ValueError` with the video's key."""
    try:
        count = len(decode())
    except ValueError as error:
        require(video.key in str(error), f"the error does not name the video's key: {error}")
    else:
        fail(f"{video.key!r} is {what} and yields {count} frames instead of a ValueError")


def _decode(source: VideoSource, video: Video) -> list[NDArray[np.uint8]]:
    return [frame.copy() for frame in source.frames(video)]
