"""Weather: presets that stay, or a sky that changes while one drives."""

import difflib
import math
from dataclasses import dataclass

import numpy as np

from wmplatform.envs import UnknownTask

__all__ = ["DYNAMIC", "PRESETS", "ChangingWeather", "Sky", "WeatherRule", "weather_name"]

DYNAMIC = "dynamic"

_KINDS = ("Clear", "Cloudy", "Wet", "WetCloudy", "SoftRain", "HardRain")
PRESETS = (
    *(f"{kind}{time}" for time in ("Noon", "Sunset", "Night") for kind in _KINDS),
    "MidRainyNoon",
    "MidRainSunset",
    "MidRainyNight",
    "DustStorm",
    "Default",
)
"""Names of the presets in CARLA 0.9.16."""

_TURN = 2 * math.pi
_CALM, _WORST = -250.0, 100.0
_FAIR = -50.0
"""Where a storm begins that was drawn as not raining."""


def weather_name(given: str) -> str:
    """Return `given` if it is `dynamic` or a preset.

    Raises:
        UnknownTask: it is neither; the message has the nearest ones.
    """
    known = (DYNAMIC, *PRESETS)
    if given in known:
        return given
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    hint = f"near: {', '.join(near)}" if near else f"known: {', '.join(known)}"
    raise UnknownTask(f"CARLA has no weather {given!r}", hint=hint)


@dataclass(frozen=True, slots=True)
class Sky:
    """Weather parameters by CARLA's own names: degrees for the sun, 0..100 for the rest."""

    sun_azimuth_angle: float
    sun_altitude_angle: float
    cloudiness: float
    precipitation: float
    precipitation_deposits: float
    wetness: float
    wind_intensity: float
    fog_density: float = 0.0


@dataclass(frozen=True)
class WeatherRule:
    """How fast the sky changes, and how high the sun climbs."""

    speed: float = 0.1
    """Of all changes; at 1 the sun takes 785 frames from its highest place back to it."""
    sun_altitude: tuple[float, float] = (0.0, 45.0)
    """Lowest and highest, in degrees; Iso-Dream (Pan et al. 2022) has 20 and 90."""


class ChangingWeather:
    """A sun that circles and a storm that comes and goes, drawn anew for each episode.

    The storm is one number that moves up and down between -250 (dry for long) and 100; clouds,
    rain, puddles and wind follow from it, puddles with a delay.
    """

    def __init__(self, rule: WeatherRule, random: np.random.Generator) -> None:
        self.rule = rule
        self._azimuth = float(random.uniform(0.0, 360.0))
        self._phase = float(random.uniform(0.0, _TURN))
        storm = float(random.uniform(_CALM, _WORST))
        self._storm = storm if storm > 0 else _FAIR
        self._rising = True

    def step(self) -> Sky:
        """Go on by one frame and return the sky."""
        speed = self.rule.speed
        self._phase = (self._phase + 0.008 * speed) % _TURN
        self._azimuth = (self._azimuth + 0.25 * speed) % 360.0
        change = 1.3 * speed if self._rising else -1.3 * speed
        self._storm = min(_WORST, max(_CALM, self._storm + change))
        if self._storm in (_CALM, _WORST):
            self._rising = self._storm == _CALM
        return self.sky

    @property
    def sky(self) -> Sky:
        """The present sky."""
        low, high = self.rule.sun_altitude
        storm = self._storm
        clouds = _clip(storm + 40.0, 60.0)
        return Sky(
            sun_azimuth_angle=self._azimuth,
            sun_altitude_angle=(low + high) / 2 + (high - low) / 2 * math.cos(self._phase),
            cloudiness=clouds,
            precipitation=_clip(storm, 80.0),
            precipitation_deposits=_clip(storm - 10.0 if self._rising else storm + 90.0, 85.0),
            wetness=_clip(5.0 * storm, 100.0),
            wind_intensity=5.0 if clouds <= 20.0 else 40.0,
        )


def _clip(value: float, highest: float) -> float:
    return min(highest, max(0.0, value))
