"""What sources of single images have in common: a video is a list of image files."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.videos.errors import UnreadableVideo
from wmplugins.videos.images import resizer_name

__all__ = ["ImageSequences", "Sequence"]


@dataclass(frozen=True)
class Sequence:
    """A video, and the files of its frames."""

    video: Video
    files: tuple[Path, ...]


class ImageSequences(VideoSource):
    """A source whose frames are files of their own, so that any part is read at once."""

    root: str
    size: int

    @abstractmethod
    def sequences(self) -> list[Sequence]:
        """List the videos and their files; asked for once."""

    @abstractmethod
    def image(self, key: str, path: Path) -> NDArray[np.uint8]:
        """Read one frame, uint8 `[3, size, size]`.

        Raises:
            UnreadableVideo: it cannot be read.
        """

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(3, size, size)`."""
        return 3, self.size, self.size

    def videos(self) -> list[Video]:
        """List the videos.

        Raises:
            BadSource: a folder or a list is missing.
        """
        return [sequence.video for sequence in self._by_key.values()]

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """Read a video.

        Raises:
            UnreadableVideo: an image is missing or damaged.
        """
        for path in self._files(video):
            yield self.image(video.key, path)

    def frame_count(self, video: Video) -> int:
        """Count the files."""
        return len(self._files(video))

    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        """Read some of a video's files only.

        Raises:
            UnreadableVideo: an image is missing or damaged, or there are fewer.
        """
        files = self._files(video)[start : start + count]
        if len(files) < count:
            raise UnreadableVideo(video.key, f"has fewer than {start + count} frames")
        return np.stack([self.image(video.key, path) for path in files])

    def settings(self) -> dict[str, Any]:
        """Add the resizer's version to the settings; where the files lie does not matter."""
        settings = super().settings()
        del settings["root"]
        return settings | {"decoder": resizer_name()}

    @cached_property
    def _by_key(self) -> dict[str, Sequence]:
        return {sequence.video.key: sequence for sequence in self.sequences()}

    def __getstate__(self) -> dict[str, Any]:
        # Workers list anew what may be millions of files, rather than receive the list.
        return {name: value for name, value in vars(self).items() if name != "_by_key"}

    def _files(self, video: Video) -> tuple[Path, ...]:
        if video.key not in self._by_key:
            raise UnreadableVideo(video.key, "there is no such video")
        return self._by_key[video.key].files
