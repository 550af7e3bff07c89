"""Where pictures of the floor and the background come from: drawn by chance, or a user's files.

Shape letters: S side of a square picture.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import CannotRead, open_regular
from wmplugins.dmcremastered.drawing import Picture, draw_floor, draw_sky
from wmplugins.dmcremastered.looks import Factor, stream

__all__ = ["BadPictures", "DrawnPictures", "FilePictures", "Pictures"]

FOLDERS: dict[Factor, str] = {"background": "skies", "floor": "floors"}
"""Subfolder of a user's pictures for each factor that shows one."""

_KEPT_BYTES = 2**25

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class BadPictures(PlatformError):
    """A folder of pictures is not there or holds nothing usable."""

    exit_code = ExitCode.BAD_INPUT


class Pictures(Protocol):
    """Gives the picture of a visual seed."""

    def picture(self, factor: Factor, visual_seed: int) -> Picture:
        """Return the picture for `floor` or `background`, always the same; uint8 `[S, S, 3]`."""


class DrawnPictures:
    """Draws a picture for each visual seed: 1 ms for a floor, 2 ms for a background.

    The last ones are kept, 340 of each kind at 128 texels: a small pool is drawn once.

    Args:
        size: side of a picture in texels.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept = lru_cache(maxsize=_KEPT_BYTES // (3 * size * size))(self._draw)

    def picture(self, factor: Factor, visual_seed: int) -> Picture:
        """Return the picture of a visual seed; not to be written to."""
        return self._kept(factor, visual_seed)

    def _draw(self, factor: Factor, visual_seed: int) -> Picture:
        draw = draw_floor if factor == "floor" else draw_sky
        return draw(stream(visual_seed, factor), self._size)


class FilePictures:
    """Chooses a file for each visual seed: those in `floors/` and `skies/` of a folder, by name.

    A picture is cropped to a square around its middle, shrunk, and then kept (50 kB at 128 texels).

    Args:
        root: the folder.
        size: side of a picture in texels.
        factors: which of `floor` and `background` are needed.

    Raises:
        BadPictures: the folder of a factor is not there or holds no picture.
    """

    def __init__(self, root: str, size: int, factors: Iterable[Factor]) -> None:
        self._size = size
        folder = Path(root).expanduser()
        self._files = {f: _files(folder / FOLDERS[f]) for f in factors if f in FOLDERS}
        self._read: dict[Path, Picture] = {}

    def picture(self, factor: Factor, visual_seed: int) -> Picture:
        """Return the picture that the visual seed chooses; not to be written to.

        Raises:
            BadPictures: the file cannot be read.
        """
        files = self._files[factor]
        file = files[stream(visual_seed, factor).integers(len(files))]
        if file not in self._read:
            self._read[file] = _read(file, self._size)
        return self._read[file]


def _files(folder: Path) -> list[Path]:
    hint = "set 'pictures' to a folder with the subfolders floors and skies, or to None"
    if not folder.is_dir():
        where = f"looked from {Path.cwd()}"
        raise BadPictures(f"there is no folder {str(folder)!r}", where=where, hint=hint)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        hint = f"{hint}\npictures are files with {', '.join(_SUFFIXES)}"
        raise BadPictures(f"there are no pictures in {str(folder)!r}", hint=hint)
    return files


def _read(file: Path, size: int) -> Picture:
    try:
        with open_regular(file, links=True) as regular, Image.open(regular) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BOX)
    except (CannotRead, OSError, ValueError, Image.DecompressionBombError) as error:
        reason = error.what if isinstance(error, CannotRead) else error
        what = f"cannot read the picture {str(file)!r}: {reason}"
        raise BadPictures(what, hint="replace the file or take it out of the folder") from error
    return np.asarray(square)
