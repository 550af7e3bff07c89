"""A mean action with Gaussian noise around it, and exploration with it.

Shape letters: N environments, A action.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from wmplatform.interfaces import Explorer
from wmplatform.schedules import Schedule
from wmplatform.types import ActionSpec, Distribution, FeatureSpec, Mode

__all__ = ["NoisyMean", "ScheduledNoise"]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_LIMIT = 1.0 - 1e-6
"""Actions stay this far inside the bounds."""


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


class ScheduledNoise(Explorer):
    """Adds normal noise of a scheduled size to the policy's mode; uniform warm-up.

    The clock is agent steps, uniform ones included.
    """

    def __init__(
        self,
        action: ActionSpec,
        views: Mapping[str, FeatureSpec],
        *,
        std: float | str = "linear(1.0, 0.1, 100000)",
    ) -> None:
        """Parse the schedule.

        Args:
            action: continuous.
            views: not read.
            std: of the noise, a number or a schedule over agent steps.
        """
        super().__init__(action)
        del views
        if action.kind != "continuous":
            raise ValueError("noise is added to continuous actions, these are discrete")
        self.std = Schedule(std)

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        """Choose actions `[N, A]`; the mode in evaluation."""
        if mode == "eval":
            return policy.mode
        return NoisyMean(policy.mode, self.std(agent_steps)).sample()
