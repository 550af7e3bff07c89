"""The calls that the double understands, each by the name that the client uses.

A method takes what the client sends and returns what goes back; None stands for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import blueprints, wire
from .wire import CallFailed, Pose
from .world import MAPS, World

WORLD_STREAM = 1

_COMMANDS = {
    0: "spawn",
    1: "destroy_actor",
    2: "apply_control_to_vehicle",
    6: "set_actor_transform",
    8: "set_actor_target_velocity",
    9: "set_actor_target_angular_velocity",
    10: "add_actor_impulse",
    14: "set_actor_simulate_physics",
    15: "set_actor_enable_gravity",
    16: "set_actor_autopilot",
    18: "set_vehicle_light_state",
}
"""What each kind of command in a batch amounts to, by its number."""

_IGNORED = (
    "set_actor_autopilot",
    "set_vehicle_light_state",
    "set_actor_enable_gravity",
    "freeze_all_traffic_lights",
    "reset_all_traffic_lights",
    "draw_debug_shape",
    "update_lights_state",
)
"""Calls that change nothing here and return nothing."""


class Calls:
    """Answers calls on a world.

    Args:
        world: What they ask about and change.
        version: Version that the double claims to be.
        stream_port: Where the streams are to be had.
    """

    def __init__(self, world: World, version: str, stream_port: int) -> None:
        self.world = world
        self._version = version
        self._stream_port = stream_port
        self._traffic_managers: dict[int, str] = {}

    def find(self, method: str) -> Callable[..., Any] | None:
        """The method for a call's name; None for a name that nobody bound."""
        if method in _IGNORED:
            return lambda *_: None
        return None if method.startswith("_") else getattr(self, f"on_{method}", None)

    # The server and its maps

    def on_version(self) -> str:
        return self._version

    def on_get_available_maps(self) -> list[str]:
        return list(MAPS)

    def on_get_episode_info(self) -> list[Any]:
        return [self.world.episode, [wire.token(WORLD_STREAM, self._stream_port)]]

    def on_get_sensor_token(self, stream: int) -> list[bytes]:
        return [wire.token(stream, self._stream_port)]

    def on_load_new_episode(self, name: str, reset_settings: bool, layers: int) -> None:
        self.world.load(name, reset_settings=reset_settings)

    def on_get_map_info(self) -> list[Any]:
        return [self.world.map_name, self.world.spawn_points()]

    def on_get_map_data(self) -> str:
        return self.world.opendrive()

    def on_get_required_files(self, folder: str) -> list[str]:
        return []

    def on_get_navigation_mesh(self) -> bytes:
        return b""

    def on_query_lights_state(self, client: str) -> list[Any]:
        return []

    # Settings and weather

    def on_get_episode_settings(self) -> list[Any]:
        return self.world.settings

    def on_set_episode_settings(self, settings: list[Any]) -> int:
        self.world.settings = settings
        return self.world.frame

    def on_get_weather_parameters(self) -> list[float]:
        return self.world.weather

    def on_set_weather_parameters(self, weather: list[float]) -> None:
        self.world.weather = weather

    # Actors

    def on_get_actor_definitions(self) -> list[Any]:
        return blueprints.definitions()

    def on_get_spectator(self) -> list[Any]:
        return self._named(self.world.spectator.number)

    def on_get_actors_by_id(self, numbers: list[int]) -> list[Any]:
        return [self._named(number) for number in numbers if number in self.world.actors]

    def on_spawn_actor(self, description: list[Any], transform: list[Any]) -> list[Any]:
        return self._named(self.world.spawn(description, Pose.of(transform)).number)

    def on_spawn_actor_with_parent(
        self, description: list[Any], transform: list[Any], parent: int, *attachment: Any
    ) -> list[Any]:
        return self._named(self.world.spawn(description, Pose.of(transform), parent).number)

    def on_destroy_actor(self, number: int) -> bool:
        return self.world.destroy(number)

    def on_set_actor_transform(self, number: int, transform: list[Any]) -> None:
        self.world.find(number).pose = Pose.of(transform)

    def on_set_actor_location(self, number: int, location: list[float]) -> None:
        self.world.find(number).pose.location = list(location)

    def on_set_actor_target_velocity(self, number: int, velocity: list[float]) -> None:
        self.world.find(number).velocity = list(velocity)

    def on_set_actor_target_angular_velocity(self, number: int, velocity: list[float]) -> None:
        self.world.find(number).turning = list(velocity)

    def on_add_actor_impulse(self, number: int, impulse: list[float]) -> None:
        actor = self.world.find(number)
        if actor.body:
            pairs = zip(actor.velocity, impulse, strict=True)
            actor.velocity = [v + part / actor.body.mass_kg for v, part in pairs]

    def on_set_actor_simulate_physics(self, number: int, enabled: bool) -> None:
        self.world.find(number).physics = enabled

    def on_apply_control_to_vehicle(self, number: int, control: list[Any]) -> None:
        if not all(math.isfinite(part) for part in control[:3]):
            raise CallFailed("control is not finite")
        self.world.find(number).control = control

    def on_get_actor_bounding_box(self, number: int) -> list[Any]:
        return self.world.find(number).box

    def on_get_vehicle_light_state(self, number: int) -> list[int]:
        return [0]

    def on_get_vehicle_light_states(self) -> list[list[int]]:
        return [[actor.number, 0] for actor in self.world.vehicles()]

    def _named(self, number: int) -> list[Any]:
        return self.world.as_call(self.world.find(number), self._stream_port)

    # Batches: every command is answered by itself, so one that fails stops no other

    def batch(self, commands: list[Any]) -> list[Any]:
        """Answers of the commands of one `apply_batch`."""
        return [self._command(*command[0]) for command in commands]

    def _command(self, kind: int, body: list[Any]) -> list[Any]:
        try:
            if kind == 0:
                return [[1, self._spawn(*body)]]
            method = self.find(_COMMANDS[kind]) if kind in _COMMANDS else None
            if method is None:
                raise CallFailed(f"the double knows no command number {kind}")
            method(*body)
        except CallFailed as error:
            return [[0, [str(error)]]]
        return [[1, body[0]]]

    def _spawn(
        self, description: list[Any], transform: list[Any], parent: list[Any], *rest: Any
    ) -> int:
        """Spawn, then do the commands that were chained to it, to the new actor."""
        base = parent[1] if parent[0] else 0
        number = self.world.spawn(description, Pose.of(transform), base).number
        for ((kind, body),) in rest[-1]:
            self._command(kind, [number, *body[1:]])
        return number

    # Traffic managers live in the clients; the server only knows where

    def on_is_traffic_manager_running(self, port: int) -> bool:
        return port in self._traffic_managers

    def on_get_traffic_manager_running(self, port: int) -> list[Any]:
        return [self._traffic_managers.get(port, ""), port]

    def on_add_traffic_manager_running(self, where: list[Any]) -> bool:
        host, port = where
        if port in self._traffic_managers:
            return False
        self._traffic_managers[port] = host
        return True

    def on_destroy_traffic_manager(self, port: int) -> bool:
        return self._traffic_managers.pop(port, None) is not None
