"""Image encoders: DreamerV2's four convolutions, and the 13-layer ResNet of ContextWM.

Shape letters: N product of leading dims, C H W image, E embedding.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from wmplatform.images import image_shape, to_centred
from wmplatform.interfaces import Encoder
from wmplatform.types import ArraySpec
from wmplugins.blocks import Norm, ResidualBlock, flatten_lead, glorot_, image_norm

__all__ = ["CNNEncoder", "ResNetEncoder"]


class CNNEncoder(Encoder):
    """Four 4x4 convolutions of stride 2 without padding (DreamerV2 appendix C).

    Reads   pixels  uint8 or centred float  [*lead, C, H, W]
    Writes  embed   float32                 [*lead, E]; at 64x64, E = 32 * depth

    Sizes at 64x64: 64 -> 31 -> 14 -> 6 -> 2. Parameters at depth 48, 3 channels: 1,551,312.
    """

    def __init__(
        self,
        observations: Mapping[str, ArraySpec],
        *,
        depth: Annotated[int, Ge(1)] = 48,
        norm: Norm = "none",
        key: str = "pixels",
    ) -> None:
        """Build the network.

        Args:
            observations: specs of the observation keys.
            depth: channels after the first convolution; they double at each further one.
            norm: normalisation after each convolution.
            key: observation that is read.
        """
        super().__init__()
        self.key = key
        channels, height, width = image_shape(observations, key)
        layers: list[nn.Module] = []
        for i in range(4):
            outputs = depth * 2**i
            layers += [
                glorot_(nn.Conv2d(channels, outputs, 4, stride=2)),
                image_norm(norm, outputs),
            ]
            layers.append(nn.ELU(inplace=True))
            channels, height, width = outputs, (height - 4) // 2 + 1, (width - 4) // 2 + 1
        if min(height, width) < 1:
            shape = observations[key].shape
            raise ValueError(f"encoders.cnn needs images of at least 46 x 46, got {shape}")
        self.layers = nn.Sequential(*[x for x in layers if not isinstance(x, nn.Identity)])
        self._embed = ArraySpec((channels * height * width,))

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        """One embedding, `embed`, in C, H, W order."""
        return {"embed": self._embed}

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed `[*lead, C, H, W]` to `[*lead, E]`."""
        x_NCHW, lead = flatten_lead(to_centred(observations[self.key]), 3)
        e_NE = self.layers(x_NCHW).flatten(1)
        return {"embed": e_NE.reshape(*lead, e_NE.shape[-1]).float()}

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2}


class ResNetEncoder(Encoder):
    """Stem and three stages of two residual blocks, each followed by 2x2 average pooling.

    ContextWM table 1, 13 layers. The stem has a bias, ELU and no normalisation.

    Reads   pixels  uint8 or centred float  [*lead, C, H, W]; H and W multiples of 16
    Writes  embed   float32                 [*lead, E]; at 64x64, E = 64 * depth

    Sizes at 64x64: 64 -> 32 -> 16 -> 8 -> 4. Parameters at depth 48, 3 channels: 1,562,112.
    """

    def __init__(
        self,
        observations: Mapping[str, ArraySpec],
        *,
        depth: Annotated[int, Ge(1)] = 48,
        norm: Norm = "batch",
        key: str = "pixels",
    ) -> None:
        """Build the network.

        Args:
            observations: specs of the observation keys.
            depth: channels after the first convolution; they double in the later two stages.
            norm: normalisation in the residual blocks.
            key: observation that is read.
        """
        super().__init__()
        self.key = key
        channels, height, width = image_shape(observations, key)
        if height % 16 or width % 16:
            raise ValueError(f"encoders.resnet needs sizes divisible by 16, got {height}x{width}")
        self.stem = glorot_(nn.Conv2d(channels, depth, 3, stride=2, padding=1))
        sizes = [depth, depth, 2 * depth, 4 * depth]
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(a, b, norm), ResidualBlock(b, b, norm))
            for a, b in pairwise(sizes)
        )
        self._embed = ArraySpec((4 * depth * (height // 16) * (width // 16),))

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        """One embedding, `embed`, in C, H, W order."""
        return {"embed": self._embed}

    def pyramid(self, x_NCHW: Tensor) -> list[Tensor]:
        """Outputs of the stages before each pooling, from large to small: 32, 16, 8 at 64x64."""
        x = nn.functional.elu(self.stem(x_NCHW))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
            x = nn.functional.avg_pool2d(x, 2)
        return [*outputs, x]

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed `[*lead, C, H, W]` to `[*lead, E]`."""
        x_NCHW, lead = flatten_lead(to_centred(observations[self.key]), 3)
        e_NE = self.pyramid(x_NCHW)[-1].flatten(1)
        return {"embed": e_NE.reshape(*lead, e_NE.shape[-1]).float()}

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2}
