"""From an action to the pedals and the wheel."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Controls"]


@dataclass(frozen=True, slots=True)
class Controls:
    """What a driver does; never in reverse, never with the hand brake."""

    steer: float = 0.0
    """-1 is left, 1 right."""
    throttle: float = 0.0
    """0..1."""
    brake: float = 0.0
    """0..1."""

    @classmethod
    def of(cls, action: Sequence[float]) -> "Controls":
        """Read an action `[2]`: steering, and throttle where positive or brake where negative.

        Entries are clipped to [-1, 1].
        """
        steer, push = (min(1.0, max(-1.0, float(value))) for value in action)
        return cls(steer, max(0.0, push), max(0.0, -push))
