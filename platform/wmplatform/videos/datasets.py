"""What clips are cut from: prepared shards, or a source that is decoded as one goes.

Both give the same clips for the same videos: a place in a video is a number in 0 .. 1 until the
video's length is known. This file imports no torch.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.videos.blocks import checked_frames
from wmplatform.videos.errors import UnreadableVideo
from wmplatform.videos.shards import Shards

__all__ = ["Cut", "Dataset", "LiveVideos", "PreparedVideos", "TooShort"]

Frames = NDArray[np.uint8]


class TooShort(Exception):  # noqa: N818 - an answer: draw another video
    """A video turned out to be too short for a clip.

    Attributes:
        frames: how many it has.
    """

    def __init__(self, frames: int) -> None:
        self.frames = frames
        super().__init__(f"has {frames} frames")


@dataclass(frozen=True)
class Cut:
    """How clips are cut from videos."""

    length: int
    stride: int
    min_frames: int
    """Frames that a video must have, if that is more than a clip spans."""
    prioritize_ends: bool = False
    """Let `span` more draws fall on a video's last clip, as in DreamerV2's replay."""

    @property
    def span(self) -> int:
        """Frames from a clip's first to its last."""
        return (self.length - 1) * self.stride + 1

    @property
    def need(self) -> int:
        """Frames that a video must have."""
        return max(self.span, self.min_frames)

    def start(self, place: float, frames: int) -> int:
        """Turn a place in 0 .. 1 into one of the `frames - span + 1` starts.

        40 frames and clips of 25 with prioritised ends: 41 draws, 26 of which give start 15.
        """
        last = frames - self.span
        draws = last + 1 + (self.span if self.prioritize_ends else 0)
        return min(int(place * draws), last)


class Dataset(ABC):
    """Videos by number, and clips of them."""

    name: str
    """For messages."""
    frame_shape: tuple[int, int, int]
    keys: Sequence[str]
    labels: Sequence[str | None]
    groups: Sequence[str]
    group_weights: Mapping[str, float]
    fingerprint: str
    """Another one means other videos."""
    lengths: NDArray[np.int64] | None
    """Frames of each video `[V]`, where they are known."""

    @abstractmethod
    def clip(self, number: int, place: float, cut: Cut) -> Frames:
        """Cut a clip, uint8 `[length, C, H, W]`; may be a view.

        Raises:
            TooShort: the video is.
            UnreadableVideo: it cannot be decoded.
        """


class PreparedVideos(Dataset):
    """The shards in a folder."""

    def __init__(self, folder: Path | str) -> None:
        self.shards = Shards(folder)
        self.name = str(folder)
        self.frame_shape = self.shards.frame_shape
        self.keys, self.labels = self.shards.keys, self.shards.labels
        self.groups, self.group_weights = self.shards.groups, self.shards.group_weights
        self.fingerprint, self.lengths = self.shards.fingerprint, self.shards.lengths

    def clip(self, number: int, place: float, cut: Cut) -> Frames:
        """Slice the memory map."""
        frames = int(self.shards.lengths[number])
        if frames < cut.need:
            raise TooShort(frames)
        return self.shards.clip(number, cut.start(place, frames), cut.length, cut.stride)


class LiveVideos(Dataset):
    """A source, decoded whenever a clip is cut.

    Much slower than shards: the whole video up to the clip's end is decoded, and at a video's
    first clip the rest too where the source does not know its length.
    """

    lengths = None

    def __init__(self, source: VideoSource) -> None:
        self.source = source
        self.videos: list[Video] = source.videos()
        self.name = str(source.settings()["class"])
        self.frame_shape = source.frame_shape
        self.keys = [video.key for video in self.videos]
        self.labels = [video.label for video in self.videos]
        self.groups = [video.group for video in self.videos]
        self.group_weights = source.group_weights()
        text = json.dumps([source.settings(), self.keys], sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self._counted: dict[int, int] = {}

    def clip(self, number: int, place: float, cut: Cut) -> Frames:
        """Decode a part of a video."""
        video = self.videos[number]
        frames = self._length(number)
        if frames < cut.need:
            raise TooShort(frames)
        try:
            part = self.source.read(video, cut.start(place, frames), cut.span)
        except UnreadableVideo:
            raise
        except (ValueError, OSError) as error:
            raise UnreadableVideo(video.key, str(error)) from error
        return np.asarray(part[:: cut.stride], np.uint8)

    def _length(self, number: int) -> int:
        if number not in self._counted:
            known = self.source.frame_count(self.videos[number])
            if known is None:  # counted one by one: a long video need not fit into memory
                known = sum(1 for _ in checked_frames(self.source, self.videos[number]))
            self._counted[number] = known
        return self._counted[number]
