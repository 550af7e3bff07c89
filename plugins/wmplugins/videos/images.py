"""Single images through Pillow: squares cut out of them and resized.

Shape letters: C H W image, S side of the square.
"""

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from wmplatform.files import CannotRead, open_regular
from wmplatform.videos.errors import UnreadableVideo

__all__ = ["Box", "Filter", "centre_square", "fitted", "open_image", "resizer_name"]

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
Filter: TypeAlias = Literal["bilinear", "bicubic", "area"]

_FILTERS = {
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def resizer_name() -> str:
    """Name what decodes and resizes, with its version: pixels may depend on it."""
    return f"Pillow {PIL.__version__}"


def open_image(path: Path, key: str) -> Image.Image:
    """Read an image of any kind as RGB.

    Args:
        path: the file.
        key: of the video that it belongs to.

    Raises:
        UnreadableVideo: it is missing, no image, or cut off.
    """
    try:
        with open_regular(path, links=True) as file, Image.open(file) as image:
            return image.convert("RGB")
    except CannotRead as error:
        raise UnreadableVideo(key, f"an image {error.reason}") from None
    # Pillow's decoders raise SyntaxError and others for damaged files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "cut off" if "truncated" in str(error) else "damaged, or no image"
        raise UnreadableVideo(key, f"an image is {reason}") from error


def centre_square(width: int, height: int) -> Box:
    """Return the largest square in the middle of an image."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def fitted(image: Image.Image, size: int, box: Box | None, resample: Filter) -> NDArray[np.uint8]:
    """Cut a box out of an image, or take all of it, and resize to uint8 `[3, S, S]`."""
    if box is not None:  # before resizing, so that nothing around it bleeds in
        left, top, right, bottom = box
        width, height = int(right - left), int(bottom - top)
        image = image.crop((int(left), int(top), int(left) + width, int(top) + height))
    small = image.resize((size, size), _FILTERS[resample])
    return np.ascontiguousarray(np.asarray(small, np.uint8).transpose(2, 0, 1))
