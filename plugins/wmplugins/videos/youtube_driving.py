"""YouTube driving videos (Zhang et al. 2022, "Learning to Drive by Watching YouTube Videos")."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from wmplatform.interfaces.video_source import Video
from wmplatform.videos.errors import BadSource
from wmplugins.videos.images import Filter, centre_square, fitted, open_image
from wmplugins.videos.places import existing_folder
from wmplugins.videos.sequences import ImageSequences, Sequence

__all__ = ["YouTubeDriving"]

_SUFFIXES = {".jpg", ".jpeg", ".png"}


class YouTubeDriving(ImageSequences):
    """Folders of numbered images, one folder a video; gaps in the numbers part it into runs.

    As ContextWM prepares it: each run is a video of its own, its first 100 images (titles and
    cuts) are left out, of the rest every image whose number is a multiple of 5 is kept, and the
    square in the middle is resized to 64 x 64.

    Args:
        root: folder of the folders.
        size: side of the frames in pixels.
        skip: images left out at the start of each run.
        every: images whose number is no multiple of it are left out.
        resample: `bilinear` as published.
    """

    def __init__(
        self,
        *,
        root: str,
        size: Annotated[int, Ge(1)] = 64,
        skip: Annotated[int, Ge(0)] = 100,
        every: Annotated[int, Ge(1)] = 5,
        resample: Filter = "bilinear",
    ) -> None:
        self.root, self.size = root, size
        self.skip, self.every, self.resample = skip, every, resample

    def sequences(self) -> list[Sequence]:
        """Find the runs.

        Raises:
            BadSource: there is none, or no folder.
        """
        root = existing_folder(self.root)
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        found = [sequence for folder in folders for sequence in self._runs(folder)]
        if not found:
            what = f"no run of more than {self.skip} numbered images in the folders of {self.root}"
            raise BadSource(what, hint="set 'root' to the folder that holds a folder a video")
        return found

    def image(self, key: str, path: Path) -> NDArray[np.uint8]:
        """Cut out the middle and resize it."""
        image = open_image(path, key)
        return fitted(image, self.size, centre_square(*image.size), self.resample)

    def _runs(self, folder: Path) -> Iterator[Sequence]:
        numbered = {_number(path): path for path in folder.iterdir() if _number(path) >= 0}
        for run in _contiguous(sorted(numbered)):
            kept = [number for number in run[self.skip :] if number % self.every == 0]
            if kept:
                video = Video(f"{folder.name}/{run[0]}", folder.name, {"images": str(len(run))})
                yield Sequence(video, tuple(numbered[number] for number in kept))

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Point to a tiny dataset of the same layout, made in a temporary folder."""
        from wmplugins.videos.samples import sample_youtube

        return {"root": sample_youtube(), "size": 16, "skip": 3, "every": 2}


def _number(path: Path) -> int:
    """Return the number at the end of an image's name, or -1."""
    match = re.search(r"(\d+)$", path.stem)
    return int(match[1]) if match and path.suffix.lower() in _SUFFIXES else -1


def _contiguous(numbers: list[int]) -> Iterator[list[int]]:
    """Part sorted numbers where one is missing."""
    run: list[int] = []
    for number in numbers:
        if run and number != run[-1] + 1:
            yield run
            run = []
        run.append(number)
    if run:
        yield run
