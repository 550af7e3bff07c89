"""One trunk for everything, then stages of their own for branches and background.

Shape letters: N product of leading dims, B batch, K context frames, C H W image, E embedding.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from wmplatform.images import image_shape, to_centred
from wmplatform.interfaces import ContextEncoder, Encoder
from wmplatform.types import ArraySpec, Context
from wmplugins.blocks import flatten_lead
from wmplugins.isodream.nets import IMAGE, ImageStack, conv_stage, require_image

__all__ = ["BackgroundContext", "BranchEncoder"]

SIDE = 2
"""Side of the last convolution's output."""


def _trunk(channels: int, depth: int) -> nn.Sequential:
    return conv_stage(channels, depth, 2 * depth)


def _stage(depth: int) -> nn.Sequential:
    return conv_stage(2 * depth, 4 * depth, 8 * depth)


class BranchEncoder(Encoder):
    """Two shared convolutions, then two of its own for each branch.

    Reads   pixels      uint8 or centred float  [*lead, C, 64, 64]
    Writes  ctrl, free  float32                 [*lead, E], E = 32 * depth, in C, H, W order

    Parameters at depth 32, 3 channels: trunk 34,400, each stage 655,744.
    """

    def __init__(
        self,
        observations: Mapping[str, ArraySpec],
        *,
        depth: Annotated[int, Ge(1)] = 32,
        key: str = "pixels",
    ) -> None:
        """Build the layers.

        Args:
            observations: specs of the observation keys.
            depth: channels of the first convolution; doubled by each one after it.
            key: the image that is read.
        """
        super().__init__()
        shape = image_shape(observations, key)
        require_image(shape, "encoders.branches")
        self.key, self.depth = key, depth
        self.trunk = _trunk(shape[0], depth)
        self.stages = nn.ModuleDict({name: _stage(depth) for name in ("ctrl", "free")})

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        """One embedding for each branch."""
        return {name: ArraySpec((8 * self.depth * SIDE**2,)) for name in self.stages}

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed `[*lead, C, 64, 64]`; the trunk runs once for both branches."""
        x_NCHW, lead = flatten_lead(to_centred(observations[self.key]), 3)
        shared = self.trunk(x_NCHW)
        return {
            name: stage(shared).flatten(1).float().reshape(*lead, -1)
            for name, stage in self.stages.items()
        }

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2}


class BackgroundContext(ContextEncoder):
    """The first frames of a segment to one image of what stands still.

    Writes `background` float32 `[B, C, 64, 64]`, within -0.5..0.5: embeddings of the first
    `frames` frames, in their order, to one transposed-convolution stack. The convolutions before
    the stage are those of `encoders.branches`, where that is the model's encoder and as deep.
    A segment that is shorter repeats its last frame.

    Parameters at depth 32, 3 channels, without the shared trunk: 14,701,539.
    """

    def __init__(
        self,
        observations: Mapping[str, ArraySpec],
        *,
        depth: Annotated[int, Ge(1)] = 32,
        frames: Annotated[int, Ge(1)] = 10,
        key: str = "pixels",
    ) -> None:
        """Build the layers.

        Args:
            observations: specs of the observation keys.
            depth: as the encoder's.
            frames: K, how many frames are looked at.
            key: the image that is read.
        """
        super().__init__()
        shape = image_shape(observations, key)
        require_image(shape, "context_encoders.background")
        self.frames, self.depth, self.shape = frames, depth, shape
        self.own_trunk: nn.Module | None = _trunk(shape[0], depth)
        self._shared: tuple[nn.Module, ...] = ()
        self.stage = _stage(depth)
        self.decoder = ImageStack(frames * 8 * depth * SIDE**2, shape[0], depth)

    def share(self, encoder: Encoder) -> None:
        """Take the encoder's trunk over, if it has one that fits."""
        if isinstance(encoder, BranchEncoder) and encoder.depth == self.depth:
            self.own_trunk, self._shared = None, (encoder.trunk,)

    @property
    def trunk(self) -> nn.Module:
        """The first convolutions, the encoder's or its own."""
        own = self.own_trunk
        return self._shared[0] if own is None else own

    @property
    def context_specs(self) -> Mapping[str, ArraySpec]:
        """One image."""
        return {"background": ArraySpec((self.shape[0], IMAGE, IMAGE))}

    @torch.no_grad()
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        """Take the first K frames, `[B, K, C, H, W]`; the last known one stands in for more."""
        known = pixels.shape[1] if observed is None else min(observed, pixels.shape[1])
        index = torch.arange(self.frames, device=pixels.device).clamp_max(known - 1)
        return to_centred(pixels.index_select(1, index))

    def forward(self, frames: Tensor) -> Context:
        """Make the background of frames `[B, K, C, H, W]`."""
        embeds_NE = self.stage(self.trunk(frames.flatten(0, 1))).flatten(1)
        image = self.decoder(embeds_NE.unflatten(0, frames.shape[:2]).flatten(1))
        return {"background": image.float().clamp(-0.5, 0.5)}

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2, "frames": 3}
