"""The double's road and its faults, and the client's traffic manager on it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ..carla_double import roads
from ..carla_double.launch import PACKAGE, Double
from .carla_clients import WAIT_S, camera, carla, connect, outcome, place, synchronous

# The road


def test_road_of_the_double_is_the_one_the_client_reads() -> None:
    road = carla.Map("Town04", roads.highway())
    for lane in range(1, roads.LANES + 1):
        waypoint, numbers = road.get_waypoint_xodr(45, -lane, 0.5), []
        for metre in range(0, int(roads.LAP_M), 4):
            at, turned = waypoint.transform.location, waypoint.transform.rotation
            along, across = roads.along_and_across(np.array([at.x]), np.array([at.y]))
            assert across[0] == pytest.approx((lane - 0.5) * roads.LANE_WIDTH_M, abs=1e-3)
            x, y, yaw = roads.lane_pose(along[0], lane)
            assert (x, y) == pytest.approx((at.x, at.y), abs=1e-3), metre
            assert np.cos(np.deg2rad(yaw - turned.yaw)) == pytest.approx(1, abs=1e-6)
            if [waypoint.road_id, abs(waypoint.lane_id)] not in numbers:
                numbers.append([waypoint.road_id, abs(waypoint.lane_id)])
            (waypoint,) = waypoint.next(4.0)
        assert numbers == [[n, lane] for n in (45, 103, 46, 659, 47, 558, 48, 22)]


def test_dead_end_ends() -> None:
    road = carla.Map("DeadEnd", roads.dead_end())
    assert road.get_waypoint_xodr(45, -1, 590.0).next(5.0)
    assert not road.get_waypoint_xodr(45, -1, 599.0).next(5.0)


# Traffic: in a process of its own, since a traffic manager can only end with its process


def test_traffic_manager_of_the_client_keeps_cars_in_their_lanes() -> None:
    with Double() as free:
        port = free.port
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("carla_traffic.py"), str(port)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.stdout.strip(), done.stderr
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["kmh"] == pytest.approx([63.0] * 4, rel=0.1), "30 % below the limit of 90 km/h"
    assert max(seen["off"]) < 1.0
    assert set(seen["roads"]) <= {103, 46}
    assert not seen["unknown"]


# Faults


def test_double_dies_at_its_tick_and_comes_back_on_the_same_port() -> None:
    with Double(die_at=3, next_lives=[{}]) as double:
        port, client = double.port, connect(double, timeout_s=1.0)
        world = synchronous(client.get_world())
        world.tick()
        message, took_s = outcome(world.tick)
        assert "time-out of 1000ms" in message
        assert 0.9 < took_s < 3
        time.sleep(1.0)
        assert double.port == port
        assert "time-out" in outcome(client.get_server_version)[0], "the old client stays lost"
        again = synchronous(connect(double).get_world())
        assert again.tick() > 0
        assert double.counts()["ticks"] == 2, "a new process counts anew"


def test_killed_double_reports_how_it_ended() -> None:
    with Double(die_at=1) as double:
        world = connect(double, timeout_s=1.0).get_world()
        assert "time-out" in outcome(world.tick)[0]
        assert double.wait() == -9


def test_hanging_double_answers_nothing_and_still_ends() -> None:
    with Double(hang_at=2) as double:
        world = synchronous(connect(double, timeout_s=1.0).get_world())
        assert "time-out" in outcome(world.tick)[0]
        assert "time-out" in outcome(world.get_settings)[0]
        process = double.process
        assert process is not None
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=WAIT_S) == 0, "it ends with whoever started it"


def test_late_double_refuses_connections_first() -> None:
    with Double(listen_after_s=0.8) as double:
        early = connect(double, timeout_s=0.2)
        assert "time-out" in outcome(early.get_server_version)[0]
        time.sleep(1.0)
        assert connect(double).get_server_version() == "0.9.16"


def test_wrong_version_is_told_but_not_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with Double(version="0.9.11") as double:
        client = connect(double)
        assert client.get_server_version() == "0.9.11"
        assert client.get_world().get_map().name.endswith("Town04")
    output = "".join(capfd.readouterr())
    assert "Version mismatch" in output


def test_faults_come_at_the_ticks_that_a_test_names() -> None:
    with Double(refuse_spawns=1) as double:
        world = synchronous(connect(double, timeout_s=1.0).get_world())
        audi = world.get_blueprint_library().find("vehicle.audi.a2")
        assert world.try_spawn_actor(audi, place(100.0, 2)) is None
        car = world.spawn_actor(audi, place(100.0, 2))
        sensor, images = camera(world, car)
        now = double.counts()["ticks"]
        double.change(lose_image_at=now + 2, launch_at=now + 3, die_at=now + 5)
        frames = [world.tick() for _ in range(4)]
        got = [images.get(timeout=WAIT_S).frame for _ in range(3)]
        assert got == [frames[0], frames[2], frames[3]]
        assert car.get_location().z > 0.3
        sensor.stop()
        assert "time-out" in outcome(world.tick)[0]
        assert double.wait() == -9
