"""The highway task when servers and clients fail, against a stand-in for the server."""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wmplatform.collect import Collection
from wmplatform.errors import ExitCode
from wmplugins.carla import Carla, CarlaUnavailable, ServerLost, WrongServer

from ..carla_double.launch import Double
from .carla_driving import AHEAD, SHORT_TICK_S, Driver, highway, play

pytest.importorskip("carla")


@pytest.fixture(scope="module")
def spare() -> Iterator[Double]:
    """A server for environments that come and go."""
    with Double() as running:
        yield running


def test_twenty_episodes_outlive_a_server_that_is_killed() -> None:
    """Of six steps each; half-way through the tenth one the server is killed, and comes back."""
    with Double(next_lives=[{}], back_after_s=2.0) as double:
        adapter = highway(double, traffic=2, tick_timeout_s=3 * SHORT_TICK_S)
        collection = Collection(adapter, Driver(), 7, agent_steps_per_collect=3)
        batches = []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ServerLost)
            while sum(int(batch["is_last"].sum()) for batch in batches) < 20:
                batches.append(collection.collect().records)
                if len(batches) == 19:
                    double.kill()
        collection.close()
        assert double.counts()["actors"] == 1
    records = torch.cat(batches)
    ends = records["is_last"].nonzero().flatten()
    lengths = torch.diff(ends, prepend=torch.tensor([-1])) - 1
    invalid = records["invalid"].flatten()[ends]
    assert invalid.nonzero().flatten().tolist() == [9]
    assert lengths.tolist() == [6] * 9 + [4] + [6] * 10
    assert not records["is_terminal"].any()
    assert bool(torch.isfinite(records["reward"]).all())
    first = str(said[0].message)
    assert first.startswith(f"CARLA at 127.0.0.1:{double.port}: ")
    assert "the episode ends as truncated" in first


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"hang_at": 12}, "waiting for a frame: time-out of 1000ms"),
        ({"lose_image_at": 12}, "no picture of frame"),
    ],
    ids=["hang", "no image"],
)
def test_a_frame_that_does_not_come_ends_the_episode(fault: dict[str, Any], said: str) -> None:
    with Double(**fault, next_lives=[{}]) as double:
        waits = {"tick_timeout_s": SHORT_TICK_S, "camera_timeout_s": SHORT_TICK_S}
        env = highway(double, time_limit=60, **waits).make(0)
        env.reset()
        with pytest.warns(ServerLost, match=said):
            steps = play(env, 60)
        assert steps[-1][1:4] == (0.0, False, True)
        assert steps[-1][4]["invalid"] == 1.0
        assert np.array_equal(steps[-1][0]["pixels"], steps[-2][0]["pixels"])
        if "hang_at" in fault:
            double.kill()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ServerLost)  # it may still be on its way
            env.reset()
        assert not play(env, 3)[-1][3]
        env.close()


def test_a_client_process_that_dies_is_replaced(spare: Double) -> None:
    env = highway(spare, traffic=2).make(0)
    simulator: Any = env._simulator
    env.reset()
    simulator._remote._process.kill()
    with pytest.warns(ServerLost, match=r"the client process ended \(signal 9\)"):
        assert env.step(AHEAD)[2:4] == (False, True)
    env.reset()  # in spite of the cars and the traffic manager that the dead one left
    assert len(play(env, 6)) == 6
    env.close()
    assert spare.counts()["actors"] == 1


def test_a_car_in_the_air_is_invalid_not_terminal() -> None:
    with Double(launch_at=10) as double:
        env = highway(double, time_limit=60).make(0)
        env.reset()
        steps = play(env, 60)
        env.close()
    *_, terminated, truncated, signals = steps[-1]
    assert (terminated, truncated, signals["invalid"]) == (False, True, 1.0)
    assert len(steps) < 15


def test_a_late_server_is_waited_for() -> None:
    with Double(listen_after_s=2.0) as double:
        env = highway(double).make(0)
        with pytest.warns(ServerLost, match="nothing listens there; trying again for"):
            env.reset()
        assert len(play(env, 6)) == 6
        env.close()


