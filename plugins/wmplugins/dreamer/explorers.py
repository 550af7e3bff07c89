"""Exploration by the policy's own randomness."""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from wmplatform.interfaces import Explorer
from wmplatform.types import ActionSpec, Distribution, FeatureSpec, Mode

__all__ = ["Sampling"]


class Sampling(Explorer):
    """Sample the policy; uniform warm-up; optional extra noise.

    DreamerV2 explores by sampling alone, with `noise` 0. Otherwise a continuous action is drawn
    from Normal(action, noise) and clipped, and a discrete one is replaced by a uniform one with
    probability `noise`.
    """

    def __init__(
        self,
        action: ActionSpec,
        views: Mapping[str, FeatureSpec],
        *,
        noise: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.0,
    ) -> None:
        """Keep the strength of the noise.

        Args:
            action: the action's spec.
            views: are not read.
            noise: standard deviation on continuous actions; share of discrete ones that are
                replaced.
        """
        super().__init__(action)
        del views
        self.noise = noise

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        """Choose actions `[N, A]`; the mode in evaluation."""
        action = super().act(policy, mode, agent_steps)
        if mode == "eval" or self.noise == 0.0:
            return action
        if self.action.kind == "discrete":
            swap = torch.rand(len(action), 1, device=action.device) < self.noise
            return torch.where(swap, self.warmup(len(action), action.device), action)
        return (action + self.noise * torch.randn_like(action)).clamp(-1, 1)
