"""The way along the highway: where lanes are, where it starts, where other cars drive.

Everything is asked of a `carla.Map`, which needs no server: it is made from OpenDRIVE text.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from wmplugins.carla.errors import WrongServer
from wmplugins.carla.reward import OFF_ROAD_M

__all__ = ["HIGHWAY", "HIGHWAY_SIDE_LANES", "Guidance", "Route", "RoutePlan", "SideLane", "Stretch"]

_NUDGES_M = (0.0, -0.02, 0.02)
"""Tried in turn where a lane has no waypoint at a place, as at the seam of two sections."""
_AHEAD_M = 0.1
_EDGE_M = 0.1
_STRIDE_M = 5.0
_LIFT_M = 0.1
"""How far above the road cars are put, so that they do not begin inside it."""


@dataclass(frozen=True)
class Stretch:
    """A part of a road, in the direction in which the road is drawn."""

    road: int
    start_s: float
    """Metres along the road."""
    end_s: float
    lanes: tuple[int, ...]

    @property
    def length_m(self) -> float:
        """How long it is."""
        return self.end_s - self.start_s


_RIGHT, _LEFT = (-1, -2, -3, -4), (1, 2, 3, 4)

HIGHWAY = (
    Stretch(45, 200.0, 583.0, _RIGHT),
    Stretch(103, 0.0, 50.0, _RIGHT),
    Stretch(46, 0.0, 176.0, _RIGHT),
    Stretch(659, 0.0, 58.0, _LEFT),
    Stretch(47, 0.0, 117.0, _RIGHT),
    Stretch(558, 0.0, 34.0, _LEFT),
    Stretch(48, 0.0, 81.0, _RIGHT),
)
"""The highway of Town04 ahead of the start, where other cars are placed."""


@dataclass(frozen=True)
class SideLane:
    """Lanes that count as the hard shoulder of another one."""

    road: int
    lane: int | None
    """None is any lane of the road."""
    of_road: int
    of_lane: int


HIGHWAY_SIDE_LANES = (
    SideLane(93, None, 103, -3),
    SideLane(94, None, 103, -3),
    SideLane(103, -4, 103, -3),
)
"""The exit beside road 103 belongs to its third lane."""


@dataclass(frozen=True)
class RoutePlan:
    """Where an episode begins and where other cars are placed."""

    start_road: int = 45
    start_lanes: tuple[int, ...] = _RIGHT
    start_s: float = 100.0
    stretches: tuple[Stretch, ...] = HIGHWAY
    """Where other cars are placed; none: from `clear_m` to `length_m` ahead of the start."""
    side_lanes: tuple[SideLane, ...] = HIGHWAY_SIDE_LANES
    clear_m: float = 100.0
    length_m: float = 1000.0


@dataclass(frozen=True, slots=True)
class Guidance:
    """Where a car is, seen from the lane that it should follow."""

    road: int
    """Number of the road; -1 where there is none."""
    offset_m: float
    """Planar distance to the lane's centre."""
    direction: tuple[float, float] | None
    """Planar unit vector of the lane; None where the road ends."""
    road_height_m: float = 0.0
    """Of the lane's centre."""

    @property
    def on_road(self) -> bool:
        """Whether there is a lane."""
        return self.road >= 0

    def speed_along(self, velocity: Any) -> float:
        """Planar speed in the lane's direction, of a velocity with `x` and `y`."""
        if self.direction is None:
            return 0.0
        return float(velocity.x * self.direction[0] + velocity.y * self.direction[1])


_NOWHERE = Guidance(road=-1, offset_m=OFF_ROAD_M, direction=None)


