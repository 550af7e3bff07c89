"""The settings of an environment, grouped by who uses them, as they travel to the client process.

pydantic reads and writes them as JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wmplugins.carla.endings import EndingRule
from wmplugins.carla.reward import RewardRule
from wmplugins.carla.route import RoutePlan
from wmplugins.carla.weather import WeatherRule

__all__ = ["SIGNALS", "Server", "Settings"]

SIGNALS: Mapping[str, Literal["max", "sum", "mean", "last"]] = {
    "distance": "sum",
    "impulse": "sum",
    "off_centre": "mean",
    "invalid": "max",
}
"""What each frame tells beside its reward, and how episodes sum it up."""


@dataclass(frozen=True)
class Server:
    """Where a server is, and how long to wait for it."""

    host: str = "localhost"
    port: int = 2000
    traffic_manager_port: int | None = None
    """On this machine; None is one that is free when the world is set up."""
    startup_timeout_s: float = 60.0
    """Of each call while the world is loaded and set up."""
    tick_timeout_s: float = 30.0
    camera_timeout_s: float = 2.0
    any_version: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """Everything that the client process needs to know."""

    town: str = "Town04"
    opendrive: str | None = None
    """Path of a file with the roads, in place of the server's."""
    weather: str = "ClearNoon"
    changing: WeatherRule = field(default_factory=WeatherRule)
    delta_s: float = 0.05
    size: int = 64
    fov: float = 60.0
    camera_x: float = 1.6
    camera_z: float = 1.7
    vehicle: str = "vehicle.audi.a2"
    traffic: int = 20
    traffic_gap_m: float = 2.0
    traffic_slower_percent: float = 30.0
    route: RoutePlan = field(default_factory=RoutePlan)
    reward: RewardRule = field(default_factory=RewardRule)
    ending: EndingRule = field(default_factory=EndingRule)
