"""VideoSource: videos without actions to pre-train on. This file imports no torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Video", "VideoSource"]


@dataclass(frozen=True)
class Video:
    """One video of a source, not yet decoded."""

    key: str
    """Unique and stable within its source."""
    label: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


class VideoSource(ABC):
    """A set of videos, read one at a time.

    Laws:

    1. `videos` gives the same keys in the same order every time, without repeats.
    2. `frames` yields uint8 `[C, H, W]` of the declared size, in order, the same every time.
    3. A video that cannot be decoded raises `ValueError` with its key; it never yields garbage.
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
        """Decode one video frame by frame."""
