"""The degenerate dynamics of an agent without a world model: the state is the embedding."""

from collections.abc import Mapping

import torch
from torch import Tensor

from wmplatform.interfaces.latent_dynamics import Capabilities, LatentDynamics, Observed
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Carry,
    Context,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
)

__all__ = ["Stateless"]

_VIEWS = frozenset({"policy", "value", "reward", "continue", "decode", "intrinsic"})


class Stateless(LatentDynamics):
    """No memory, no prior, no imagination: every view is the (concatenated) embedding."""

    capabilities = Capabilities(
        supports_imagination=False,
        differentiable_rollout=False,
        action_free=True,
        ignores_actions=_VIEWS,
        samples=frozenset(),
    )

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__()
        del action
        self._embeds = dict(embeds)

    @property
    def views(self) -> frozenset[str]:
        """All views are the embedding."""
        return _VIEWS

    def feature_spec(self, view: str) -> FeatureSpec:
        """One vector, all embeddings flattened and concatenated."""
        del view
        return ArraySpec((sum(_size(spec) for spec in self._embeds.values()),))

    def features(self, state: Latent, view: str) -> Features:
        """Flatten and concatenate the embeddings, `[*lead, F]`."""
        del view
        parts = [
            state[name].reshape(*state[name].shape[: state[name].dim() - len(spec.shape)], -1)
            for name, spec in self._embeds.items()
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, -1)).float()

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        """Return an empty carry."""
        del batch, device
        return {}

    def observe(
        self,
        embeds: Mapping[str, Tensor],
        actions: Tensor | None,
        is_first: Tensor,
        carry: Carry | None = None,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> Observed:
        """Return the embeddings as states."""
        del actions, is_first, carry, context, deterministic
        return Observed({name: embeds[name] for name in self._embeds}, {})

    def observe_step(
        self,
        embeds: Mapping[str, Tensor],
        action: Tensor | None,
        is_first: Tensor,
        carry: Carry,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> tuple[Latent, Carry]:
        """Return the embeddings as the state."""
        del action, is_first, context, deterministic
        return {name: embeds[name] for name in self._embeds}, carry

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        """Return no divergence."""
        del observed
        return {}, {}


def _size(spec: ArraySpec) -> int:
    size = 1
    for dim in spec.shape:
        size *= dim
    return size
