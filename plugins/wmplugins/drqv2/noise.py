"""Exploration with noise of a scheduled size around the policy's mean action."""

from collections.abc import Mapping

from torch import Tensor

from wmplatform.interfaces import Explorer
from wmplatform.schedules import Schedule
from wmplatform.types import ActionSpec, Distribution, FeatureSpec, Mode
from wmplugins.blocks import NoisyMean

__all__ = ["ScheduledNoise"]


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
