"""Encoder: observations to embeddings, one frame at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from wmplatform.types import ArraySpec

__all__ = ["Encoder"]


class Encoder(nn.Module, ABC):
    """Embeds each observed frame.

    A subclass is built with `(observations, *, its own settings)`; the platform supplies
    `observations`, the specs of the keys that a record holds.

    Laws:

    1. Frame t's embedding depends on frame t only: no state, no mixing over time or rows.
       (Batch normalisation in train mode is the one exception; laws are checked in eval mode.)
    2. Leading dims are free, none included; folding them changes nothing in eval mode.
    3. Images are accepted as uint8 (0..255) and as float centred on zero (-0.5..0.5), with equal
       results.
    4. The output has exactly the keys, shapes and dtypes of `embed_specs`, and is finite.
    5. Gradients reach every trainable parameter.
    """

    @property
    @abstractmethod
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        """Name, shape and dtype of every embedding, without leading dims."""

    @abstractmethod
    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed observations.

        Args:
            observations: at least the keys this encoder reads; images uint8 or centred float
                `[*lead, C, H, W]`. Further keys are ignored.

        Returns:
            Embeddings by name, `[*lead, *embed_specs[name].shape]`.
        """
