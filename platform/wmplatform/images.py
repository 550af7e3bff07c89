"""The one place where uint8 images become floats, and back, and where their shapes are checked."""

from collections.abc import Mapping

import torch
from torch import Tensor

from wmplatform.types import ArraySpec

__all__ = ["image_shape", "is_image", "to_centred", "to_uint8"]


def is_image(spec: ArraySpec) -> bool:
    """Whether an observation is an image: bytes `[C, H, W]`. Frames of nothing else are stacked."""
    return spec.dtype == "uint8" and len(spec.shape) == 3


def image_shape(observations: Mapping[str, ArraySpec], key: str) -> tuple[int, int, int]:
    """Shape `(C, H, W)` of the image `key`.

    Raises:
        ValueError: there is no such key, or it is not an image.
    """
    if key not in observations:
        raise ValueError(f"no observation {key!r} to encode; there are {sorted(observations)}")
    shape = observations[key].shape
    if len(shape) != 3:
        raise ValueError(f"observation {key!r} has shape {shape}, not (C, H, W)")
    return shape[0], shape[1], shape[2]


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
