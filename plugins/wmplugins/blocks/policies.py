"""Policy networks, and a distribution of actions around a mean.

Shape letters: A action.
"""

import math

import torch
from torch import Tensor, nn

from wmplatform.distributions import OneHot, TruncatedNormal
from wmplatform.types import ActionSpec, Distribution
from wmplugins.blocks.layers import MLP, Act, Init, Norm, in_fp32

__all__ = ["Actor", "NoisyMean"]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_LIMIT = 1.0 - 1e-6
"""Actions stay this far inside the bounds."""


class Actor(nn.Module):
    """Policy network: truncated normal for continuous actions, one-hot for discrete ones.

    The location is tanh(u) and the scale 2 * sigmoid((v + init_std) / 2) + min_std, from two
    output layers (DreamerV2 code). Parameters for 2048 features: 1,304,008 with 4 actions.
    """

    def __init__(
        self,
        inputs: int,
        action: ActionSpec,
        *,
        layers: int,
        units: int,
        norm: Norm,
        act: Act,
        min_std: float,
        init_std: float,
        fp32: bool,
        init: Init = "glorot",
    ) -> None:
        super().__init__()
        self.kind, self.min_std, self.init_std, self.fp32 = action.kind, min_std, init_std, fp32
        outputs = action.size * (2 if action.kind == "continuous" else 1)
        # One layer of two outputs: Glorot bounds would differ from two layers', so draw them apart.
        self.mlp = MLP(inputs, outputs, layers=layers, units=units, norm=norm, act=act, init=init)
        if action.kind == "continuous" and init == "glorot":
            for half in self.mlp.out.weight.detach().chunk(2, 0):
                nn.init.xavier_uniform_(half)

    def forward(self, features: Tensor) -> Tensor:
        """Raw outputs `[*lead, 2A]` or `[*lead, A]`, fp32."""
        return in_fp32(self.mlp, features, self.fp32)

    def distribution(self, raw: Tensor) -> Distribution:
        """Turn raw outputs into a distribution over `[*lead, A]`."""
        if self.kind == "discrete":
            return OneHot(raw)
        u, v = raw.chunk(2, -1)
        scale = 2 * torch.sigmoid((v + self.init_std) / 2) + self.min_std
        return TruncatedNormal(torch.tanh(u), scale)


class NoisyMean:
    """Normal noise around a mean action; what is drawn is clamped into the bounds.

    The authors call it a truncated normal, but density and entropy are those of the plain one.

    Args:
        mean: `[*lead, A]`, within [-1, 1].
        std: of every entry.
    """

    def __init__(self, mean: Tensor, std: float) -> None:
        self._mean, self.std = mean, std

    @property
    def mean(self) -> Tensor:
        """Action without noise, `[*lead, A]`."""
        return self._mean

    mode = mean

    def sample(self, clip: float | None = None) -> Tensor:
        """Draw `[*lead, A]`; the gradient of an action by its mean is one, clamped or not.

        Args:
            clip: largest noise; no limit unless given.
        """
        return self.perturbed(torch.randn_like(self._mean), clip)

    def perturbed(self, noise: Tensor, clip: float | None = None) -> Tensor:
        """Add given unit noise `[*lead, A]`."""
        noise = noise * self.std
        if clip is not None:
            noise = noise.clamp(-clip, clip)
        action = self._mean + noise
        return action + (action.clamp(-_LIMIT, _LIMIT) - action).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the plain normal, summed over A, `[*lead]`."""
        z = (value.float() - self._mean.float()) / self.std
        return (-0.5 * z.square() - math.log(self.std) - _LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy of the plain normal, summed over A, `[*lead]`."""
        each = 0.5 + _LOG_SQRT_2PI + math.log(self.std)
        return torch.full_like(self._mean[..., 0], each * self._mean.shape[-1]).float()
