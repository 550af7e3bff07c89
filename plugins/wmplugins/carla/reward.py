"""The reward of the highway task.

Needs neither a simulator nor its library.
"""

from dataclasses import dataclass

__all__ = ["OFF_ROAD_M", "RewardRule"]

OFF_ROAD_M = 100.0
"""Distance to the lane's centre that counts where there is no lane."""


@dataclass(frozen=True)
class RewardRule:
    """Progress along the highway, less for leaving the lane, colliding and steering.

        r = v dt / (1 + centring max(0, d - free_offset_m))
            - min(impulse_weight I, impulse_limit) - steer_weight |steer|

    with v the planar speed along the lane, d the distance to its centre, and I the impulses of all
    collisions since the frame before. ContextWM (Wu et al. 2023) has the defaults; `centring` 0 and
    `impulse_weight` 1e-4 without a limit are the reward of Zhang et al. (2021).
    """

    centring: float = 1.5
    """Per metre."""
    free_offset_m: float = 1.75
    """Distance that costs nothing: half a lane."""
    impulse_weight: float = 1e-3
    """Per newton second."""
    impulse_limit: float = 10.0
    """Most that the collisions of one frame cost."""
    steer_weight: float = 1.0
    scale: float = 1.0
    """Of the whole; 1 / action_repeat makes the mean of the repeats of their sum."""

    def __call__(
        self, speed_along: float, offset_m: float, impulse: float, steer: float, delta_s: float
    ) -> float:
        """Compute the reward of one frame.

        Args:
            speed_along: planar speed in the lane's direction, m/s; negative against it.
            offset_m: planar distance to the lane's centre.
            impulse: sum of the norms of the collisions' impulses, N s.
            steer: in [-1, 1].
            delta_s: simulated seconds of the frame.
        """
        slowed = 1.0 + self.centring * max(0.0, offset_m - self.free_offset_m)
        crash = min(self.impulse_weight * impulse, self.impulse_limit)
        return self.scale * (
            speed_along * delta_s / slowed - crash - self.steer_weight * abs(steer)
        )
