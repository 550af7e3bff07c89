"""Decoder: features (and a context) to a distribution over images."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from wmplatform.types import Context, Distribution, Features

__all__ = ["Decoder"]


class Decoder(nn.Module, ABC):
    """Reconstructs observations from latent features.

    A subclass is built with `(features, observations, context, *, its own settings)`: the spec of
    the view it reads, the specs of the observation keys, and the specs of the context (None where
    there is no context encoder).

    Laws:

    1. `forward` returns one distribution for each name of `keys`; its mean is `[*lead, C, H, W]`,
       centred float (-0.5..0.5 is black..white), and its log-likelihood of a centred image is
       finite, `[*lead]`, and highest for the image that equals the mode.
    2. A context is required, optional or refused exactly as `context` declares.
    3. Frames and rows do not mix in eval mode; row b uses the context of row b only.
    4. Gradients reach the features (where `sends_gradient`) and every trainable parameter.
    5. In eval mode two calls give bitwise equal results.
    """

    view: str = "decode"
    """The view of the latent that is decoded, unless `WorldModel.reads` names another one."""
    keys: tuple[str, ...] = ("pixels",)
    """Observation keys that are reconstructed."""
    context: Literal["refused", "optional", "required"] = "refused"
    sends_gradient: bool = True
    """Whether the reconstruction loss shapes the latent."""

    @abstractmethod
    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        """Decode features `[*lead, F]`.

        Args:
            features: with a context, lead is `[B, T]`.
            context: `[B, ...]` each, used for all T frames of its row.

        Raises:
            ValueError: a context is given but refused, or required but missing.
        """

    def attention(self, features: Features, context: Context) -> dict[str, Tensor]:
        """Tell how strongly each position of an image looks at each token of the context.

        Optional, for analyses: a decoder that attends to its context overrides it. No token is
        masked, and in eval mode no random number is drawn.

        Args:
            features: `[B, T, F]`.
            context: `[B, ...]` each.

        Returns:
            Weights by the name of a scale, `[N, S, M]` with N = B * T frames, S positions of the
            image in row-major order and M tokens: K context frames after each other, each with
            the S positions of that scale. They are averaged over heads and sum to one over M.
        """
        raise NotImplementedError(f"{type(self).__name__} does not attend to a context")
