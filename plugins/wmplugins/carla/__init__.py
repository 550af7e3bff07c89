"""The highway task of CARLA 0.9.16 (Dosovitskiy et al. 2017) from pixels, through its own client.

Importing this package imports neither the client library nor anything heavy; the library itself
only ever runs in a process of its own (`wmplugins.carla.worker`).
"""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from wmplatform.envs import PlatformEnv
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, Diagnosis, EnvAdapter, EnvSpec
from wmplugins.carla.endings import EndingRule
from wmplugins.carla.errors import CarlaUnavailable, ServerLost, ServerTaken, WrongServer
from wmplugins.carla.reward import RewardRule
from wmplugins.carla.route import HIGHWAY, RoutePlan
from wmplugins.carla.settings import SIGNALS, Server, Settings
from wmplugins.carla.weather import WeatherRule, weather_name

__all__ = ["Carla", "CarlaUnavailable", "ServerLost", "ServerTaken", "WrongServer"]


class Carla(EnvAdapter):
    """Drive along the highway of Town04: 2 actions, 20 frames a second, a camera behind the screen.

    The setting of ContextWM (Wu et al. 2023), with the reward of Zhang et al. (2021) and a term
    that keeps the car in its lane. Actions are steering, and throttle (positive) or brake
    (negative). An episode ends off the road, off the route, where the road ends, or stuck; its time
    limit is a truncation. Servers are not deterministic.

    Each environment drives a server of its own, the first one of `ports` that no other environment
    of this machine drives. A server that is lost ends the running episode as truncated; then the
    next reset waits for it and starts a fresh world there.

    Signals: `distance` in metres along the lane, `impulse` of collisions in N s, `off_centre`, the
    mean distance to the lane's centre in metres, and `invalid`, 1 where the simulator or the
    connection, not the driver, ended the episode.

    Args:
        host: machine of the servers.
        ports: of the servers' calls; each also uses the next one for its streams.
        traffic_manager_ports: on this machine, one for each of `ports`; free ones if empty.
        weather: a preset such as `ClearNoon` or `WetSunset`, or `dynamic`.
        weather_speed: of the dynamic weather's changes.
        sun_altitude: lowest and highest of the dynamic weather, in degrees.
        size: side of the picture in pixels.
        fov: horizontal field of view of the camera in degrees.
        camera_x: metres ahead of the car's centre.
        camera_z: metres above it.
        vehicle: blueprint of the car.
        traffic: other cars; fewer where two would stand in each other.
        traffic_slower_percent: how far below the speed limit they drive.
        traffic_gap_m: distance that they keep.
        town: map to load.
        opendrive: file with the roads to follow, in place of the server's own.
        route: `highway` places traffic on the published roads of Town04, which must exist; `ahead`
            on whatever follows the start, between 100 m and 1000 m.
        start_road: where episodes begin.
        start_lanes: of which one is drawn.
        start_s: metres along the road.
        exit_roads: roads that end the episode.
        off_road_m: distance to the lane's centre that ends the episode; None only ends it where no
            lane can be found.
        reward_centring: how much leaving the lane slows the reward down, per metre.
        reward_free_offset_m: distance to the lane's centre that costs nothing.
        reward_impulse_weight: cost of collisions per N s.
        reward_impulse_limit: most that the collisions of one frame cost.
        reward_steer_weight: cost of steering.
        reward_scale: of all; Iso-Dream (Pan et al. 2022) takes the mean of four repeats: 0.25.
        delta_s: simulated seconds of a frame.
        action_repeat: frames for each agent step.
        time_limit: agent steps of an episode.
        startup_timeout_s: of each call while a world is loaded and set up.
        tick_timeout_s: of each call within an episode.
        camera_timeout_s: how much later than its frame a picture may come.
        patience_s: how long a server may be away before the run stops.
        any_version: talk to servers that report another version than the client library's.
    """

    def __init__(
        self,
        *,
        host: str = "localhost",
        ports: tuple[int, ...] = (2000,),
        traffic_manager_ports: tuple[int, ...] = (),
        weather: str = "ClearNoon",
        weather_speed: Annotated[float, Ge(0)] = 0.1,
        sun_altitude: tuple[float, float] = (0.0, 45.0),
        size: Annotated[int, Ge(1)] = 64,
        fov: Annotated[float, Gt(0), Le(170)] = 60.0,
        camera_x: float = 1.6,
        camera_z: float = 1.7,
        vehicle: str = "vehicle.audi.a2",
        traffic: Annotated[int, Ge(0)] = 20,
        traffic_slower_percent: Annotated[float, Le(100)] = 30.0,
        traffic_gap_m: Annotated[float, Ge(0)] = 2.0,
        town: str = "Town04",
        opendrive: str | None = None,
        route: Literal["highway", "ahead"] = "highway",
        start_road: int = 45,
        start_lanes: tuple[int, ...] = (-1, -2, -3, -4),
        start_s: Annotated[float, Ge(0)] = 100.0,
        exit_roads: tuple[int, ...] = (22, 34, 7, 15),
        off_road_m: Annotated[float, Gt(0)] | None = None,
        reward_centring: Annotated[float, Ge(0)] = 1.5,
        reward_free_offset_m: Annotated[float, Ge(0)] = 1.75,
        reward_impulse_weight: Annotated[float, Ge(0)] = 1e-3,
        reward_impulse_limit: Annotated[float, Ge(0)] = 10.0,
        reward_steer_weight: Annotated[float, Ge(0)] = 1.0,
        reward_scale: Annotated[float, Gt(0)] = 1.0,
        delta_s: Annotated[float, Gt(0), Le(0.1)] = 0.05,
        action_repeat: Annotated[int, Ge(1)] = 1,
        time_limit: Annotated[int, Ge(1)] = 1000,
        startup_timeout_s: Annotated[float, Gt(0)] = 60.0,
        tick_timeout_s: Annotated[float, Gt(0)] = 30.0,
        camera_timeout_s: Annotated[float, Gt(0)] = 2.0,
        patience_s: Annotated[float, Ge(0)] = 240.0,
        any_version: bool = False,
    ) -> None:
        managers = traffic_manager_ports or (None,) * len(ports)
        if not ports or len(managers) != len(ports):
            raise ValueError(
                f"{len(ports)} ports and {len(managers)} traffic_manager_ports; name one for each"
            )
        self.servers = tuple(
            Server(
                host=host,
                port=port,
                traffic_manager_port=manager,
                startup_timeout_s=startup_timeout_s,
                tick_timeout_s=tick_timeout_s,
                camera_timeout_s=camera_timeout_s,
                any_version=any_version,
            )
            for port, manager in zip(ports, managers, strict=True)
        )
        self.settings = Settings(
            town=town,
            opendrive=opendrive,
            weather=weather_name(weather),
            changing=WeatherRule(weather_speed, sun_altitude),
            delta_s=delta_s,
            size=size,
            fov=fov,
            camera_x=camera_x,
            camera_z=camera_z,
            vehicle=vehicle,
            traffic=traffic,
            traffic_gap_m=traffic_gap_m,
            traffic_slower_percent=traffic_slower_percent,
            route=RoutePlan(
                start_road=start_road,
                start_lanes=start_lanes,
                start_s=start_s,
                stretches=HIGHWAY if route == "highway" else (),
            ),
            reward=RewardRule(
                centring=reward_centring,
                free_offset_m=reward_free_offset_m,
                impulse_weight=reward_impulse_weight,
                impulse_limit=reward_impulse_limit,
                steer_weight=reward_steer_weight,
                scale=reward_scale,
            ),
            ending=EndingRule(exit_roads=exit_roads, off_road_m=off_road_m),
        )
        self.patience_s = patience_s
        self.action_repeat, self.time_limit = action_repeat, time_limit

    @property
    def name(self) -> str:
        """Name with the weather, e.g. `carla/ClearNoon`."""
        return f"carla/{self.settings.weather}"

    def spec(self) -> EnvSpec:
        """Describe the environment; known without a server."""
        side = self.settings.size
        return EnvSpec(
            observations={"pixels": ArraySpec((3, side, side), "uint8")},
            action=ActionSpec(2),
            action_repeat=self.action_repeat,
            time_limit=self.time_limit,
            signals=SIGNALS,
            deterministic=False,
        )

    def make(self, seed: int) -> PlatformEnv:
        """Claim a server; the first reset connects to it.

        Raises:
            ServerTaken: all of them are driven by other environments.
        """
        from wmplugins.carla.claims import Claim
        from wmplugins.carla.simulator import CarlaSimulator

        simulator = CarlaSimulator(Claim(self.servers), self.settings, patience_s=self.patience_s)
        return PlatformEnv(simulator, self.spec(), name=self.name, seed=seed)

    def diagnose(self) -> list[Diagnosis]:
        """Look at the client library; a server is looked at where its address is given."""
        from wmplugins.carla.doctor import diagnose_client

        return [diagnose_client()]

    @classmethod
    def diagnose_server(cls, address: str) -> list[Diagnosis]:
        """Look at the server at `HOST:PORT`; nothing is changed there."""
        from wmplugins.carla.doctor import diagnose_address

        return diagnose_address(address)
