"""One connection to a CARLA server: all calls of the client library are made here.

The library raises RuntimeError for everything. A call that fails because the server is gone raises
`CarlaUnavailable`, which a new connection may mend; one that would fail again raises `WrongServer`.
"""

import contextlib
import math
import queue
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import carla
import numpy as np
from numpy.typing import NDArray

from wmplugins.carla.controls import Controls
from wmplugins.carla.errors import CarlaUnavailable, WrongServer
from wmplugins.carla.route import Route
from wmplugins.carla.settings import Server, Settings
from wmplugins.carla.traffic import Traffic
from wmplugins.carla.weather import DYNAMIC, Sky

__all__ = ["CarlaSession", "Sensed", "talking", "to_rgb", "town_of"]

_CLOSING_TIMEOUT_S = 2.0
_STREAM_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Sensed:
    """What one tick of the server brought."""

    pixels: NDArray[np.uint8]
    """`[3, size, size]`, RGB."""
    location: Any
    """`carla.Location` of the car."""
    velocity: Any
    """`carla.Vector3D`, m/s."""
    impulse: float
    """Sum of the norms of the impulses of collisions that were reported since the tick before."""

    @property
    def speed(self) -> float:
        """m/s, in all directions."""
        return math.hypot(self.velocity.x, self.velocity.y, self.velocity.z)


@contextlib.contextmanager
def talking(server: Server, doing: str) -> Iterator[None]:
    """Turn the library's RuntimeErrors into `CarlaUnavailable`.

    Args:
        server: who is talked to.
        doing: what the calls are about, e.g. `loading Town04`.
    """
    try:
        yield
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise CarlaUnavailable(server.host, server.port, f"{doing}: {first}") from error


