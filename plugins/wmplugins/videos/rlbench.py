"""Demonstration episodes in DreamerV2's files, such as APV's videos of RLBench tasks."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from PIL import Image

from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.videos.errors import BadSource, UnreadableVideo
from wmplugins.videos.images import Filter, fitted, resizer_name
from wmplugins.videos.places import existing_folder

__all__ = ["NpzEpisodes"]


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
            inside, size = path.relative_to(root), path.stat().st_size
            label = inside.parent.name or None
            found.append(Video(inside.as_posix(), label, {"bytes": str(size)}))
        return found

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """Unpack an episode.

        Raises:
            UnreadableVideo: it is damaged or has no such images.
        """
        images_THWC = self._images(video)
        if images_THWC.shape[1:3] == (self.size, self.size):
            yield from np.ascontiguousarray(images_THWC.transpose(0, 3, 1, 2)).copy()
            return
        for image_HWC in images_THWC:
            yield fitted(Image.fromarray(image_HWC), self.size, None, self.resample)

    def settings(self) -> dict[str, Any]:
        """Add the resizer's version to the settings; where the files lie does not matter."""
        settings = super().settings()
        del settings["root"]
        return settings | {"decoder": resizer_name()}

    def _images(self, video: Video) -> np.ndarray:
        try:
            path = Path(self.root).expanduser() / video.key
            with path.open("rb") as file, np.load(file) as arrays:
                images = np.asarray(arrays[self.array])
        except FileNotFoundError:
            raise UnreadableVideo(video.key, "there is no such file") from None
        except KeyError:
            raise UnreadableVideo(video.key, f"it has no array {self.array!r}") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UnreadableVideo(video.key, "it is damaged, or no .npz file") from error
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            kind = f"{images.dtype} {list(images.shape)}"
            raise UnreadableVideo(video.key, f"its images are {kind}, not uint8 [T, H, W, 3]")
        return images

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Point to two tiny episodes, made in a temporary folder."""
        from wmplugins.videos.samples import sample_episodes

        return {"root": sample_episodes(), "size": 16}
