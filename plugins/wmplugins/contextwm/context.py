"""The context encoder of ContextWM (section 4.2): a frame of the segment, as a feature pyramid."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from wmplatform.factory import Factory
from wmplatform.images import image_shape, to_centred
from wmplatform.interfaces import Augmentation, ContextEncoder
from wmplatform.types import ArraySpec, Context
from wmplugins.blocks import Norm
from wmplugins.dreamer.encoders import ResNetEncoder

__all__ = ["ResNetContext", "frame_index"]

Choice = Literal["random", "first", "last"]


def frame_index(
    choice: Choice, batch: int, frames: int, length: int, device: torch.device
) -> Tensor:
    """Indices of the context frames of each segment, int64 `[batch, frames]`.

    `random` draws uniformly over all `length` records, for each row by itself. Where there are
    fewer records than frames, the outermost one is repeated.
    """
    if choice == "random":
        return torch.randint(length, (batch, frames), device=device)
    row = torch.arange(frames, device=device)
    row = row if choice == "first" else length - frames + row
    return row.clamp(0, length - 1).expand(batch, frames)


class ResNetContext(ContextEncoder):
    """The image encoder's ResNet with weights of its own, on a frame of each segment.

    Writes `scale_16` `[B, K, 2 * depth, H / 4, W / 4]` and `scale_8` `[B, K, 4 * depth, H / 8,
    W / 8]` (16x16 and 8x8 at 64x64 images): features before the pooling of stages 2 and 3.
    Parameters at depth 48: 1,562,112.

    In training the frame is uniform over the segment. Where only the first records are observed
    (predictions), it is the last observed one unless `reports` says otherwise: a random frame
    could lie in the future.
    """

    def __init__(
        self,
        observations: Mapping[str, ArraySpec],
        *,
        depth: Annotated[int, Ge(1)] = 48,
        norm: Norm = "batch",
        key: str = "pixels",
        frames: Annotated[int, Ge(1)] = 1,
        choice: Choice = "random",
        reports: Choice = "last",
        augmentation: Factory[Augmentation] | None = None,
        augment_in_eval: bool = False,
    ) -> None:
        """Build the network.

        Args:
            observations: specs of the observation keys.
            depth: channels of the first stage.
            norm: of the residual blocks.
            key: the image that is read.
            frames: K, context frames of each segment; their tokens are joined.
            choice: which frames, in training.
            reports: which frames, where only a part is observed.
            augmentation: of the chosen frames, e.g. `@augmentations.erasing`.
            augment_in_eval: also in evaluation mode (the authors' code does).
        """
        super().__init__()
        channels, height, width = image_shape(observations, key)
        self.frames, self.choice, self.reports = frames, choice, reports
        self.augment_in_eval = augment_in_eval
        self.net = ResNetEncoder(
            {"pixels": ArraySpec((channels, height, width), "uint8")}, depth=depth, norm=norm
        )
        self.augmentation = augmentation() if augmentation else None
        self._specs = {
            "scale_16": ArraySpec((frames, 2 * depth, height // 4, width // 4)),
            "scale_8": ArraySpec((frames, 4 * depth, height // 8, width // 8)),
        }

    @property
    def context_specs(self) -> Mapping[str, ArraySpec]:
        """Two scales of features."""
        return self._specs

    @torch.no_grad()
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        """Choose K frames of each segment, centred and augmented, `[B, K, C, H, W]`."""
        batch, length = pixels.shape[:2]
        choice = self.choice if observed is None else self.reports
        known = length if observed is None else min(observed, length)
        index = frame_index(choice, batch, self.frames, known, pixels.device)
        frames = to_centred(pixels[torch.arange(batch, device=pixels.device)[:, None], index])
        if self.augmentation is None or not (self.training or self.augment_in_eval):
            return frames
        augmented: Tensor = self.augmentation(frames.flatten(0, 1))
        return augmented.view_as(frames)

    def forward(self, frames: Tensor) -> Context:
        """Encode `[B, K, C, H, W]`."""
        lead = frames.shape[:2]
        _, mid, small, _ = self.net.pyramid(frames.flatten(0, 1))
        return {
            "scale_16": mid.float().unflatten(0, lead),
            "scale_8": small.float().unflatten(0, lead),
        }

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2}
