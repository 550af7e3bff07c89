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
    3. Equal random states give equal results, and others others; no gradient is needed.
    4. All channels of an image change alike (unless it `recolours`), so that a stack of frames on
       the channel axis stays one scene.
    5. Train and eval mode do not matter: who wants no augmentation does not call it.
    6. An image changes as its bytes do: uint8 and centred float agree to within a grey level.

    Whether a change leaves what matters in the picture no law can see.
    """

    recolours: bool = False
    """Changes the three colours of a frame differently; equal frames of a stack still alike."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Augment `[N, C, H, W]`."""