class Route:
    """A plan on a map.

    Args:
        roads: a `carla.Map`.
        plan: where to start, and where other cars are.

    Raises:
        WrongServer: the map lacks a road or a lane of the plan.
    """

    def __init__(self, roads: Any, plan: RoutePlan) -> None:
        self._roads = roads
        self._plan = plan
        self._starts = [
            self._needed(plan.start_road, lane, plan.start_s) for lane in plan.start_lanes
        ]
        for stretch in plan.stretches:
            for lane in stretch.lanes:
                for s in (stretch.start_s + _EDGE_M, stretch.end_s - _EDGE_M):
                    self._needed(stretch.road, lane, s)
        self._ahead = [] if plan.stretches else list(chain(*map(self._followed, self._starts)))

    def start(self, random: np.random.Generator | None = None) -> Any:
        """Draw a lane and return the `carla.Transform` of the start; the first lane without."""
        lane = 0 if random is None else int(random.integers(len(self._starts)))
        return _lifted(self._starts[lane])

    def places(self, random: np.random.Generator, count: int) -> list[Any]:
        """Draw `carla.Transform`s for other cars, uniform along the route and over its lanes."""
        return [_lifted(self._place(random)) for _ in range(count)]

    def guide(self, location: Any) -> Guidance:
        """Look up the lane that a car at a `carla.Location` should follow."""
        import carla

        nearest = self._roads.get_waypoint(
            location, project_to_road=True, lane_type=carla.LaneType.Driving
        )
        centre = None if nearest is None else self._centre(nearest)
        if centre is None:
            return _NOWHERE
        middle = centre.transform.location
        offset_m = math.hypot(location.x - middle.x, location.y - middle.y)
        return Guidance(nearest.road_id, offset_m, self._direction(centre), float(middle.z))

    def _centre(self, nearest: Any) -> Any:
        """The waypoint to follow: that of the lane itself, or of the lane whose side it is."""
        road, lane = nearest.road_id, nearest.lane_id
        for side in self._plan.side_lanes:
            if side.road == road and side.lane in (None, lane):
                road, lane = side.of_road, side.of_lane
                break
        tried = (self._roads.get_waypoint_xodr(road, lane, nearest.s + x) for x in _NUDGES_M)
        return next((found for found in tried if found is not None), None)

    def _direction(self, centre: Any) -> tuple[float, float] | None:
        ahead = centre.next(_AHEAD_M)
        if not ahead:
            return None
        here, there = centre.transform.location, ahead[0].transform.location
        x, y = there.x - here.x, there.y - here.y
        length = math.hypot(x, y)
        if length == 0.0:
            forward = centre.transform.get_forward_vector()
            x, y, length = forward.x, forward.y, math.hypot(forward.x, forward.y)
        return x / length, y / length

    def _place(self, random: np.random.Generator) -> Any:
        stretches = self._plan.stretches
        if not stretches:
            return self._ahead[int(random.integers(len(self._ahead)))]
        lengths = np.array([stretch.length_m for stretch in stretches])
        stretch = stretches[int(random.choice(len(stretches), p=lengths / lengths.sum()))]
        lane = stretch.lanes[int(random.integers(len(stretch.lanes)))]
        s = float(random.uniform(stretch.start_s + _EDGE_M, stretch.end_s - _EDGE_M))
        return self._needed(stretch.road, lane, s)

    def _followed(self, start: Any) -> list[Any]:
        """Waypoints along a lane from `clear_m` to `length_m`, straight on at forks."""
        found, here = [], start
        for number in range(1, int(self._plan.length_m / _STRIDE_M) + 1):
            ahead = here.next(_STRIDE_M)
            if not ahead:
                break
            here = min(ahead, key=lambda waypoint: _turn(start=here, end=waypoint))
            if number * _STRIDE_M >= self._plan.clear_m:
                found.append(here)
        return found

    def _needed(self, road: int, lane: int, s: float) -> Any:
        waypoint = self._roads.get_waypoint_xodr(road, lane, s)
        if waypoint is None:
            raise WrongServer(
                f"the map {self._roads.name!r} has no lane {lane} of road {road} at {s:.1f} m, "
                "which the route needs",
                hint="load Town04, name the file of its roads (envs.carla.opendrive), or choose "
                "another start (envs.carla.start_road, start_lanes, start_s) with "
                "envs.carla.route = 'ahead'",
            )
        return waypoint


def _turn(start: Any, end: Any) -> float:
    """How far a waypoint's heading is from another's, in degrees."""
    change = end.transform.rotation.yaw - start.transform.rotation.yaw
    return abs((change + 180.0) % 360.0 - 180.0)


def _lifted(waypoint: Any) -> Any:
    place = waypoint.transform
    place.location.z += _LIFT_M
    return place
