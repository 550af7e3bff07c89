"""The double of the CARLA server, driven by the real client library."""

import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ..carla_double import roads
from ..carla_double.launch import Double
from .carla_clients import (
    DELTA_S,
    WAIT_S,
    attach,
    camera,
    carla,
    connect,
    outcome,
    pixels,
    place,
    spawn,
    synchronous,
    velocity,
)


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    """A server without faults, for all tests that do not need one of their own."""
    with Double() as server:
        yield server


@pytest.fixture(scope="module")
def client(double: Double) -> Any:
    """A client of it."""
    return connect(double)


@pytest.fixture
def world(client: Any) -> Any:
    """A new, empty episode in synchronous mode."""
    return synchronous(client.load_world("Town04"))


# The session


def test_client_connects_and_reads_version_maps_and_road(client: Any, world: Any) -> None:
    assert client.get_server_version() == client.get_client_version()
    assert "Carla/Maps/Town04" in client.get_available_maps()
    road = world.get_map()
    assert road.name == "Carla/Maps/Town04"
    assert road.to_opendrive() == roads.highway()
    assert road.get_spawn_points()[0].location.x == pytest.approx(20.0)


def test_loading_another_map_starts_an_empty_asynchronous_episode(client: Any, world: Any) -> None:
    spawn(world, 100.0)
    other = client.load_world("DeadEnd")
    assert other.id != world.id
    assert not other.get_settings().synchronous_mode
    assert not list(other.get_actors().filter("vehicle.*"))
    assert not other.get_map().get_waypoint_xodr(45, -1, 599.0).next(5.0)
    message, _ = outcome(lambda: client.load_world("Nowhere"))
    assert "map not found" in message


def test_time_passes_at_ticks_only_in_synchronous_mode(world: Any) -> None:
    before = world.get_snapshot()
    time.sleep(4 * DELTA_S)
    assert world.get_snapshot().frame == before.frame
    assert world.tick() == before.frame + 1
    after = world.get_snapshot()
    assert after.frame == before.frame + 1
    assert after.timestamp.delta_seconds == pytest.approx(DELTA_S)
    passed = after.timestamp.elapsed_seconds - before.timestamp.elapsed_seconds
    assert passed == pytest.approx(DELTA_S)


def test_time_passes_by_itself_in_asynchronous_mode(world: Any) -> None:
    settings = world.get_settings()
    settings.synchronous_mode = False
    world.apply_settings(settings)
    first = world.wait_for_tick(WAIT_S).frame
    assert world.wait_for_tick(WAIT_S).frame > first


def test_settings_and_weather_come_back_as_they_were_set(world: Any) -> None:
    settings = world.get_settings()
    settings.no_rendering_mode, settings.max_substeps = True, 7
    world.apply_settings(settings)
    assert world.get_settings() == settings
    for weather in (carla.WeatherParameters.WetSunset, carla.WeatherParameters.HardRainNoon):
        world.set_weather(weather)
        assert world.get_weather() == weather


def test_every_tick_calls_back_with_the_state_of_every_actor(world: Any) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    number = world.on_tick(seen.put)
    car = spawn(world, 100.0)
    frame = world.tick()
    snapshot = seen.get(timeout=WAIT_S)
    while snapshot.frame < frame:
        snapshot = seen.get(timeout=WAIT_S)
    world.remove_on_tick(number)
    assert {state.id for state in snapshot} == {car.id, world.get_spectator().id}
    assert snapshot.find(car.id).get_transform().location.x == pytest.approx(100.0)


def test_unknown_call_raises_and_is_counted(double: Double, world: Any) -> None:
    message, _ = outcome(lambda: world.cast_ray(carla.Location(), carla.Location(1.0)))
    assert "cast_ray" in message
    assert double.counts()["unknown: cast_ray"] == 1


# Vehicles


