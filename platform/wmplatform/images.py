"""The one place where uint8 images become floats, and back."""

import torch
from torch import Tensor

__all__ = ["to_centred", "to_uint8"]


def to_centred(images: Tensor) -> Tensor:
    """Centre images on zero: uint8 0..255 to float32 -0.5..0.5. Floats pass through untouched.

    Zero is mid-grey, which matters wherever images are padded or erased.
    """
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255.0).sub_(0.5)
    return images


def to_uint8(images: Tensor) -> Tensor:
    """Turn centred floats into uint8 0..255 for display; values outside are clipped."""
    return images.add(0.5).mul(255.0).round().clamp(0, 255).to(torch.uint8)
