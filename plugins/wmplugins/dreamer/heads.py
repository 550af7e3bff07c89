"""Scalar heads: reward and discount."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from wmplatform.distributions import Bernoulli, UnitNormal
from wmplatform.interfaces import Head, RewardHead
from wmplatform.types import Batch, Distribution, Features, FeatureSpec, Target
from wmplugins.blocks import MLP, Act, Init, Norm, as_vector, flat_size, in_fp32

__all__ = ["DiscountMLP", "RewardMLP"]


class RewardMLP(RewardHead):
    """Reward as a unit-variance normal (DreamerV2 eq. 3); its loss is half the squared error.

    Reads the view `reward`. Parameters for 2048 features: 1,301,201.
    """

    def __init__(
        self,
        features: FeatureSpec,
        *,
        layers: Annotated[int, Ge(0)] = 4,
        units: Annotated[int, Ge(1)] = 400,
        norm: Norm = "none",
        act: Act = "elu",
        transform: Literal["identity", "tanh", "sign"] = "identity",
        divide_by: Annotated[float, Gt(0.0)] = 1.0,
        intrinsic: bool = True,
        sends_gradient: bool = True,
        fp32: bool = True,
        init: Init = "glorot",
    ) -> None:
        """Build the network.

        Args:
            features: spec of the view `reward`.
            layers: hidden layers.
            units: their width.
            norm: normalisation of the hidden layers.
            act: their activation.
            transform: of the reward; `tanh` for Atari, `identity` elsewhere.
            divide_by: the reward is divided by this before the transform.
            intrinsic: add the explorer's intrinsic reward to the target, where there is one.
            sends_gradient: whether this loss shapes the latent.
            fp32: keep the head out of autocast.
            init: of the layers.
        """
        super().__init__()
        self.mlp = MLP(
            flat_size(features), 1, layers=layers, units=units, norm=norm, act=act, init=init
        )
        self.transform, self.divide_by, self.fp32 = transform, divide_by, fp32
        self.intrinsic, self.sends_gradient = intrinsic, sends_gradient

    def forward(self, features: Features) -> Distribution:
        """Predict `[*lead]` from `[*lead, F]`."""
        mean = in_fp32(self.mlp, as_vector(features), self.fp32).squeeze(-1)
        return UnitNormal(mean, event_dims=0)

    def target(self, batch: Batch) -> Target:
        """Return the transformed reward, plus the intrinsic reward of the first T' records."""
        reward = batch["reward"].float() / self.divide_by
        if self.transform == "tanh":
            reward = reward.tanh()
        elif self.transform == "sign":
            reward = reward.sign()
        if self.intrinsic and "intrinsic" in batch.keys():  # noqa: SIM118  a TensorDict needs it
            bonus = batch["intrinsic"]
            known = slice(0, bonus.shape[1])
            return Target(reward[:, known] + bonus, known)
        return Target(reward)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"layers": 1, "units": 16}


class DiscountMLP(Head):
    """Discount as a Bernoulli with the soft target gamma * (1 - is_terminal) (DreamerV2 eq. 3)."""

    view = "continue"

    def __init__(
        self,
        features: FeatureSpec,
        *,
        layers: Annotated[int, Ge(0)] = 4,
        units: Annotated[int, Ge(1)] = 400,
        norm: Norm = "none",
        act: Act = "elu",
        gamma: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.99,
        sends_gradient: bool = True,
        fp32: bool = True,
    ) -> None:
        """Build the network.

        Args:
            features: spec of the view `continue`.
            layers: hidden layers.
            units: their width.
            norm: normalisation of the hidden layers.
            act: their activation.
            gamma: discount of a step that does not end the episode; the target there.
            sends_gradient: whether this loss shapes the latent.
            fp32: keep the head out of autocast.
        """
        super().__init__()
        self.mlp = MLP(flat_size(features), 1, layers=layers, units=units, norm=norm, act=act)
        self.gamma, self.sends_gradient, self.fp32 = gamma, sends_gradient, fp32

    def forward(self, features: Features) -> Distribution:
        """Predict `[*lead]` from `[*lead, F]`; the mean is the discount."""
        return Bernoulli(in_fp32(self.mlp, as_vector(features), self.fp32).squeeze(-1))

    def target(self, batch: Batch) -> Target:
        """Return gamma * (1 - is_terminal), `[B, T]`."""
        return Target(self.gamma * (~batch["is_terminal"].bool()).float())

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"layers": 1, "units": 16}
