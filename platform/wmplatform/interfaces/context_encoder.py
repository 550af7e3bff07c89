"""ContextEncoder: what stays the same over a segment, taken out of the dynamics' way."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from wmplatform.interfaces.encoder import Encoder
from wmplatform.types import ArraySpec, Context

__all__ = ["ContextEncoder"]


class ContextEncoder(nn.Module, ABC):
    """Selects context frames of a segment and encodes them, once per segment.

    A subclass is built with `(observations, *, its own settings)`.

    Laws:

    1. `select` takes frames from the same row's segment only, and only from the first `observed`
       records where that is given.
    2. `forward` runs on `[B, K, C, H, W]` once per segment; its outputs have the shapes of
       `context_specs` with one leading dim B, and rows do not mix in eval mode.
    3. The acting path never calls it: nothing an agent does while acting depends on a context.
    4. Gradients reach every trainable parameter from `forward`, and none flows into the frames.
    """

    def share(self, encoder: Encoder) -> None:
        """Take over parts of the model's encoder, e.g. its first layers; by default nothing.

        Called once, when the model is assembled. A part that is taken over stays the encoder's:
        hold it outside `nn.Module`'s registry (in a tuple), or it is trained and saved twice.
        """
        del encoder

    @property
    @abstractmethod
    def context_specs(self) -> Mapping[str, ArraySpec]:
        """Name, shape and dtype of every part of the context, without the leading B."""

    @abstractmethod
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        """Choose the context frames, augmented where the method says so.

        Args:
            pixels: a segment, uint8 or centred float `[B, T, C, H, W]`.
            observed: choose among the first `observed` records only; None for all T.

        Returns:
            Centred float `[B, K, C, H, W]`, detached.
        """

    @abstractmethod
    def forward(self, frames: Tensor) -> Context:
        """Encode chosen frames `[B, K, C, H, W]` into a context of named tensors `[B, ...]`."""