def test_throttle_brake_and_steering_move_a_car(world: Any) -> None:
    car = spawn(world, 100.0)
    assert car.bounding_box.extent.x == pytest.approx(1.85)
    car.apply_control(carla.VehicleControl(throttle=1.0))
    for _ in range(40):
        world.tick()
    speed, x = velocity(car)[0], car.get_location().x
    assert 5 < speed < 10
    assert car.get_control().throttle == 1.0
    assert car.get_acceleration().x > 0
    assert car.get_speed_limit() == pytest.approx(90.0)
    world.tick()
    assert car.get_location().x - x == pytest.approx(velocity(car)[0] * DELTA_S, rel=1e-3)

    car.apply_control(carla.VehicleControl(throttle=0.3, steer=0.2))
    world.tick()
    assert car.get_transform().rotation.yaw > 0, "right is clockwise seen from above"
    assert velocity(car)[1] > 0
    assert car.get_angular_velocity().z > 0

    car.apply_control(carla.VehicleControl(brake=1.0))
    for _ in range(40):
        world.tick()
    assert velocity(car) == pytest.approx([0, 0, 0], abs=1e-6)


def test_teleporting_keeps_the_velocity_that_is_set(world: Any) -> None:
    car = spawn(world, 100.0)
    car.set_target_velocity(carla.Vector3D(8.0, 0.0, 0.0))
    car.set_transform(place(200.0, 3))
    world.tick()
    assert car.get_location().x == pytest.approx(200 + 8 * DELTA_S, abs=0.01)
    assert car.get_location().y == pytest.approx(2.5 * roads.LANE_WIDTH_M)
    car.set_target_velocity(carla.Vector3D())
    world.tick()
    assert velocity(car) == pytest.approx([0, 0, 0])


def test_car_put_a_little_above_the_road_settles_gently(world: Any) -> None:
    raised = place(100.0, 2)
    raised.location.z = 0.1
    car = world.spawn_actor(world.get_blueprint_library().find("vehicle.audi.a2"), raised)
    for _ in range(20):
        world.tick()
        assert abs(velocity(car)[2]) < 1
    assert car.get_location().z == pytest.approx(0, abs=0.001)


def test_no_two_cars_are_spawned_into_each_other(world: Any) -> None:
    spawn(world, 100.0)
    audi = world.get_blueprint_library().find("vehicle.audi.a2")
    assert world.try_spawn_actor(audi, place(102.0, 2)) is None
    message, _ = outcome(lambda: world.spawn_actor(audi, place(102.0, 2)))
    assert "collision at spawn position" in message
    assert world.try_spawn_actor(audi, place(102.0, 3)) is not None


def test_destroyed_car_is_gone_but_its_sensors_stay(world: Any) -> None:
    car = spawn(world, 100.0)
    sensor, _ = camera(world, car)
    assert car.destroy()
    world.tick()
    numbers = {actor.id for actor in world.get_actors()}
    assert car.id not in numbers
    assert sensor.id in numbers
    sensor.stop()
    assert sensor.destroy()
    world.tick()
    assert [actor.type_id for actor in world.get_actors()] == ["spectator"]


def test_commands_of_a_batch_succeed_and_fail_one_by_one(client: Any, world: Any) -> None:
    command, audi = carla.command, world.get_blueprint_library().find("vehicle.audi.a2")
    chained = command.SpawnActor(audi, place(100.0, 1)).then(
        command.ApplyTargetVelocity(command.FutureActor, carla.Vector3D(5.0, 0.0, 0.0))
    )
    answers = client.apply_batch_sync(
        [
            chained,
            command.SpawnActor(audi, place(101.0, 1)),
            command.SpawnActor(audi, place(100.0, 3)),
            command.DestroyActor(9999),
        ],
        True,
    )
    assert [bool(answer.error) for answer in answers] == [False, True, False, True]
    first, second = (world.get_actor(answers[i].actor_id) for i in (0, 2))
    assert velocity(first)[0] == pytest.approx(5.0, abs=0.1)
    orders = [
        command.ApplyTransform(second.id, place(300.0, 3)),
        command.ApplyVehicleControl(second.id, carla.VehicleControl(throttle=1.0)),
        command.ApplyImpulse(first.id, carla.Vector3D(-1200.0, 0.0, 0.0)),
        command.SetSimulatePhysics(first.id, False),
    ]
    assert not any(answer.error for answer in client.apply_batch_sync(orders, True))
    assert second.get_location().x > 300
    assert velocity(first)[0] == pytest.approx(4.0, abs=0.1)
    assert not any(a.error for a in client.apply_batch_sync([command.DestroyActor(first.id)], True))
    assert [car.id for car in world.get_actors().filter("vehicle.*")] == [second.id]


