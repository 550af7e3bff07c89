"""Encoders of stacked frames.

Shape letters: N product of leading dims, C H W image, K frames of a stack, E embedding.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from wmplatform.factory import Factory
from wmplatform.images import image_shape, to_centred
from wmplatform.interfaces import Encoder
from wmplatform.types import ArraySpec
from wmplugins.blocks import orthogonal_

__all__ = ["DrQEncoder", "FrameByFrame"]


class DrQEncoder(Encoder):
    """Four 3x3 convolutions without padding, the first of stride 2, ReLU after each.

    Reads   pixels  uint8 or centred float  [*lead, C, H, W]; frames are stacked on C
    Writes  embed   float32                 [*lead, E], in C, H, W order

    Sizes at 84x84: 84 -> 41 -> 39 -> 37 -> 35, E = 39,200; at 64x64: 31 -> 29 -> 27 -> 25,
    E = 20,000. Parameters with 9 channels: 30,368. The width of what follows is inferred from the
    image, which the authors' code fixes for one size.
    """

    def __init__(
        self,
        observations: Mapping[str, ArraySpec],
        *,
        width: Annotated[int, Ge(1)] = 32,
        key: str = "pixels",
    ) -> None:
        """Build the convolutions.

        Args:
            observations: specs by key.
            width: channels of each convolution.
            key: observation that is read.
        """
        super().__init__()
        self.key = key
        channels, height, columns = image_shape(observations, key)
        if min(height, columns) < 15:
            raise ValueError(f"images of at least 15 x 15 are needed, got {height} x {columns}")
        layers: list[nn.Module] = []
        for stride in (2, 1, 1, 1):
            layers += [
                orthogonal_(nn.Conv2d(channels, width, 3, stride), math.sqrt(2)),
                nn.ReLU(inplace=True),
            ]
            channels = width
            height, columns = (height - 3) // stride + 1, (columns - 3) // stride + 1
        self.layers = nn.Sequential(*layers)
        self._embed = ArraySpec((width * height * columns,))

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        """One embedding, `embed`."""
        return {"embed": self._embed}

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed `[*lead, C, H, W]` to `[*lead, E]`."""
        x = to_centred(observations[self.key])
        lead = x.shape[:-3]
        # Convolutions are a fifth faster so; weights stay as they are, for checkpoints.
        x_NCHW = x.reshape(-1, *x.shape[-3:]).contiguous(memory_format=torch.channels_last)
        e_NE = self.layers(x_NCHW).flatten(1)
        return {"embed": e_NE.reshape(*lead, e_NE.shape[-1]).float()}

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"width": 2}

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Three stacked frames for the contract checks."""
        return {"observations": {"pixels": ArraySpec((9, 20, 20), "uint8")}}


class FrameByFrame(Encoder):
    """Another encoder, applied to each frame of a stack; its embeddings side by side.

    Reads   pixels  uint8 or centred float  [*lead, K * C, H, W]
    Writes  what the other one writes       [*lead, K, ...], oldest frame first

    An encoder that was pre-trained on single frames so serves an agent that sees several. It is the
    submodule `frame`, so `Online.load_modules = {'encoder.frame': 'encoder'}` loads it.
    """

    def __init__(
        self,
        observations: Mapping[str, ArraySpec],
        *,
        encoder: Factory[Encoder],
        frames: Annotated[int, Ge(1)] = 3,
        key: str = "pixels",
    ) -> None:
        """Build the encoder of one frame.

        Args:
            observations: specs by key.
            encoder: of one frame.
            frames: of the stack K.
            key: observation that holds the stack.
        """
        super().__init__()
        self.frames, self.key = frames, key
        channels, height, columns = image_shape(observations, key)
        if channels % frames:
            raise ValueError(f"{channels} channels of {key!r} are no stack of {frames} frames")
        single = ArraySpec((channels // frames, height, columns), observations[key].dtype)
        self.frame = encoder({**observations, key: single})

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        """Embeddings of the other encoder, with the frames as first dim."""
        return {
            name: ArraySpec((self.frames, *spec.shape), spec.dtype)
            for name, spec in self.frame.embed_specs.items()
        }

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed `[*lead, K * C, H, W]` to `[*lead, K, ...]`."""
        frames = observations[self.key].unflatten(-3, (self.frames, -1))
        embeds: dict[str, Tensor] = self.frame({**observations, self.key: frames})
        return embeds

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """A tiny encoder for the contract checks."""
        return {"encoder": DrQEncoder}

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Three stacked frames for the contract checks."""
        return {"observations": {"pixels": ArraySpec((9, 16, 16), "uint8")}}