def test_patience_ends_with_host_port_and_last_error() -> None:
    with Double() as gone:
        adapter = highway(gone, patience_s=1.0)
    env, began = adapter.make(0), time.monotonic()
    with pytest.warns(ServerLost), pytest.raises(CarlaUnavailable) as caught:
        env.reset()
    env.close()
    assert time.monotonic() - began < 10
    error = caught.value
    assert (error.host, error.port) == ("127.0.0.1", gone.port)
    assert "nothing listens there (given up after" in error.last_error
    assert f"doctor --carla 127.0.0.1:{gone.port}" in error.hint
    assert error.exit_code is ExitCode.ENVIRONMENT


def test_another_version_is_refused_at_once() -> None:
    with Double(version="0.9.11") as double:
        (found,) = Carla.diagnose_server(f"127.0.0.1:{double.port}")
        env = highway(double).make(0)
        with pytest.raises(WrongServer, match=r"is version 0\.9\.11, the client library is 0"):
            env.reset()
        env.close()
    assert not found.ok
    assert "start a server of version 0.9.16" in found.fix


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        ({"town": "Town99"}, "no map 'Town99'", "it has: DeadEnd, Town04"),
        ({"vehicle": "vehicle.bat.mobile"}, "no blueprint", "envs.carla.vehicle"),
        ({"town": "DeadEnd"}, "no lane -1 of road 103", "envs.carla.opendrive"),
        ({"opendrive": "nowhere.xodr"}, "no roads can be read", "OpenDRIVE file"),
    ],
    ids=["map", "vehicle", "roads", "file"],
)
def test_a_server_that_cannot_serve_says_what_to_change(
    settings: dict[str, Any], said: str, hint: str, spare: Double
) -> None:
    env = highway(spare, **settings).make(0)
    with pytest.raises(WrongServer, match=said) as caught:
        env.reset()
    env.close()
    assert not spare.call("get_episode_settings")[0], "left in a pace of its own"
    assert hint in caught.value.hint


def test_a_repeat_is_so_many_frames_and_the_sum_of_their_rewards(spare: Double) -> None:
    totals = []
    for repeat in (1, 3):
        env = highway(spare, action_repeat=repeat).make(0)
        env.reset()
        ticks = spare.counts()["tick_cue"]
        steps = play(env, 6 // repeat)
        assert spare.counts()["tick_cue"] == ticks + 6
        totals.append(sum(reward for _, reward, *_ in steps))
        env.close()
    assert totals[0] == pytest.approx(totals[1])


def test_a_road_that_ends_is_terminal(spare: Double) -> None:
    settings = {"route": "ahead", "start_s": 597.0, "start_lanes": (-2,)}
    env = highway(spare, town="DeadEnd", time_limit=90, **settings).make(0)
    env.reset()
    steps = play(env, 90)
    env.close()
    assert steps[-1][2:4] == (True, False)
    assert len(steps) < 60


def test_no_room_for_other_cars_is_no_fault_and_none_for_ours_is_tried_again() -> None:
    with Double(refuse_spawns=2) as double:
        env = highway(double, traffic=2).make(0)
        with pytest.warns(ServerLost, match="Spawn failed"):
            env.reset()
        assert len(play(env, 6)) == 6
        env.close()


def test_a_killed_environment_gives_its_server_back(spare: Double) -> None:
    code = """
import sys
from wmplugins.carla import Carla, Carla
env = Carla(host="127.0.0.1", ports=(int(sys.argv[1]),), traffic=2).make(0)
env.reset()
print("driving", flush=True)
sys.stdin.read()
"""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(spare.port)],
        env=paths,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"driving\n"
        assert spare.call("get_episode_settings")[0]
        process.kill()
    end_s = time.monotonic() + 20
    while spare.call("get_episode_settings")[0] and time.monotonic() < end_s:
        time.sleep(0.1)
    assert not spare.call("get_episode_settings")[0]
    assert spare.counts()["actors"] == 1