# Sensors


def test_every_tick_brings_the_image_of_its_own_frame(world: Any) -> None:
    car = spawn(world, 100.0)
    sensor, images = camera(world, car)
    car.apply_control(carla.VehicleControl(throttle=1.0))
    for _ in range(20):
        frame = world.tick()
        image = images.get(timeout=WAIT_S)
        assert image.frame == frame
        assert image.transform.location.x == pytest.approx(car.get_location().x + 1.6, abs=1e-3)
        assert image.transform.location.z == pytest.approx(1.7)
    assert (image.width, image.height, image.fov) == (64, 64, pytest.approx(60.0))
    assert images.empty()
    sensor.stop()


def test_picture_is_blue_green_red_with_the_sky_above_the_road(world: Any) -> None:
    car = spawn(world, 100.0)
    sensor, images = camera(world, car)
    world.tick()
    picture = pixels(images.get(timeout=WAIT_S)).astype(int)
    sensor.stop()
    sky, road = picture[5, 32], picture[60, 32]
    assert sky[0] > sky[2] + 50, "the sky is blue, and blue comes first"
    assert np.ptp(road[:3]) < 15, "the road is grey"
    assert (picture[..., 3] == 255).all()


def test_pictures_depend_on_the_state_and_nothing_else(world: Any) -> None:
    car = spawn(world, 100.0)
    sensor, images = camera(world, car)

    def shot(s: float, weather: Any) -> NDArray[np.uint8]:
        car.set_transform(place(s, 2))
        world.set_weather(weather)
        frame = world.tick()
        image = images.get(timeout=WAIT_S)
        assert image.frame == frame
        return pixels(image)

    noon, rain = carla.WeatherParameters.ClearNoon, carla.WeatherParameters.HardRainNoon
    first = shot(100.0, noon)
    assert not np.array_equal(first, shot(106.0, noon)), "lines pass by"
    assert not np.array_equal(first, shot(100.0, rain))
    assert np.array_equal(first, shot(100.0, noon))
    assert np.array_equal(shot(100.0, rain), shot(100.0, rain))
    other = spawn(world, 112.0, kind="vehicle.tesla.model3")
    with_car = shot(100.0, noon).astype(int)
    changed = np.abs(with_car - first).max(-1) > 60
    assert 0.01 < changed.mean() < 0.3
    assert changed[:, 24:40].sum() == changed.sum(), "it is straight ahead"
    other.destroy()
    sensor.stop()


def test_collision_names_both_cars_and_the_impulse_between_them(world: Any) -> None:
    car, other = spawn(world, 100.0), spawn(world, 106.0, kind="vehicle.tesla.model3")
    sensors = [attach(world, each, "sensor.other.collision") for each in (car, other)]
    world.tick()
    assert all(events.empty() for _, events in sensors)
    car.set_target_velocity(carla.Vector3D(10.0, 0.0, 0.0))
    frames = [world.tick() for _ in range(4)]
    of_car, of_other = (events.get(timeout=WAIT_S) for _, events in sensors)
    assert of_car.frame == of_other.frame
    assert of_car.frame in frames
    assert (of_car.actor.id, of_car.other_actor.id) == (car.id, other.id)
    assert (of_other.actor.id, of_other.other_actor.id) == (other.id, car.id)
    # A perfectly plastic impact at nearly 10 m/s: reduced mass of 1200 kg and 1850 kg.
    assert of_car.normal_impulse.x == pytest.approx(-7279 * 0.98, rel=0.03)
    assert of_other.normal_impulse.x == pytest.approx(-of_car.normal_impulse.x)
    assert velocity(other)[0] > 3
    for sensor, _ in sensors:
        sensor.stop()
