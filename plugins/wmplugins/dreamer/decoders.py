"""Image decoders that mirror the encoders.

Shape letters: N product of leading dims, C H W image, F features.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from wmplatform.distributions import UnitNormal
from wmplatform.images import image_shape
from wmplatform.interfaces import Decoder
from wmplatform.types import ArraySpec, Context, Distribution, Features, FeatureSpec
from wmplugins.blocks import (
    Norm,
    ResidualBlock,
    as_vector,
    flat_size,
    flatten_lead,
    glorot_,
    image_norm,
)

__all__ = ["CNNDecoder", "ResNetDecoder"]


class _ImageDecoder(Decoder):
    """What the decoders share: one image key, no context, a unit-variance normal."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.keys = (key,)

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        """Decode `[*lead, F]` to a unit normal over centred images `[*lead, C, H, W]`."""
        if context is not None:
            raise ValueError(f"{type(self).__name__} takes no context")
        f_NF, lead = flatten_lead(as_vector(features), 1)
        x_NCHW = self.image(f_NF)
        return {self.keys[0]: UnitNormal(x_NCHW.reshape(*lead, *x_NCHW.shape[1:]), event_dims=3)}

    def image(self, f_NF: Tensor) -> Tensor:
        """Decode `[N, F]` to `[N, C, H, W]`."""
        raise NotImplementedError

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2}


class CNNDecoder(_ImageDecoder):
    """A linear layer and four transposed convolutions of stride 2 (DreamerV2 appendix C).

    Sizes 1 -> 5 -> 13 -> 30 -> 64, so images are 64x64. Parameters at depth 48, F = 2048, 3
    channels: 11,152,275.
    """

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None = None,
        *,
        depth: Annotated[int, Ge(1)] = 48,
        norm: Norm = "none",
        key: str = "pixels",
    ) -> None:
        """Build the network.

        Args:
            features: spec of the view `decode`.
            observations: specs of the observation keys.
            context: is refused when the decoder is called.
            depth: channels that the last convolution reads; 2 and 4 times as many before it.
            norm: normalisation after each convolution but the last.
            key: the image that is made.
        """
        super().__init__(key)
        del context
        channels, height, width = image_shape(observations, key)
        if (height, width) != (64, 64):
            raise ValueError(f"decoders.cnn makes 64x64 images, the environment {height}x{width}")
        self.inputs = glorot_(nn.Linear(flat_size(features), 32 * depth))
        sizes = [32 * depth, 4 * depth, 2 * depth, depth, channels]
        layers: list[nn.Module] = []
        for i, kernel in enumerate((5, 5, 6, 6)):
            layers.append(glorot_(nn.ConvTranspose2d(sizes[i], sizes[i + 1], kernel, stride=2)))
            if i < 3:
                layers += [image_norm(norm, sizes[i + 1]), nn.ELU(inplace=True)]
        self.layers = nn.Sequential(*[x for x in layers if not isinstance(x, nn.Identity)])

    def image(self, f_NF: Tensor) -> Tensor:
        """Decode `[N, F]` to `[N, C, 64, 64]`."""
        x: Tensor = self.layers(self.inputs(f_NF)[:, :, None, None])
        return x


class ResNetDecoder(_ImageDecoder):
    """The ResNet encoder backwards: nearest upsampling and two residual blocks, three times.

    The channel change happens in the second block of a stage (in the encoder, in the first).
    Parameters at depth 48, F = 2048, 3 channels, 64x64: 7,519,227.
    """

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None = None,
        *,
        depth: Annotated[int, Ge(2)] = 48,
        norm: Norm = "batch",
        key: str = "pixels",
    ) -> None:
        """Build the network.

        Args:
            features: spec of the view `decode`.
            observations: specs of the observation keys.
            context: is refused when the decoder is called.
            depth: channels of the last stage's input.
            norm: normalisation in the residual blocks.
            key: the image that is made.
        """
        super().__init__(key)
        del context
        channels, height, width = image_shape(observations, key)
        if height % 16 or width % 16 or depth % 2:
            raise ValueError(
                f"decoders.resnet needs sizes divisible by 16 and an even depth, got "
                f"{height}x{width}, depth {depth}"
            )
        self._start = (4 * depth, height // 16, width // 16)
        self.inputs = glorot_(
            nn.Linear(flat_size(features), self._start[0] * self._start[1] * self._start[2])
        )
        sizes = [4 * depth, 2 * depth, depth, depth // 2]
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(a, a, norm), ResidualBlock(a, b, norm))
            for a, b in pairwise(sizes)
        )
        self.output = glorot_(
            nn.ConvTranspose2d(sizes[-1], channels, 3, stride=2, padding=1, output_padding=1)
        )

    def image(self, f_NF: Tensor) -> Tensor:
        """Decode `[N, F]` to `[N, C, H, W]`."""
        x = self.inputs(f_NF).reshape(-1, *self._start)
        for stage in self.stages:
            x = stage(nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
        y: Tensor = self.output(x)
        return y
