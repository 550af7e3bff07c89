"""The simulated world: actors, a plain motion model, collisions, settings, weather."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import roads, wire
from .blueprints import BODIES, CAR_TAG, Body, described
from .wire import CallFailed, Pose, Vector

MAPS = {"Carla/Maps/Town04": roads.highway, "Carla/Maps/DeadEnd": roads.dead_end}
FREE_RUN_DELTA_S = 0.05
SETTINGS: list[Any] = [False, False, [False], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True]
"""Synchronous, no rendering, fixed delta, substepping and what else a server starts with."""

CLEAR = [5.0, 0.0, 0.0, 10.0, 0.0, 45.0] + [0.0] * 8
"""The weather at the start, in the protocol's order; the sixth value is the sun's height, deg."""
SPEED_LIMIT_KMH = 90.0
FULL_THROTTLE_MS2, FULL_BRAKE_MS2, DRAG_PER_S = 5.0, 9.0, 0.08
WHEELBASE_M, FULL_LOCK_DEG = 2.6, 35.0
SETTLING = 0.7
"""Part of the height above the road that is left after one tick: a car dropped from 0.1 m."""

TOO_FAR_M = 8.0
"""No two vehicles touch whose centres are farther apart, along and across added."""

_IDLE = [0.0, 0.0, 0.0, False, False, False, 0, 0.0]


@dataclass(slots=True)
class Actor:
    """Anything with a number: a vehicle, a sensor, the spectator."""

    number: int
    description: list[Any]
    pose: Pose
    parent: int = 0
    """Number of the actor it is fixed to, 0 for none; `pose` is then relative to that one."""
    stream: int = 0
    velocity: Vector = field(default_factory=lambda: [0.0, 0.0, 0.0])
    turning: Vector = field(default_factory=lambda: [0.0, 0.0, 0.0])
    acceleration: Vector = field(default_factory=lambda: [0.0, 0.0, 0.0])
    control: list[Any] = field(default_factory=lambda: list(_IDLE))
    physics: bool = True

    @property
    def type_id(self) -> str:
        """Name of its blueprint."""
        return self.description[1]

    @property
    def body(self) -> Body | None:
        """Size and weight; None for what is not a vehicle."""
        return BODIES.get(self.type_id)

    def attribute(self, name: str, default: str) -> str:
        """Value of an attribute that it was spawned with."""
        return next((a[2] for a in self.description[2] if a[0] == name), default)

    @property
    def extent(self) -> Vector:
        """Half of its size in metres."""
        body = self.body
        if body is None:
            return [0.0, 0.0, 0.0]
        return [body.half_length_m, body.half_width_m, body.half_height_m]

    @property
    def box(self) -> list[Vector]:
        """Its bounding box, as calls name it."""
        extent = self.extent
        return [[0.0, 0.0, extent[2]], extent, [0.0, 0.0, 0.0]]

    def corners(self) -> list[tuple[float, float]]:
        """Where the four corners of its outline stand."""
        yaw = math.radians(self.pose.rotation[1])
        c, s = math.cos(yaw), math.sin(yaw)
        x, y, _ = self.pose.location
        a, b, _ = self.extent
        signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
        return [(x + i * a * c - j * b * s, y + i * a * s + j * b * c) for i, j in signs]

    def drive(self, delta_s: float) -> None:
        """Move on by one tick: a bicycle model with drag, and a fall that ends on the road."""
        throttle, steer, brake, hand_brake, reverse = self.control[:5]
        yaw = math.radians(self.pose.rotation[1])
        before = list(self.velocity)
        speed = self.velocity[0] * math.cos(yaw) + self.velocity[1] * math.sin(yaw)
        push = FULL_THROTTLE_MS2 * throttle * (-1 if reverse else 1)
        speed += (push - DRAG_PER_S * speed) * delta_s
        slowing = FULL_BRAKE_MS2 * max(brake, float(hand_brake)) * delta_s
        speed = math.copysign(max(0.0, abs(speed) - slowing), speed)
        rate = speed / WHEELBASE_M * math.tan(math.radians(FULL_LOCK_DEG) * steer)
        yaw += rate * delta_s
        location = self.pose.location
        fallen = location[2] * SETTLING if location[2] > 0.001 else 0.0
        vertical = (fallen - location[2]) / delta_s
        self.velocity = [speed * math.cos(yaw), speed * math.sin(yaw), vertical]
        self.pose.location = [
            location[0] + self.velocity[0] * delta_s,
            location[1] + self.velocity[1] * delta_s,
            fallen,
        ]
        self.pose.rotation[1] = (math.degrees(yaw) + 180) % 360 - 180
        self.turning = [0.0, 0.0, math.degrees(rate)]
        self.acceleration = [
            (now - then) / delta_s for now, then in zip(self.velocity, before, strict=True)
        ]


class World:
    """Everything a call can ask about or change."""

    def __init__(self, map_name: str) -> None:
        self.map_name = map_name
        self.episode = 1
        self.frame = 0
        self.seconds = 0.0
        self.settings = list(SETTINGS)
        self.weather = list(CLEAR)
        self.actors: dict[int, Actor] = {}
        self.refuse_spawns = 0
        """So many of the next vehicles find no room."""
        self._numbers = 0
        self._streams = 1
        self.spectator = self._add(described("spectator"), Pose([0.0, 0.0, 50.0]))

    @property
    def synchronous(self) -> bool:
        """Whether time passes at calls of `tick_cue` only."""
        return bool(self.settings[0])

    @property
    def delta_s(self) -> float:
        """Simulated seconds of one tick."""
        fixed = self.settings[2]
        return float(fixed[1]) if fixed[0] else FREE_RUN_DELTA_S

    def load(self, name: str, *, reset_settings: bool) -> None:
        """Start a new episode with nothing in it on the named map, or for no name on the same."""
        short = (name or self.map_name).rsplit("/", 1)[-1]
        if f"Carla/Maps/{short}" not in MAPS:
            raise CallFailed(f"map not found: {name}")
        self.map_name = f"Carla/Maps/{short}"
        self.episode += 1
        self.seconds = 0.0
        self.actors.clear()
        self.weather = list(CLEAR)
        if reset_settings:
            self.settings = list(SETTINGS)
        self.spectator = self._add(described("spectator"), Pose([0.0, 0.0, 50.0]))

    def opendrive(self) -> str:
        """The map's road network."""
        return MAPS[self.map_name]()

    def spawn_points(self) -> list[list[Vector]]:
        """Places where cars can start: every 40 m on each lane of the first road."""
        places = ((s, lane) for s in range(20, 560, 40) for lane in range(1, roads.LANES + 1))
        poses = (roads.lane_pose(s, lane) for s, lane in places)
        return [[[x, y, 0.3], [0.0, yaw, 0.0]] for x, y, yaw in poses]

    def _add(self, description: list[Any], pose: Pose, parent: int = 0) -> Actor:
        self._numbers += 1
        actor = Actor(self._numbers, description, pose, parent)
        self.actors[actor.number] = actor
        return actor

    def spawn(self, description: list[Any], pose: Pose, parent: int = 0) -> Actor:
        """A new actor.

        Raises:
            CallFailed: The parent does not exist, or another vehicle is where it would stand.
        """
        if parent and parent not in self.actors:
            raise CallFailed("unable to attach actor: parent actor not found")
        actor = self._add(description, pose, parent)
        if actor.type_id.startswith("sensor."):
            self._streams += 1
            actor.stream = self._streams
        elif not self._has_room(actor):
            del self.actors[actor.number]
            raise CallFailed("Spawn failed because of collision at spawn position")
        return actor

    def _has_room(self, actor: Actor) -> bool:
        if actor.body and self.refuse_spawns:
            self.refuse_spawns -= 1
            return False
        return not any(touch(actor, other) for other in self.vehicles() if other is not actor)

    def destroy(self, number: int) -> bool:
        """Take an actor out of the world; what was fixed to it stays behind where it was."""
        if number not in self.actors:
            raise CallFailed("unable to destroy actor: actor not found")
        for child in self.actors.values():
            if child.parent == number:
                child.pose, child.parent = self.place(child), 0
        del self.actors[number]
        return True

    def find(self, number: int) -> Actor:
        """The actor with that number.

        Raises:
            CallFailed: There is none.
        """
        if number not in self.actors:
            raise CallFailed(f"unable to find actor {number}: actor not found")
        return self.actors[number]

    def vehicles(self) -> Iterator[Actor]:
        """All vehicles."""
        return (actor for actor in self.actors.values() if actor.body)

    def sensors(self, kind: str) -> Iterator[Actor]:
        """All sensors of a kind, such as `camera`."""
        return (a for a in self.actors.values() if a.type_id.startswith(f"sensor.{kind}"))

    def place(self, actor: Actor) -> Pose:
        """Where an actor is in the world."""
        if not actor.parent:
            return actor.pose
        base = self.place(self.actors[actor.parent])
        yaw = math.radians(base.rotation[1])
        x, y, z = actor.pose.location
        turned = (x * math.cos(yaw) - y * math.sin(yaw), x * math.sin(yaw) + y * math.cos(yaw), z)
        return Pose(
            [b + t for b, t in zip(base.location, turned, strict=True)],
            [b + r for b, r in zip(base.rotation, actor.pose.rotation, strict=True)],
        )

    def tick(self) -> list[tuple[Actor, Actor, Vector]]:
        """Let one delta of time pass.

        Returns:
            Who hit whom, and with which impulse in N s; both of a pair appear once each.
        """
        self.frame += 1
        self.seconds += self.delta_s
        for actor in self.vehicles():
            if actor.physics:
                actor.drive(self.delta_s)
        return self._collisions()

    def _collisions(self) -> list[tuple[Actor, Actor, Vector]]:
        hits: list[tuple[Actor, Actor, Vector]] = []
        cars = list(self.vehicles())
        for i, one in enumerate(cars):
            for other in cars[i + 1 :]:
                if touch(one, other):
                    impulse = _bump(one, other)
                    hits.append((one, other, impulse))
                    hits.append((other, one, [-part for part in impulse]))
        return hits

    def state(self) -> list[bytes]:
        """State of every actor for the world-state message."""
        return [self._state(actor) for actor in self.actors.values()]

    def _state(self, actor: Actor) -> bytes:
        rest = wire.vehicle_state(actor.control, SPEED_LIMIT_KMH) if actor.body else b""
        return wire.actor_state(
            actor.number,
            self.place(actor),
            actor.velocity,
            actor.turning,
            actor.acceleration,
            rest,
        )

    def as_call(self, actor: Actor, stream_port: int) -> list[Any]:
        """The actor, as calls name it."""
        tags = bytes([CAR_TAG]) if actor.body else b""
        token = wire.token(actor.stream, stream_port) if actor.stream else b""
        return [actor.number, actor.parent, actor.description, actor.box, tags, token]


def touch(one: Actor, other: Actor) -> bool:
    """Whether the outlines of two vehicles overlap: no side of either lies between them."""
    (x, y, _), (u, v, _) = one.pose.location, other.pose.location
    if abs(x - u) + abs(y - v) > TOO_FAR_M:
        return False
    for yaw_deg in (one.pose.rotation[1], other.pose.rotation[1]):
        for axis in (math.radians(yaw_deg), math.radians(yaw_deg + 90)):
            c, s = math.cos(axis), math.sin(axis)
            a = [x * c + y * s for x, y in one.corners()]
            b = [x * c + y * s for x, y in other.corners()]
            if max(a) < min(b) or max(b) < min(a):
                return False
    return True


def _bump(one: Actor, other: Actor) -> Vector:
    """Both go on with their common velocity; returns the impulse on the first, N s."""
    assert one.body is not None
    assert other.body is not None
    a, b = one.body.mass_kg, other.body.mass_kg
    pairs = list(zip(one.velocity, other.velocity, strict=True))
    common = [(a * u + b * v) / (a + b) for u, v in pairs]
    impulse = [a * (w - u) for w, (u, _) in zip(common, pairs, strict=True)]
    one.velocity, other.velocity = list(common), list(common)
    return impulse
