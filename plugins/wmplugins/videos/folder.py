"""Any video files in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.videos.errors import BadSource
from wmplugins.videos.decoding import Decoding, Fit, Resample, decode, decoder_name
from wmplugins.videos.places import existing_folder, size_of

__all__ = ["SUFFIXES", "VideoFiles", "VideoFolder"]

SUFFIXES: tuple[str, ...] = (
    ".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip
"""Endings of files that are taken for videos; what is in them decides how they are decoded."""


class VideoFiles(VideoSource):
    """What sources of video files have in common: a file a video, decoded by PyAV.

    A subclass lists the videos; the key of each is its file's path below `root`.

    Args:
        root: folder.
        size: side of the frames in pixels.
        fit: `squash` gives up the aspect ratio, `center_crop` keeps the square in the middle.
        resample: filter of the resizing.
        fps: frames per second; every coded frame, at whatever rate, by default.
        skip: frames left out at the start of each video.
        every: keep every n-th frame after that.
    """

    def __init__(
        self,
        *,
        root: str,
        size: Annotated[int, Ge(1)] = 64,
        fit: Fit = "squash",
        resample: Resample = "bicubic",
        fps: Annotated[float, Gt(0)] | None = None,
        skip: Annotated[int, Ge(0)] = 0,
        every: Annotated[int, Ge(1)] = 1,
    ) -> None:
        self.root = root
        self.size, self.fit, self.resample = size, fit, resample
        self.fps, self.skip, self.every = fps, skip, every

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(3, size, size)`."""
        return 3, self.size, self.size

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """Decode a file.

        Raises:
            UnreadableVideo: it is missing, no video, damaged or cut off.
        """
        how = Decoding(self.size, self.fit, self.resample, self.fps, self.skip, self.every)
        return decode(self.path(video), video.key, how)

    def path(self, video: Video) -> Path:
        """Name the file of a video."""
        return Path(self.root, video.key)

    def settings(self) -> dict[str, Any]:
        """Add the decoder's version to the settings; where the files lie does not matter."""
        settings = super().settings()
        del settings["root"]
        return settings | {"decoder": decoder_name()}


class VideoFolder(VideoFiles):
    """Every video file in a folder and the folders below it.

    The name of the folder that a file lies in is its label, as many datasets have it.

    Args:
        root: folder.
        size: side of the frames in pixels.
        fit: `squash` gives up the aspect ratio, `center_crop` keeps the square in the middle.
        resample: filter of the resizing.
        fps: frames per second; every coded frame, at whatever rate, by default.
        skip: frames left out at the start of each video.
        every: keep every n-th frame after that.
        suffixes: endings of the files that are taken for videos.
    """

    def __init__(
        self,
        *,
        root: str,
        size: Annotated[int, Ge(1)] = 64,
        fit: Fit = "squash",
        resample: Resample = "bicubic",
        fps: Annotated[float, Gt(0)] | None = None,
        skip: Annotated[int, Ge(0)] = 0,
        every: Annotated[int, Ge(1)] = 1,
        suffixes: tuple[str, ...] = SUFFIXES,
    ) -> None:
        super().__init__(
            root=root, size=size, fit=fit, resample=resample, fps=fps, skip=skip, every=every
        )
        self.suffixes = tuple(suffix.lower() for suffix in suffixes)

    def videos(self) -> list[Video]:
        """List the files by path.

        Raises:
            BadSource: there is no such folder, or no video in it.
        """
        root = existing_folder(self.root)
        found = [
            Path(folder, name)
            for folder, _, names in os.walk(root, followlinks=True)
            for name in names
            if Path(name).suffix.lower() in self.suffixes
        ]
        if not found:
            raise BadSource(f"no video in {root}", hint=f"looked for {', '.join(self.suffixes)}")
        return sorted((self._video(path, root) for path in found), key=lambda video: video.key)

    def _video(self, path: Path, root: Path) -> Video:
        inside = path.relative_to(root)
        label = inside.parent.name or None
        return Video(inside.as_posix(), label, {"bytes": size_of(path)})

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Point to a few tiny videos, made in a temporary folder."""
        from wmplugins.videos.samples import sample_folder

        return {"root": sample_folder(), "size": 16}
