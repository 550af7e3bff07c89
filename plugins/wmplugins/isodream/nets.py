"""Convolutions of Iso-Dream, with PyTorch's own initialisation.

Shape letters: N product of leading dims, C H W image, F features.
"""

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["IMAGE", "ImageStack", "conv_stage", "require_image"]

IMAGE = 64
"""Side of the images; the kernels fit no other one."""


def require_image(shape: tuple[int, int, int], name: str) -> None:
    """Refuse images of another size.

    Raises:
        ValueError: the image is not 64x64.
    """
    if shape[1:] != (IMAGE, IMAGE):
        raise ValueError(f"{name} takes {IMAGE}x{IMAGE} images, not {shape[1]}x{shape[2]}")


def conv_stage(*channels: int) -> nn.Sequential:
    """4x4 convolutions of stride 2 without padding, each with an ELU.

    Sides from 64: 31, 14, 6, 2.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2), nn.ELU()]
    return nn.Sequential(*layers)


class ImageStack(nn.Module):
    """A linear layer and four transposed convolutions of stride 2: sides 1, 5, 13, 30, 64.

    Parameters at depth 32: 3,817,188 from 250 features to 4 channels, and 14,045,795 from 10,240
    to 3.
    """

    def __init__(self, inputs: int, channels: int, depth: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(inputs, 32 * depth)
        sizes = (32 * depth, 4 * depth, 2 * depth, depth)
        layers: list[nn.Module] = []
        for a, b, kernel in zip(sizes, sizes[1:], (5, 5, 6), strict=False):
            layers += [nn.ConvTranspose2d(a, b, kernel, stride=2), nn.ELU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(depth, channels, 6, stride=2))

    def forward(self, f_NF: Tensor) -> Tensor:
        """Make images `[N, channels, 64, 64]` of features `[N, F]`."""
        x: Tensor = self.layers(self.inputs(f_NF)[:, :, None, None])
        return x
