"""Demonstration episodes in DreamerV2's files, such as APV's videos of RLBench tasks."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from PIL import Image

from wmplatform.files import CannotRead
from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.videos.errors import BadSource, UnreadableVideo
from wmplugins.videos.arrays import BadArray, StoredArray, open_array
from wmplugins.videos.images import Filter, fitted, resizer_name
from wmplugins.videos.places import existing_folder, size_of

__all__ = ["NpzEpisodes"]

_MOST_BYTES = 1 << 32
"""Of the images of an episode: ten thousand steps of 360 x 360 have less."""
_MOST_IMAGE_BYTES = 1 << 28


class NpzEpisodes(VideoSource):
    """Compressed episodes `*.npz` with `image`, uint8 `[T, H, W, 3]`; nothing else is read.

    APV's are 64 x 64 already and taken as they are; other sizes are resized. The name of the folder
    that a file lies in is its label.

    Args:
        root: folder; folders below it are searched too.
        size: side of the frames in pixels.
        array: name of the array of images.
        resample: filter of the resizing, where there is any.
    """

    def __init__(
        self,
        *,
        root: str,
        size: Annotated[int, Ge(1)] = 64,
        array: str = "image",
        resample: Filter = "area",
    ) -> None:
        self.root, self.size, self.array, self.resample = root, size, array, resample

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(3, size, size)`."""
        return 3, self.size, self.size

    def videos(self) -> list[Video]:
        """List the files by path.

        Raises:
            BadSource: there is no such folder, or no episode in it.
        """
        root = existing_folder(self.root)
        paths = sorted(root.rglob("*.npz"))
        if not paths:
            raise BadSource(f"no .npz file in {self.root}", hint="set 'root'")
        found = []
        for path in paths:
            inside = path.relative_to(root)
            label = inside.parent.name or None
            found.append(Video(inside.as_posix(), label, {"bytes": size_of(path)}))
        return found

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """Unpack an episode.

        Raises:
            UnreadableVideo: it is damaged or has no such images.
        """
        path = Path(self.root).expanduser() / video.key
        try:
            with open_array(path, self.array, most_bytes=_MOST_BYTES) as images:
                self._check(images, video.key)
                for image_HWC in images.rows():
                    yield self._fitted(image_HWC)
        except CannotRead as error:
            missing = "there is no such file"
            reason = missing if error.reason == "is missing" else f"it {error.reason}"
            raise UnreadableVideo(video.key, reason) from None
        except BadArray as error:
            raise UnreadableVideo(video.key, str(error)) from error

    def settings(self) -> dict[str, Any]:
        """Add the resizer's version to the settings; where the files lie does not matter."""
        settings = super().settings()
        del settings["root"]
        return settings | {"decoder": resizer_name()}

    def _check(self, images: StoredArray, key: str) -> None:
        """Look at the header of an array of images.

        Raises:
            UnreadableVideo: it holds something else.
        """
        shape, kind = images.shape, f"{images.dtype} {list(images.shape)}"
        if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
            raise UnreadableVideo(key, f"its images are {kind}, not uint8 [T, H, W, 3]")
        if images.fortran or math.prod(shape[1:]) > _MOST_IMAGE_BYTES:
            raise UnreadableVideo(key, f"its images {kind} are too large, or not in order of time")

    def _fitted(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image_HWC.shape[:2] == (self.size, self.size):
            return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))
        return fitted(Image.fromarray(image_HWC), self.size, None, self.resample)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Point to two tiny episodes, made in a temporary folder."""
        from wmplugins.videos.samples import sample_episodes

        return {"root": sample_episodes(), "size": 16}