class CarlaSession:
    """A fresh world with one car, its camera and its bumper, in step with the caller.

    Args:
        server: answers.
        settings: of the world.

    Raises:
        CarlaUnavailable: it does not answer in time.
        WrongServer: its version, its maps or its vehicles do not serve.
    """

    def __init__(self, server: Server, settings: Settings) -> None:
        self.server, self.settings = server, settings
        self._images: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._impulses: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._owned: list[Any] = []
        self._traffic: Traffic | None = None
        with talking(server, "connecting"):
            self._client = carla.Client(server.host, server.port)
            self._client.set_timeout(server.startup_timeout_s)
            refuse_other_version(self._client, server)
        with talking(server, f"loading {settings.town}"):
            self._world = self._fresh_world()
        try:
            with talking(server, "setting the world up"):
                self._set_up()
            self._await_camera()
        except BaseException:
            self.close()
            raise
        self._client.set_timeout(server.tick_timeout_s)

    def reset(self, random: np.random.Generator) -> Sensed:
        """Put the car at a start, other cars along the route, and look.

        Two ticks pass without control: the first one moves the car, the second shows it.

        Raises:
            CarlaUnavailable: the server is gone.
        """
        with talking(self.server, "starting an episode"):
            if self._traffic is not None:
                self._traffic.remove()
            self._car.set_transform(self.route.start(random))
            self._car.set_target_velocity(carla.Vector3D())
            self._car.set_target_angular_velocity(carla.Vector3D())
            self._car.apply_control(carla.VehicleControl())
            if self._traffic is not None:
                self._traffic.place(random)
        self._tick()
        return self._sense(self._tick())

    def drive(self, controls: Controls, sky: Sky | None = None) -> Sensed:
        """Let one frame pass.

        Args:
            controls: of the car.
            sky: the weather from now on; None leaves it.

        Raises:
            CarlaUnavailable: the server is gone.
        """
        with talking(self.server, "driving"):
            if sky is not None:
                self.show(sky)
            self._car.apply_control(carla.VehicleControl(**asdict(controls)))
        return self._sense(self._tick())

    def show(self, sky: Sky) -> None:
        """Change the weather."""
        weather = carla.WeatherParameters()
        for name, value in asdict(sky).items():
            setattr(weather, name, value)
        self._world.set_weather(weather)

    def close(self) -> None:
        """Give everything back, and the server its own pace; what fails is gone already."""
        self._client.set_timeout(_CLOSING_TIMEOUT_S)
        sensors = [each for each in self._owned if isinstance(each, carla.Sensor)]
        for step in (
            *(sensor.stop for sensor in sensors),
            *([self._traffic.close] if self._traffic else []),  # before the car it also looks at
            *(owned.destroy for owned in reversed(self._owned)),
            self._free_world,
        ):
            try:
                step()
            except RuntimeError as error:
                if "time-out" in str(error):
                    break  # nobody is there
        self._owned = []

    def _fresh_world(self) -> Any:
        """Load the town anew, so that nothing of an earlier client is left in it."""
        world = self._client.get_world()
        present = world.get_settings()
        if present.synchronous_mode:  # a client died: nobody ticks, and loading would wait for it
            present.synchronous_mode, present.fixed_delta_seconds = False, None
            world.apply_settings(present)
        try:
            return self._client.load_world(self.settings.town)
        except RuntimeError as error:
            if "map not found" not in str(error):
                raise
            known = ", ".join(sorted(map(town_of, self._client.get_available_maps())))
            raise WrongServer(
                f"CARLA at {self.server} has no map {self.settings.town!r}",
                hint=f"it has: {known}\ninstall the additional maps, or set envs.carla.town",
            ) from error

    def _set_up(self) -> None:
        self._step_by_step()
        self.route = Route(self._roads(), self.settings.route)
        if self.settings.weather != DYNAMIC:
            self._world.set_weather(getattr(carla.WeatherParameters, self.settings.weather))
        self._library = self._world.get_blueprint_library()
        self._car = self._spawned(self.settings.vehicle, self.route.start())
        self._camera = self._attach_camera()
        bumper = self._spawned("sensor.other.collision", carla.Transform(), self._car)
        bumper.listen(lambda event: self._impulses.put(event.normal_impulse.length()))
        if self.settings.traffic:
            port = self.server.traffic_manager_port or _free_port()
            self._traffic = Traffic(self._client, self._library, self.route, self.settings, port)

    def _step_by_step(self) -> None:
        wanted = self._world.get_settings()
        wanted.synchronous_mode = True
        wanted.fixed_delta_seconds = self.settings.delta_s
        wanted.no_rendering_mode = False
        self._world.apply_settings(wanted)

    def _free_world(self) -> None:
        free = self._world.get_settings()
        free.synchronous_mode, free.fixed_delta_seconds = False, None
        self._world.apply_settings(free)

    def _roads(self) -> Any:
        if self.settings.opendrive is None:
            return self._world.get_map()
        try:
            text = Path(self.settings.opendrive).read_text()
            return carla.Map(self.settings.town, text)
        except (OSError, RuntimeError) as error:
            raise WrongServer(
                f"no roads can be read from {self.settings.opendrive!r}: {error}",
                hint="envs.carla.opendrive names an OpenDRIVE file; None takes the server's roads",
            ) from error

    def _spawned(self, blueprint: str, place: Any, parent: Any = None, **attributes: Any) -> Any:
        try:
            chosen = self._library.find(blueprint)
        except IndexError as error:
            raise WrongServer(
                f"CARLA at {self.server} has no blueprint {blueprint!r}",
                hint="choose another one with envs.carla.vehicle",
            ) from error
        for name, value in attributes.items():
            chosen.set_attribute(name, str(value))
        actor = self._world.spawn_actor(chosen, place, attach_to=parent)
        self._owned.append(actor)
        return actor

    def _attach_camera(self) -> Any:
        side, fov = self.settings.size, self.settings.fov
        place = carla.Transform(carla.Location(x=self.settings.camera_x, z=self.settings.camera_z))
        camera = self._spawned(
            "sensor.camera.rgb",
            place,
            self._car,
            image_size_x=side,
            image_size_y=side,
            fov=fov,
            enable_postprocess_effects=True,
        )
        camera.listen(self._images.put)
        return camera

    def _await_camera(self) -> None:
        """Tick until a picture comes: its stream is opened in the background, and takes a while."""
        end_s = time.monotonic() + self.server.startup_timeout_s
        while self._images.empty():
            if time.monotonic() > end_s:
                raise self._unavailable(
                    f"the camera sent no picture within {self.server.startup_timeout_s:g} s; is "
                    f"the port of its streams ({self.server.port + 1}) open?"
                )
            self._tick()
            time.sleep(_STREAM_PAUSE_S)

    def _tick(self) -> int:
        with talking(self.server, "waiting for a frame"):
            return int(self._world.tick(self.server.tick_timeout_s))

    def _sense(self, frame: int) -> Sensed:
        image = self._image(frame)
        with talking(self.server, "reading the world's state"):
            state = self._world.get_snapshot().find(self._car.id)
        if state is None:
            raise self._unavailable("the car is gone")
        impulse = 0.0
        while not self._impulses.empty():
            impulse += self._impulses.get()
        pixels = to_rgb(image.raw_data, self.settings.size)
        return Sensed(pixels, state.get_transform().location, state.get_velocity(), impulse)

    def _image(self, frame: int) -> Any:
        """The camera's picture of a frame; earlier ones are dropped."""
        end_s = time.monotonic() + self.server.camera_timeout_s
        while True:
            try:
                image = self._images.get(timeout=max(0.0, end_s - time.monotonic()))
            except queue.Empty:
                waited = f"{self.server.camera_timeout_s:g} s"
                what = f"no picture of frame {frame} within {waited}"
                raise self._unavailable(what) from None
            if image.frame >= frame:
                return image

    def _unavailable(self, what: str) -> CarlaUnavailable:
        return CarlaUnavailable(self.server.host, self.server.port, what)


def refuse_other_version(client: Any, server: Server) -> None:
    """Compare versions: their protocols differ, and a wrong message crashes the client.

    Raises:
        WrongServer: they differ and `any_version` is off.
    """
    ours, theirs = client.get_client_version(), client.get_server_version()
    if ours != theirs and not server.any_version:
        raise WrongServer(
            f"CARLA at {server} is version {theirs}, the client library is {ours}",
            hint=f"start a server of version {ours} (docs/carla.md);\n"
            "one built from source may be of the right version under another name: "
            "envs.carla.any_version = True",
        )


def town_of(name: str) -> str:
    """Return `Town04` of `Carla/Maps/Town04`."""
    return name.rpartition("/")[2]


def to_rgb(raw: Any, size: int) -> NDArray[np.uint8]:
    """Turn a camera's BGRA bytes into RGB `[3, size, size]` of its own memory."""
    picture_HWC = np.frombuffer(raw, np.uint8).reshape(size, size, 4)
    return np.ascontiguousarray(picture_HWC[:, :, 2::-1].transpose(2, 0, 1))


def _free_port() -> int:
    """Let the system choose a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
