"""Bytes and shapes of the CARLA 0.9.16 protocol, as the client library expects them.

Two kinds of traffic. Calls are MessagePack-RPC: a request is `[0, id, method, params]`, a reply
`[1, id, error, result]`, and results are wrapped once more: `[[1, value]]` for a value,
`[[0, [message]]]` for a failed call, `[[false]]` for a call that returns nothing. Streams carry
little-endian structs without padding, each message with its length in front. The client checks
neither sizes nor type numbers and crashes on a wrong one.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

COLLISION, CAMERA, WORLD_STATE = 0, 14, 17
"""Type numbers of stream messages; they hold for version 0.9.16 only."""

ACTIVE = 1
MAP_CHANGED = 1

_TOKEN = struct.Struct("<IHBB16s")
_HEADER = struct.Struct("<QQd6f")
_WORLD = struct.Struct("<Qdf3iI")
_ACTOR = struct.Struct("<IB6f9f")
_VEHICLE = struct.Struct("<3f3?ifB?IB")
_CAMERA = struct.Struct("<2If")
_ACTOR_BYTES = 119
_TCP, _IPV4 = 1, 1
_GREEN = 2

Vector = list[float]


class CallFailed(Exception):
    """A call that the double answers with an error, which the client raises as RuntimeError."""


@dataclass(slots=True)
class Pose:
    """Where something is: metres, left-handed with z up; degrees, clockwise seen from above."""

    location: Vector = field(default_factory=lambda: [0.0, 0.0, 0.0])
    rotation: Vector = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Pitch, yaw, roll."""

    @classmethod
    def of(cls, transform: Sequence[Sequence[float]]) -> Pose:
        """The pose that a call names as `[[x, y, z], [pitch, yaw, roll]]`."""
        return cls(list(transform[0]), list(transform[1]))

    def as_call(self) -> list[Vector]:
        """The same, as calls name it."""
        return [self.location, self.rotation]


def reply(call_id: int, value: Any) -> bytes:
    """Answer of a call that returned `value`; None for one that returns nothing."""
    return _packed(call_id, [[False]] if value is None else [[1, value]])


def failure(call_id: int, message: str) -> bytes:
    """Answer of a call that failed inside the simulator."""
    return _packed(call_id, [[0, [message]]])


def plain(call_id: int, result: Any) -> bytes:
    """Answer without the outer wrapping: what `apply_batch` returns."""
    return _packed(call_id, result)


def unknown(call_id: int, method: str) -> bytes:
    """Answer of the RPC layer itself to a method that nobody bound."""
    text = f"rpclib: server could not find function '{method}'"
    return msgpack.packb([1, call_id, text, None])


def _packed(call_id: int, result: Any) -> bytes:
    return msgpack.packb([1, call_id, None, result])


def token(stream_id: int, port: int) -> bytes:
    """Where a stream is to be had: its number, the port, TCP, and the loopback address."""
    address = ipaddress.IPv4Address("127.0.0.1").packed
    return _TOKEN.pack(stream_id, port, _TCP, _IPV4, address)


def stream_of(raw_token: bytes) -> int:
    """Number of the stream that a token names."""
    return int(_TOKEN.unpack(raw_token)[0])


def message(kind: int, frame: int, seconds: float, pose: Pose, body: bytes) -> bytes:
    """One stream message: length, common header, body."""
    header = _HEADER.pack(kind, frame, seconds, *pose.location, *pose.rotation)
    return struct.pack("<I", len(header) + len(body)) + header + body


def image_body(width: int, height: int, fov: float, bgra: bytes) -> bytes:
    """Body of a camera message; `bgra` holds 4 bytes a pixel, row by row from the top."""
    return _CAMERA.pack(width, height, fov) + bgra


def collision_body(actor: Any, other: Any, impulse: Sequence[float]) -> bytes:
    """Body of a collision message; both actors as calls name them, the impulse in N s."""
    return msgpack.packb([actor, other, list(impulse)])


def world_body(
    episode: int, platform_s: float, delta_s: float, actors: Sequence[bytes], *, flags: int = 0
) -> bytes:
    """Body of a world-state message: what changed for everyone, then every actor's state."""
    return _WORLD.pack(episode, platform_s, delta_s, 0, 0, 0, flags) + b"".join(actors)


def actor_state(
    actor_id: int,
    pose: Pose,
    velocity: Sequence[float],
    angular_velocity: Sequence[float],
    acceleration: Sequence[float],
    rest: bytes = b"",
) -> bytes:
    """State of one actor: m/s, deg/s and m/s^2; `rest` depends on the kind of actor."""
    packed = _ACTOR.pack(
        actor_id,
        ACTIVE,
        *pose.location,
        *pose.rotation,
        *velocity,
        *angular_velocity,
        *acceleration,
    )
    return (packed + rest).ljust(_ACTOR_BYTES, b"\0")


def vehicle_state(control: Sequence[Any], speed_limit: float) -> bytes:
    """What follows for a vehicle: the control in force, the limit in km/h, no traffic light."""
    throttle, steer, brake, hand_brake, reverse, manual, gear = control[:7]
    moving = (throttle, steer, brake, hand_brake, reverse, manual, int(gear))
    return _VEHICLE.pack(*moving, speed_limit, _GREEN, False, 0, 0)
