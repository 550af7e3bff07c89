"""VideoSource: videos without actions to pre-train on. This file imports no torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["Video", "VideoSource"]


@dataclass(frozen=True)
class Video:
    """One video of a source, not yet decoded."""

    key: str
    """Unique and stable within its source."""
    label: str | None = None
    """Class, task, action, ...: what analyses group videos by."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """What else is known without decoding; a source's files should give their sizes, so that a
    changed file is noticed."""
    group: str = ""
    """Part of a mixture that it comes from; drawn with the weight in `group_weights`."""


class VideoSource(ABC):
    """A set of videos, read one at a time, at times by several threads at once.

    Laws:

    1. `videos` gives the same videos in the same order every time, and no key twice.
    2. `frames` yields uint8 `[C, H, W]` of the declared size, in order, the same every time:
       whatever is written into frames, and while other videos are decoded.
    3. A video that cannot be decoded raises `ValueError` with its key; it never yields garbage.
    4. `settings` is JSON, and equal for two copies that were made alike.
    5. `frame_count`, where it is given, counts the frames, and `read` gives a part of them, or
       raises where there are fewer.
    6. A source can be pickled, and its copy is the same: workers get copies.
    7. `group_weights` has a finite weight above 0 for every group of the videos, and no other.

    Whether frames are those of the file, and in its order, only the file could say.
    """

    @property
    @abstractmethod
    def frame_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every frame."""

    @abstractmethod
    def videos(self) -> list[Video]:
        """List what there is, without decoding."""

    @abstractmethod
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """Decode one video frame by frame; each frame has memory of its own."""

    def frame_count(self, video: Video) -> int | None:
        """Count the frames of a video where that needs no decoding; None where it does."""
        return None

    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        """Decode a part of a video, uint8 `[count, C, H, W]`.

        By default everything before it is decoded too; a source that can do better does.

        Raises:
            ValueError: it cannot be decoded or has fewer frames; names its key.
        """
        part = list(islice(self.frames(video), start, start + count))
        if len(part) < count:
            raise ValueError(f"{video.key}: has fewer than {start + count} frames")
        return np.stack(part)

    def group_weights(self) -> Mapping[str, float]:
        """How often each group of videos is drawn, relative to the others."""
        return {"": 1.0}

    def settings(self) -> dict[str, Any]:
        """Everything that decides which videos there are and what their frames look like.

        By default the class and its public attributes. Prepared data is refused when they change.
        """
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **public}
