"""Augmentations of the context frame (ContextWM section 4.2 and appendix).

Shape letters: N frames, C H W image. All act on centred floats, each frame by itself.
"""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional as F

from wmplatform.interfaces import Augmentation

__all__ = ["Erasing", "Flip", "ResizedCrop"]

_Share = Annotated[float, Interval(ge=0.0, le=1.0)]


def _uniform(count: int, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(count, device=like.device) * (high - low) + low


def erased_size(area_px: Tensor, ratio: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Height and width in pixels of a rectangle of that area and height / width ratio."""
    tall = (area_px * ratio).sqrt().round().clamp(1, height)
    wide = (area_px / ratio).sqrt().round().clamp(1, width)
    return tall, wide


class Erasing(Augmentation):
    """Fill a random rectangle with `fill` ("Cutout" in the paper, random erasing elsewhere).

    Area, ratio and place are drawn for each frame; the ratio is below or above 1 with equal odds.
    """

    def __init__(
        self,
        *,
        probability: _Share = 0.5,
        area: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        fill: Annotated[float, Interval(ge=-0.5, le=0.5)] = 0.0,
    ) -> None:
        """Keep the settings.

        Args:
            probability: that a frame is changed.
            area: smallest and largest share of the frame.
            ratio: smallest and largest height / width.
            fill: centred value; 0 is mid-grey.
        """
        super().__init__()
        self.probability, self.area, self.ratio, self.fill = probability, area, ratio, fill

    def forward(self, images: Tensor) -> Tensor:
        """Erase in `[N, C, H, W]`."""
        count, _, height, width = images.shape
        area = _uniform(count, images, *self.area) * (height * width)
        flat, steep = (
            _uniform(count, images, self.ratio[0], 1.0),
            _uniform(count, images, 1.0, self.ratio[1]),
        )
        ratio = torch.where(_uniform(count, images) < 0.5, flat, steep)
        tall, wide = erased_size(area, ratio, height, width)
        left = (_uniform(count, images) * (width - wide + 1)).floor()
        top = (_uniform(count, images) * (height - tall + 1)).floor()
        inside = (
            _between(top, tall, height)[:, None, :, None]
            & _between(left, wide, width)[:, None, None, :]
        )
        chosen = _uniform(count, images) < self.probability
        fill = round((self.fill + 0.5) * 255) if images.dtype == torch.uint8 else self.fill
        return images.masked_fill(inside & chosen[:, None, None, None], fill)


def _between(start_N: Tensor, size_N: Tensor, length: int) -> Tensor:
    """Positions within `[start, start + size)`, bool `[N, length]`."""
    place = torch.arange(length, device=start_N.device)
    return (place >= start_N[:, None]) & (place < (start_N + size_N)[:, None])


class Flip(Augmentation):
    """Mirror a frame left to right with a probability.

    Args:
        probability: that a frame is mirrored.
    """

    def __init__(self, *, probability: _Share = 0.5) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, images: Tensor) -> Tensor:
        """Flip `[N, C, H, W]`."""
        chosen = _uniform(len(images), images) < self.probability
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


class ResizedCrop(Augmentation):
    """Cut a rectangle of random area, ratio and place, and resize it to the frame ("scale")."""

    def __init__(
        self,
        *,
        area: tuple[float, float] = (0.6667, 1.0),
        ratio: tuple[float, float] = (0.75, 4.0 / 3.0),
    ) -> None:
        """Keep the settings.

        Args:
            area: smallest and largest share of the frame.
            ratio: smallest and largest width / height, uniform in its logarithm.
        """
        super().__init__()
        self.area, self.ratio = area, ratio

    def forward(self, images: Tensor) -> Tensor:
        """Crop and resize `[N, C, H, W]`, bilinear."""
        count = len(images)
        area = _uniform(count, images, *self.area)
        low, high = torch.tensor(self.ratio).log().tolist()
        ratio = _uniform(count, images, low, high).exp()
        wide, tall = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
        x = _uniform(count, images, -1.0, 1.0) * (1 - wide)
        y = _uniform(count, images, -1.0, 1.0) * (1 - tall)
        zero = torch.zeros_like(x)
        transform = torch.stack(
            [torch.stack([wide, zero, x], -1), torch.stack([zero, tall, y], -1)], 1
        )
        grid = F.affine_grid(transform, list(images.shape), align_corners=False)
        cut = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return cut.round().to(images.dtype) if images.dtype == torch.uint8 else cut
