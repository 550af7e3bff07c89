"""The rules of the highway task without a server: roads, reward, endings, weather, controls."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from wmplatform.envs import UnknownTask
from wmplugins.carla import Carla, ServerTaken, WrongServer
from wmplugins.carla.claims import Claim
from wmplugins.carla.controls import Controls
from wmplugins.carla.endings import Ending, EndingRule, Motion
from wmplugins.carla.reward import OFF_ROAD_M, RewardRule
from wmplugins.carla.route import HIGHWAY, Guidance, Route, RoutePlan, SideLane, Stretch
from wmplugins.carla.settings import Server, Settings
from wmplugins.carla.weather import DYNAMIC, PRESETS, ChangingWeather, Sky, WeatherRule

from ..carla_double import roads

carla = pytest.importorskip("carla")

DELTA_S = 0.05
ROLLING = Motion(speed=10.0, climb=0.0, height_m=0.0)
AHEAD = Guidance(road=45, offset_m=0.0, direction=(1.0, 0.0))


@pytest.fixture(scope="module")
def highway() -> Any:
    return carla.Map("Town04", roads.highway())


@pytest.fixture(scope="module")
def dead_end() -> Any:
    return carla.Map("DeadEnd", roads.dead_end())


@pytest.fixture(scope="module")
def route(highway: Any) -> Route:
    return Route(highway, RoutePlan())


def at(x: float, y: float) -> Any:
    return carla.Location(x=x, y=y, z=0.0)


def vector(x: float, y: float) -> Any:
    return carla.Vector3D(x, y, 0.0)


# Reward -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("along", "offset_m", "impulse", "steer", "expected"),
    [
        (20.0, 0.0, 0.0, 0.0, 1.0),
        (20.0, 1.75, 0.0, 0.0, 1.0),
        (20.0, 2.75, 0.0, 0.0, 1.0 / 2.5),
        (-10.0, 0.0, 0.0, 0.0, -0.5),
        (0.0, 0.0, 500.0, 0.0, -0.5),
        (0.0, 0.0, 1e6, 0.0, -10.0),
        (20.0, 0.0, 0.0, -0.25, 0.75),
        (20.0, 2.75, 1000.0, 0.1, 0.4 - 1.0 - 0.1),
    ],
)
def test_reward_is_the_published_one(
    along: float, offset_m: float, impulse: float, steer: float, expected: float
) -> None:
    assert RewardRule()(along, offset_m, impulse, steer, DELTA_S) == pytest.approx(expected)


def test_reward_of_the_bisimulation_paper_is_a_setting() -> None:
    rule = RewardRule(centring=0.0, impulse_weight=1e-4, impulse_limit=1e9)
    assert rule(20.0, 30.0, 2e5, 0.5, DELTA_S) == pytest.approx(1.0 - 20.0 - 0.5)


def test_scale_makes_a_mean_of_repeats() -> None:
    whole, part = RewardRule(), RewardRule(scale=0.25)
    assert part(20.0, 3.0, 100.0, 0.2, DELTA_S) * 4 == whole(20.0, 3.0, 100.0, 0.2, DELTA_S)


# Controls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "controls"),
    [
        ((0.0, 0.0), Controls(0.0, 0.0, 0.0)),
        ((-0.5, 0.75), Controls(-0.5, 0.75, 0.0)),
        ((0.5, -0.75), Controls(0.5, 0.0, 0.75)),
        ((3.0, -3.0), Controls(1.0, 0.0, 1.0)),
    ],
)
def test_the_second_action_is_throttle_or_brake(
    action: tuple[float, float], controls: Controls
) -> None:
    assert Controls.of(action) == controls


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=2))
def test_controls_are_what_the_simulator_takes(action: list[float]) -> None:
    controls = Controls.of(action)
    assert -1 <= controls.steer <= 1
    assert controls.throttle == 0 or controls.brake == 0
    control = carla.VehicleControl(
        steer=controls.steer, throttle=controls.throttle, brake=controls.brake
    )
    assert (control.throttle, control.brake) == pytest.approx((controls.throttle, controls.brake))
    assert not control.reverse
    assert not control.hand_brake


# Route ------------------------------------------------------------------------------------------


def test_a_car_in_its_lane_is_guided_along_it(route: Route) -> None:
    guidance = route.guide(at(100.0, 1.75))
    assert guidance.road == 45
    assert guidance.offset_m == pytest.approx(0.0, abs=1e-3)
    assert guidance.direction == pytest.approx((1.0, 0.0), abs=1e-6)
    assert guidance.speed_along(vector(3.0, 4.0)) == pytest.approx(3.0)
    assert guidance.speed_along(vector(-3.0, 4.0)) == pytest.approx(-3.0)


@pytest.mark.parametrize(("across_m", "offset_m"), [(2.75, 1.0), (12.25, 0.0), (16.0, 3.75)])
def test_offset_is_to_the_nearest_driving_lane(
    across_m: float, offset_m: float, route: Route
) -> None:
    """Four lanes of 3.5 m: the last centre is at 12.25 m, the shoulder begins at 14 m."""
    assert route.guide(at(100.0, across_m)).offset_m == pytest.approx(offset_m, abs=1e-3)


@pytest.mark.parametrize("lane", [1, 2, 3, 4])
def test_directions_agree_with_the_curve_all_round(lane: int, route: Route) -> None:
    for s in np.linspace(5.0, 1110.0, 60):
        x, y, yaw_deg = roads.lane_pose(float(s), lane)
        guidance = route.guide(at(x, y))
        yaw = math.radians(yaw_deg)
        assert guidance.direction is not None
        along = guidance.speed_along(vector(math.cos(yaw), math.sin(yaw)))
        assert along == pytest.approx(1.0, abs=1e-3)
        # The library finds places on curves to about 0.4 m; the fourth lane of 103 is a side lane.
        assert guidance.offset_m < 0.5 or guidance.road == 103


def test_the_exit_lane_counts_as_the_side_of_its_neighbour(route: Route) -> None:
    x, y, _ = roads.lane_pose(625.0, 4)
    assert route.guide(at(x, y)).road == 103
    assert route.guide(at(x, y)).offset_m == pytest.approx(3.5, abs=0.02)


def test_all_lanes_of_an_exit_road_are_a_side(highway: Any) -> None:
    plan = RoutePlan(side_lanes=(SideLane(46, None, 103, -3),))
    far = roads.lane_pose(650.0 + 20.0, 2)  # 20 m into road 46, which 103 has a lane beside
    lost = roads.lane_pose(650.0 + 100.0, 2)  # 103 is only 50 m long
    route = Route(highway, plan)
    assert route.guide(at(*far[:2])).on_road
    assert route.guide(at(*far[:2])).offset_m > 10.0
    nowhere = route.guide(at(*lost[:2]))
    assert not nowhere.on_road
    assert (nowhere.offset_m, nowhere.speed_along(vector(9.0, 9.0))) == (OFF_ROAD_M, 0.0)


def test_there_is_no_direction_where_the_road_ends(dead_end: Any) -> None:
    route = Route(dead_end, RoutePlan(stretches=(), side_lanes=()))
    assert route.guide(at(500.0, 1.75)).direction is not None
    x, y, _ = roads.lane_pose(599.97, 1)
    end = route.guide(at(x, y))
    assert end.on_road
    assert end.direction is None
    assert end.speed_along(vector(9.0, 9.0)) == 0.0


def test_starts_are_the_four_lanes_above_the_road(route: Route) -> None:
    random = np.random.default_rng(0)
    places = [route.start(random) for _ in range(40)]
    assert {round(place.location.y, 2) for place in places} == {1.75, 5.25, 8.75, 12.25}
    assert {round(place.location.x, 2) for place in places} == {100.0}
    assert {round(place.location.z, 3) for place in places} == {0.1}


def test_other_cars_lie_along_the_published_stretches(route: Route) -> None:
    places = route.places(np.random.default_rng(1), 400)
    x_N, y_N = (np.array([getattr(p.location, axis) for p in places]) for axis in "xy")
    along_N, across_N = roads.along_and_across(x_N, y_N)
    lanes, counts = np.unique(np.round((across_N - 1.75) / 3.5), return_counts=True)
    assert lanes.tolist() == [0, 1, 2, 3]
    assert counts.min() > 70
    assert along_N.min() > 199.0
    assert along_N.max() < 1117.0
    on_45 = (along_N < 600).mean()
    assert on_45 == pytest.approx(383 / sum(each.length_m for each in HIGHWAY), abs=0.08)


def test_other_cars_look_where_traffic_goes(route: Route) -> None:
    for place in route.places(np.random.default_rng(2), 50):
        guidance = route.guide(place.location)
        assert guidance.speed_along(place.get_forward_vector()) == pytest.approx(1.0, abs=1e-2)


def test_without_stretches_other_cars_follow_the_start(dead_end: Any) -> None:
    route = Route(dead_end, RoutePlan(stretches=(), side_lanes=(), clear_m=50, length_m=2000))
    along = [place.location.x for place in route.places(np.random.default_rng(3), 100)]
    assert min(along) >= 149.0  # 50 m ahead of the start at 100 m
    assert max(along) <= 600.0  # and no further than the road


def test_a_map_without_the_published_roads_is_refused(dead_end: Any) -> None:
    with pytest.raises(WrongServer, match="no lane -1 of road 103") as caught:
        Route(dead_end, RoutePlan())
    assert "envs.carla.opendrive" in caught.value.hint
    with pytest.raises(WrongServer, match=r"lane -1 of road 45 at 999\.0 m"):
        Route(dead_end, RoutePlan(stretches=(), start_s=999.0))
    with pytest.raises(WrongServer, match="lane -9 of road 45"):
        Route(dead_end, RoutePlan(stretches=(Stretch(45, 0, 9, (-9,)),)))


# Endings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_frames", "guidance", "motion", "ending"),
    [
        (5, AHEAD, ROLLING, None),
        (5, Guidance(-1, OFF_ROAD_M, None), ROLLING, Ending.OFF_ROAD),
        (5, Guidance(22, 0.0, (1.0, 0.0)), ROLLING, Ending.LEFT_ROUTE),
        (5, Guidance(45, 0.0, None), ROLLING, Ending.NO_ROAD_LEFT),
        (19, AHEAD, Motion(9.0, 1.1, 0.0), Ending.GLITCH),
        (19, AHEAD, Motion(9.0, 0.0, 0.6), Ending.GLITCH),
        (20, AHEAD, Motion(9.0, 1.1, 0.6), None),
        (100, AHEAD, Motion(0.01, 0.0, 0.0), Ending.STUCK),
        (100, AHEAD, Motion(0.03, 0.0, 0.0), None),
        (101, AHEAD, Motion(0.0, 0.0, 0.0), None),
        (300, AHEAD, Motion(0.0, 0.0, 0.0), Ending.STUCK),
    ],
)
def test_each_ending_has_its_cause(
    env_frames: int, guidance: Guidance, motion: Motion, ending: Ending | None
) -> None:
    assert EndingRule()(env_frames, guidance, motion) is ending


def test_only_the_glitch_is_not_the_drivers_end() -> None:
    assert [ending for ending in Ending if not ending.terminal] == [Ending.GLITCH]


def test_leaving_the_lane_far_behind_ends_only_where_asked() -> None:
    far = Guidance(45, 30.0, (1.0, 0.0))
    assert EndingRule()(5, far, ROLLING) is None
    assert EndingRule(off_road_m=10.0)(5, far, ROLLING) is Ending.OFF_ROAD


# Weather ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), speed=st.sampled_from([0.1, 1.0, 20.0]))
def test_the_sky_stays_within_what_the_simulator_takes(seed: int, speed: float) -> None:
    weather = ChangingWeather(WeatherRule(speed), np.random.default_rng(seed))
    for _ in range(300):
        sky = weather.step()
        assert 0 <= sky.sun_azimuth_angle < 360
        assert 0 <= sky.sun_altitude_angle <= 45
        assert 0 <= sky.cloudiness <= 60
        assert 0 <= sky.precipitation <= 80
        assert 0 <= sky.precipitation_deposits <= 85
        assert 0 <= sky.wetness <= 100
        assert sky.wind_intensity == (5.0 if sky.cloudiness <= 20 else 40.0)


def test_a_step_of_the_sky_is_the_published_one() -> None:
    weather = ChangingWeather(WeatherRule(), np.random.default_rng(0))
    weather._azimuth, weather._phase, weather._storm = 359.99, math.pi / 2, 30.0
    sky = weather.step()
    assert sky.sun_azimuth_angle == pytest.approx(0.015)
    assert sky.sun_altitude_angle == pytest.approx(22.5 + 22.5 * math.cos(math.pi / 2 + 0.0008))
    assert sky.precipitation == pytest.approx(30.13)
    assert sky.precipitation_deposits == pytest.approx(20.13)
    assert (sky.cloudiness, sky.wetness) == (60.0, 100.0)


def test_a_storm_turns_at_its_worst_and_leaves_puddles() -> None:
    weather = ChangingWeather(WeatherRule(speed=1.0), np.random.default_rng(0))
    weather._storm = 99.0
    rising, falling = weather.step(), weather.step()
    assert rising.precipitation == 80.0
    assert weather._storm == pytest.approx(98.7)
    assert falling.precipitation_deposits == 85.0
    for _ in range(100):
        sky = weather.step()
    assert weather._storm == pytest.approx(98.7 - 130.0)
    assert sky.precipitation == 0.0
    assert sky.precipitation_deposits == pytest.approx(98.7 - 130.0 + 90.0)


def test_dry_draws_begin_fair_and_draws_differ() -> None:
    draws = [ChangingWeather(WeatherRule(), np.random.default_rng(seed)) for seed in range(60)]
    storms = [weather._storm for weather in draws]
    assert min(storms) == -50.0
    assert any(storm > 0 for storm in storms)
    assert len({weather.sky.sun_azimuth_angle for weather in draws}) == 60


def test_names_of_weather_and_sky_are_the_libraries_own() -> None:
    theirs = {name for name in dir(carla.WeatherParameters) if name[0].isupper()}
    assert set(PRESETS) == theirs
    assert set(Sky.__dataclass_fields__) <= set(dir(carla.WeatherParameters))


# Settings ---------------------------------------------------------------------------------------


def test_settings_survive_the_way_to_the_client_process() -> None:
    adapter = Carla(weather=DYNAMIC, sun_altitude=(20.0, 90.0), start_lanes=(-2,), off_road_m=7.0)
    kind = TypeAdapter(Settings)
    assert kind.validate_json(kind.dump_json(adapter.settings)) == adapter.settings


def test_traffic_managers_take_free_ports_unless_named() -> None:
    servers = Carla(host="gpu7", ports=(2000, 2010)).servers
    assert [(s.port, s.traffic_manager_port) for s in servers] == [(2000, None), (2010, None)]
    assert str(servers[1]) == "gpu7:2010"
    with pytest.raises(ValueError, match="2 ports and 1 traffic_manager_ports"):
        Carla(ports=(2000, 2010), traffic_manager_ports=(8000,))


def test_unknown_weather_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownTask, match="no weather 'ClearMoon'") as caught:
        Carla(weather="ClearMoon")
    assert "ClearNoon" in caught.value.hint


def test_an_environment_has_a_server_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    servers = Server(port=2000), Server(port=2010)
    first, second = Claim(servers), Claim(servers)
    assert (first.server.port, second.server.port) == (2000, 2010)
    with pytest.raises(ServerTaken, match="localhost:2000, localhost:2010 already") as caught:
        Claim(servers)
    assert "Online.eval_env" in caught.value.hint
    first.release()
    first.release()
    third = Claim(servers)
    assert third.server.port == 2000
    second.release()
    third.release()


def test_describing_needs_no_server() -> None:
    spec = Carla(size=48, action_repeat=4, time_limit=250).spec()
    assert spec.observations["pixels"].shape == (3, 48, 48)
    assert (spec.action.size, spec.action_repeat, spec.time_limit) == (2, 4, 250)
    assert not spec.deterministic


def test_pictures_turn_from_bgra_to_rgb() -> None:
    from wmplugins.carla.session import to_rgb

    raw = np.zeros((2, 2, 4), np.uint8)
    raw[0, 1] = (10, 20, 30, 255)  # blue, green, red, alpha
    image = SimpleNamespace(raw_data=raw.tobytes())
    pixels = to_rgb(image.raw_data, 2)
    assert pixels.shape == (3, 2, 2)
    assert pixels[:, 0, 1].tolist() == [30, 20, 10]
    assert pixels[:, 1, 1].tolist() == [0, 0, 0]
    assert pixels.flags.c_contiguous
