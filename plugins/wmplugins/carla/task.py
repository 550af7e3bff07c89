"""The highway task on one server: reward, endings and weather around a session."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wmplugins.carla.controls import Controls
from wmplugins.carla.endings import Ending, Motion
from wmplugins.carla.route import Guidance
from wmplugins.carla.session import CarlaSession, Sensed
from wmplugins.carla.settings import Server, Settings
from wmplugins.carla.weather import DYNAMIC, ChangingWeather

__all__ = ["HighwayTask", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reset or a frame gives."""

    pixels: NDArray[np.uint8]
    reward: float
    ending: Ending | None
    signals: dict[str, float]


class HighwayTask:
    """Drive as far along the highway as possible without steering much or hitting anything.

    Args:
        server: answers.
        settings: of world and task.
    """

    def __init__(self, server: Server, settings: Settings) -> None:
        self.settings = settings
        self._session = CarlaSession(server, settings)
        self._weather: ChangingWeather | None = None
        self._env_frames = 0

    def reset(self, seed: int) -> Outcome:
        """Start an episode; lane, traffic and weather come from the seed."""
        random = np.random.default_rng(seed)
        self._env_frames = 0
        self._weather = None
        if self.settings.weather == DYNAMIC:
            self._weather = ChangingWeather(self.settings.changing, random)
            self._session.show(self._weather.sky)
        seen = self._session.reset(random)
        guidance = self._session.route.guide(seen.location)
        return Outcome(seen.pixels, 0.0, None, _signals(0.0, 0.0, guidance, None))

    def advance(self, action: Sequence[float]) -> Outcome:
        """Drive one frame."""
        controls = Controls.of(action)
        seen = self._session.drive(controls, self._weather.step() if self._weather else None)
        self._env_frames += 1
        guidance = self._session.route.guide(seen.location)
        along, delta_s = guidance.speed_along(seen.velocity), self.settings.delta_s
        rule = self.settings.reward
        reward = rule(along, guidance.offset_m, seen.impulse, controls.steer, delta_s)
        ending = self.settings.ending(self._env_frames, guidance, _motion(seen, guidance))
        signals = _signals(along * delta_s, seen.impulse, guidance, ending)
        return Outcome(seen.pixels, reward, ending, signals)

    def close(self) -> None:
        """Give the server back."""
        self._session.close()


def _motion(seen: Sensed, guidance: Guidance) -> Motion:
    height_m = seen.location.z - guidance.road_height_m
    return Motion(seen.speed, seen.velocity.z, height_m)


def _signals(
    distance_m: float, impulse: float, guidance: Guidance, ending: Ending | None
) -> dict[str, float]:
    return {
        "distance": distance_m,
        "impulse": impulse,
        "off_centre": guidance.offset_m,
        "invalid": float(ending is Ending.GLITCH),
    }
