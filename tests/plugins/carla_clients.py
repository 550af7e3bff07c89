"""What tests of the CARLA parts share: clients of the double, cars on its track, their sensors."""

import queue
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ..carla_double import roads
from ..carla_double.launch import Double

carla = pytest.importorskip("carla")

DELTA_S = 0.05
WAIT_S = 10.0


def connect(double: Double, timeout_s: float = WAIT_S) -> Any:
    """A client of the double."""
    client = carla.Client("127.0.0.1", double.port, worker_threads=1)
    client.set_timeout(timeout_s)
    return client


def synchronous(world: Any) -> Any:
    """The same world, in which time now passes at ticks only."""
    settings = world.get_settings()
    settings.synchronous_mode = True
    settings.fixed_delta_seconds = DELTA_S
    world.apply_settings(settings)
    return world


def place(s: float, lane: int) -> Any:
    """Where a car stands on a lane of the track."""
    x, y, yaw = roads.lane_pose(s, lane)
    return carla.Transform(carla.Location(x, y, 0.0), carla.Rotation(yaw=yaw))


def spawn(world: Any, s: float, lane: int = 2, kind: str = "vehicle.audi.a2") -> Any:
    """A car on the track."""
    return world.spawn_actor(world.get_blueprint_library().find(kind), place(s, lane))


def attach(world: Any, car: Any, kind: str, **attributes: str) -> tuple[Any, "queue.Queue[Any]"]:
    """A sensor on a car, and the queue into which it puts what it senses."""
    blueprint = world.get_blueprint_library().find(kind)
    for name, value in attributes.items():
        blueprint.set_attribute(name, value)
    mount = carla.Transform(carla.Location(x=1.6, z=1.7))
    sensor = world.spawn_actor(blueprint, mount, attach_to=car)
    seen: queue.Queue[Any] = queue.Queue()
    sensor.listen(seen.put)
    return sensor, seen


def camera(world: Any, car: Any) -> tuple[Any, "queue.Queue[Any]"]:
    """The camera of the driving task."""
    size = {"image_size_x": "64", "image_size_y": "64", "fov": "60"}
    return attach(world, car, "sensor.camera.rgb", **size)


def pixels(image: Any) -> NDArray[np.uint8]:
    """uint8 [height, width, blue green red alpha]."""
    flat = np.frombuffer(image.raw_data, np.uint8)
    return flat.reshape(image.height, image.width, 4).copy()


def velocity(car: Any) -> list[float]:
    """Its velocity, m/s."""
    moving = car.get_velocity()
    return [moving.x, moving.y, moving.z]


def outcome(call: Callable[[], Any]) -> tuple[str, float]:
    """Message of the error that the call raises, and how long that took, s."""
    began = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        call()
    return str(caught.value), time.monotonic() - began
