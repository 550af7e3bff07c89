"""When an episode on the highway ends before its time limit."""

from dataclasses import dataclass
from enum import Enum

from wmplugins.carla.route import Guidance

__all__ = ["Ending", "EndingRule", "Motion"]


class Ending(Enum):
    """Why an episode ended."""

    OFF_ROAD = "off the road"
    NO_ROAD_LEFT = "the road ends"
    LEFT_ROUTE = "left the route"
    STUCK = "stuck"
    GLITCH = "the simulator threw the car into the air"

    @property
    def terminal(self) -> bool:
        """Whether the task ended it; a glitch is not the driver's doing and says nothing."""
        return self is not Ending.GLITCH


@dataclass(frozen=True, slots=True)
class Motion:
    """How the car moves."""

    speed: float
    """m/s, in all directions."""
    climb: float
    """m/s upwards."""
    height_m: float
    """Over the road."""


@dataclass(frozen=True)
class EndingRule:
    """The published endings, and one that is off by default.

    The authors' code calls all of them terminal, the time limit and the glitch as well. Here the
    limit is a truncation, and so is the glitch, which marks its episode as invalid.
    """

    exit_roads: tuple[int, ...] = (22, 34, 7, 15)
    """Roads that do not belong to the route."""
    off_road_m: float | None = None
    """Distance to the lane's centre that counts as off the road; None: only where no lane is."""
    stuck_speed: float = 0.02
    """m/s; slower is stuck."""
    stuck_every: int = 100
    """Frames between looks at the speed."""
    glitch_frames: int = 20
    """First frames in which the car may be thrown up."""
    glitch_climb: float = 1.0
    """m/s."""
    glitch_height_m: float = 0.5

    def __call__(self, env_frames: int, guidance: Guidance, motion: Motion) -> Ending | None:
        """Say why the episode ends after `env_frames` frames, or None."""
        if env_frames < self.glitch_frames and (
            motion.climb > self.glitch_climb or motion.height_m > self.glitch_height_m
        ):
            return Ending.GLITCH
        too_far = self.off_road_m is not None and guidance.offset_m > self.off_road_m
        if not guidance.on_road or too_far:
            return Ending.OFF_ROAD
        if guidance.road in self.exit_roads:
            return Ending.LEFT_ROUTE
        if guidance.direction is None:
            return Ending.NO_ROAD_LEFT
        looks = env_frames > 0 and env_frames % self.stuck_every == 0
        return Ending.STUCK if looks and motion.speed < self.stuck_speed else None
