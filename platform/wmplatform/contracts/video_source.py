"""The laws of `VideoSource`, runnable; needs no torch."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wmplatform.contracts.laws import Report, fail, law, require, skip
from wmplatform.interfaces.video_source import Video, VideoSource

__all__ = [
    "check_video_source",
    "law_1_keys_are_stable_and_unique",
    "law_2_frames_are_as_declared",
    "law_2_frames_are_the_same_every_time",
    "law_3_undecodable_raises_with_its_key",
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
    report.run(law_3_undecodable_raises_with_its_key, source)
    return report


@law("VideoSource", 1)
def law_1_keys_are_stable_and_unique(source: VideoSource, make: Callable[[], VideoSource]) -> None:
    """Two listings, and that of another copy, give the same keys in the same order."""
    keys = [video.key for video in source.videos()]
    require(bool(keys), "there are no videos")
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    require(not repeated, f"keys are repeated: {repeated[:3]}")
    require(keys == [v.key for v in source.videos()], "a second listing gives another order")
    require(keys == [v.key for v in make().videos()], "another copy gives another order")


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
    """Decoding again, here or in another copy, gives the same frames."""
    video = _video(source, index)
    first = _decode(source, video)
    for name, again in (("the same source", source), ("another copy", make())):
        second = _decode(again, video)
        require(
            len(first) == len(second) and all(map(np.array_equal, first, second)),
            f"{name} decodes {video.key!r} differently the second time",
        )


@law("VideoSource", 3)
def law_3_undecodable_raises_with_its_key(source: VideoSource) -> None:
    """A video that does not exist raises `ValueError` with its key."""
    key = "no-such-video/of the contract check"
    try:
        count = sum(1 for _ in source.frames(Video(key)))
    except ValueError as error:
        require(key in str(error), f"the error does not name the video's key: {error}")
    else:
        fail(f"a video that does not exist yields {count} frames instead of a ValueError")


def _video(source: VideoSource, index: int) -> Video:
    videos = source.videos()
    if not videos:
        skip("there are no videos")
    return videos[index % len(videos)]


def _decode(source: VideoSource, video: Video) -> list[NDArray[np.uint8]]:
    return [frame.copy() for frame in source.frames(video)]
