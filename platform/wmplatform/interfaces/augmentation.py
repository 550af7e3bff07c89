"""Augmentation: random changes of images, on the learner's side only."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["Augmentation"]


class Augmentation(nn.Module, ABC):
    """Changes images at random.

    Laws:

    1. Shape and dtype stay; values stay within the range of the input's kind (uint8 0..255,
       centred float -0.5..0.5).
    2. Frames are drawn independently over the first dim, and rows do not mix.
    3. Equal random states give equal results; no gradient is needed.
    """

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Augment `[N, C, H, W]`."""
