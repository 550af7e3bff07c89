"""The action that led from one image to the next."""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import Head
from wmplatform.types import ArraySpec, Batch, Distribution, Features, FeatureSpec, Target
from wmplugins.blocks import MLP, Act, Init, embed_size, in_fp32

__all__ = ["InverseDynamics"]


class InverseDynamics(Head):
    """Action from the change of an embedding (Iso-Dream eq. 3); half the squared error, summed.

    It trains the encoder, not the latent: what changes with the action has to be seen in the
    embedding of the branch. Parameters for 1024 entries and an action of 6: 572,806.
    """

    view = "embeds"
    timing = "transition"

    def __init__(
        self,
        features: FeatureSpec,
        *,
        embed: str = "ctrl",
        layers: Annotated[int, Ge(0)] = 2,
        units: Annotated[int, Ge(1)] = 400,
        act: Act = "elu",
        init: Init = "torch",
        fp32: bool = True,
    ) -> None:
        """Build the network.

        Args:
            features: specs of the embeddings before and after, and of the action.
            embed: name of the embedding.
            layers: hidden layers.
            units: their width.
            act: their activation.
            init: of the layers.
            fp32: keep the head out of autocast.
        """
        super().__init__()
        assert isinstance(features, Mapping)
        before, action = features["before"], features["action"]
        assert isinstance(before, Mapping)
        assert isinstance(action, ArraySpec)
        flat = {name: spec for name, spec in before.items() if isinstance(spec, ArraySpec)}
        self.embed, self.fp32 = embed, fp32
        self.mlp = MLP(
            embed_size(flat, embed), action.shape[0], layers=layers, units=units, act=act, init=init
        )

    def forward(self, features: Features) -> Distribution:
        """Predict the action `[*lead, A]` between `before` and `after`."""
        assert isinstance(features, dict)
        change = _part(features["after"], self.embed) - _part(features["before"], self.embed)
        return UnitNormal(in_fp32(self.mlp, change, self.fp32), event_dims=1)

    def target(self, batch: Batch) -> Target:
        """Return the action that led into each record, `[B, T, A]`."""
        return Target(batch["action"].float())

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"layers": 1, "units": 16}

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Specs for the contract checks."""
        embeds = {"ctrl": ArraySpec((8,)), "free": ArraySpec((8,))}
        return {"features": {"before": embeds, "action": ArraySpec((3,)), "after": embeds}}


def _part(features: Features, name: str) -> Tensor:
    assert isinstance(features, dict)
    part = features[name]
    assert isinstance(part, Tensor)
    return part
