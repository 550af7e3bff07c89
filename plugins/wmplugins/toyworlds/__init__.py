"""Small synthetic worlds in which it is known what a world model should find. No torch here."""

from typing import Annotated

from annotated_types import Ge, Gt

from wmplatform.envs import PlatformEnv
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec
from wmplugins.toyworlds.movers import Movers

__all__ = ["TwoMovers"]


class TwoMovers(EnvAdapter):
    """A square that actions move, a disc that moves by itself, and a background that stands still.

    The disc's way is random and does not depend on actions. The reward grows, up to 1, as the
    square comes near the disc.

    Args:
        size: side of the picture in pixels.
        backgrounds: how many there are; each episode stands before one of them.
        speed: pixels that the largest action moves the square in one frame; the disc is as fast.
        action_repeat: environment frames for each agent step.
        time_limit: agent steps of an episode.
        objects: also give the true masks of both objects, as the observation `objects`, uint8
            `[2, size, size]` of 0 and 1, the square first; what the square hides is not the disc's.
    """

    name = "toyworlds/two-movers"

    def __init__(
        self,
        *,
        size: Annotated[int, Ge(16)] = 64,
        backgrounds: Annotated[int, Ge(1)] = 1,
        speed: Annotated[float, Gt(0.0)] = 4.0,
        action_repeat: Annotated[int, Ge(1)] = 1,
        time_limit: Annotated[int, Ge(1)] = 50,
        objects: bool = False,
    ) -> None:
        self.size, self.speed, self.objects = size, speed, objects
        self.backgrounds = backgrounds
        self.action_repeat, self.time_limit = action_repeat, time_limit

    def spec(self) -> EnvSpec:
        """Describe the environment."""
        observations = {"pixels": ArraySpec((3, self.size, self.size), "uint8")}
        if self.objects:
            observations["objects"] = ArraySpec((2, self.size, self.size), "uint8")
        return EnvSpec(
            observations=observations,
            action=ActionSpec(2),
            action_repeat=self.action_repeat,
            time_limit=self.time_limit,
        )

    def make(self, seed: int) -> PlatformEnv:
        """Start one environment."""
        movers = Movers(self.size, self.speed, backgrounds=self.backgrounds, objects=self.objects)
        return PlatformEnv(movers, self.spec(), name=self.name, seed=seed)
