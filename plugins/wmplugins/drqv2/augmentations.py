"""Random shift (DrQ, Kostrikov et al. 2020; DrQ-v2 section 3.1).

Shape letters: N images, C H W image.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from wmplatform.interfaces import Augmentation

__all__ = ["Shift", "shifted"]


def shifted(images: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """Cut a window of the same size out of images whose border is repeated `pad` times.

    One gather, in whatever dtype the images have. Bilinear sampling of the same window, as in the
    authors' code, differs by rounding alone, less than 0.01 grey levels.

    Args:
        images: `[N, C, H, W]`.
        top: int64 `[N]`, the window's first row in the padded image, 0..2 pad; pad changes nothing.
        left: the same for columns.
        pad: pixels on every side.
    """
    _, channels, height, width = images.shape
    rows = _window(top, height, pad)
    columns = _window(left, width, pad)
    taken = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    index = taken[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view_as(images)


def _window(start_N: Tensor, length: int, pad: int) -> Tensor:
    """Pixels that a window shows, `[N, length]`."""
    place = torch.arange(-pad, length - pad, device=start_N.device)
    return (start_N[:, None] + place).clamp_(0, length - 1)


class Shift(Augmentation):
    """Move each image by up to `pad` pixels each way; the border is repeated.

    All channels of an image move alike, so that stacked frames still fit. 4 pixels at 84 x 84 in
    DrQ-v2.

    Args:
        pad: most pixels, in both directions.
    """

    def __init__(self, *, pad: Annotated[int, Ge(1)] = 4) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, images: Tensor) -> Tensor:
        """Shift `[N, C, H, W]` by whole pixels."""
        size = (2, len(images))
        top, left = torch.randint(0, 2 * self.pad + 1, size, device=images.device)
        return shifted(images, top, left, self.pad)