def test_doctor_says_how_to_start_a_server() -> None:
    with Double() as gone:
        address = f"127.0.0.1:{gone.port}"
    (found,) = Carla.diagnose_server(address)
    assert (found.ok, found.detail) == (False, "nothing listens there")
    assert f"CarlaUE4.sh -RenderOffScreen -nosound -carla-rpc-port={gone.port}" in found.fix
    (found,) = Carla.diagnose_server("no.such.host.invalid:2000")
    assert "unknown host" in found.detail
    (found,) = Carla().diagnose()
    assert found.ok
    assert "--carla HOST:PORT" in found.detail


@pytest.mark.slow
def test_twenty_episodes_of_published_length_outlive_a_killed_server() -> None:
    """1,000 steps, 4 other cars, changing weather; the server is killed within the tenth."""
    with Double(next_lives=[{}], back_after_s=2.0) as double:
        published = {"time_limit": 1000, "traffic": 4, "weather": "dynamic"}
        adapter = highway(double, **published, tick_timeout_s=3 * SHORT_TICK_S)
        collection = Collection(adapter, Driver(), 7, agent_steps_per_collect=10)
        batches, ended, killed = [], 0, False
        while ended < 20:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ServerLost)
                collected = collection.collect()
            assert collected.spent is None, collected.spent
            batches.append(collected.records)
            ended += int(batches[-1]["is_last"].sum())
            if ended == 9 and not killed and not batches[-1]["is_last"].any():
                double.kill()
                killed = True
        collection.close()
        assert double.counts()["actors"] == 1
    records = torch.cat(batches)
    ends = records["is_last"].flatten().nonzero().flatten()[:20]
    lengths = (torch.diff(ends, prepend=torch.tensor([-1])) - 1).tolist()
    terminal = records["is_terminal"].flatten()[ends].tolist()
    invalid = records["invalid"].flatten()[ends].tolist()
    print(list(zip(lengths, terminal, strict=True)))
    assert [at for at, lost in enumerate(invalid) if lost] == [9]
    for length, over, lost in zip(lengths, terminal, invalid, strict=True):
        assert lost or over or length == 1000
    assert bool(torch.isfinite(records["reward"]).all())


@pytest.mark.slow
def test_a_whole_run_outlives_both_its_servers(tmp_path: Path, repo_root: Path) -> None:
    lives = {"next_lives": [{}], "back_after_s": 1.0}
    with Double(die_at=90, **lives) as train, Double(die_at=40, **lives) as evaluate:
        bind = {
            "envs.carla.host": "'127.0.0.1'",
            "envs.carla.ports": f"({train.port},)",
            "eval/envs.carla.ports": f"({evaluate.port},)",
            "envs.carla.traffic": "2",
            "envs.carla.time_limit": "20",
            "envs.carla.tick_timeout_s": "3.0",
            "encoders.cnn.depth": "2",
            "decoders.cnn.depth": "2",
            "dynamics.rssm.deter": "8",
            "dynamics.rssm.hidden": "8",
            "dynamics.rssm.groups": "4",
            "dynamics.rssm.classes": "4",
            "heads.reward.units": "8",
            "behaviors.imagination.units": "8",
            "Segments.batch": "2",
            "Segments.length": "8",
            "Replay.capacity": "300",
            "Online.total_agent_steps": "160",
            "Online.prefill_agent_steps": "40",
            "Online.pretrain_updates": "2",
            "Online.eval_every": "60",
            "Evaluation.episodes": "1",
            "Evaluation.prediction_records": "8",
        }
        words = [f"--bind={name} = {value}" for name, value in bind.items()]
        gin = repo_root / "experiments" / "dreamerv2_carla.gin"
        command = [sys.executable, "-m", "platform.run", "--gin", str(gin), *words]
        done = subprocess.run(
            [*command, "--run-dir", str(tmp_path / "run"), "--device", "cpu"],
            cwd=repo_root,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for double in (train, evaluate):
            assert f"127.0.0.1:{double.port}" in done.stderr
            assert double.counts()["actors"] == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert max(row.get("agent_steps", 0) for row in rows) == 160
    assert sum(row.get("train/invalid", row.get("random/invalid", 0.0)) for row in rows) == 1.0
    assert sum(row.get("eval/invalid", 0.0) for row in rows) == 1.0
