"""The highway task through the real client library, against a stand-in for the server."""

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
from gymnasium.utils.env_checker import check_env
from torch import Tensor
from torchrl.envs.utils import check_env_specs

from wmplatform import doctor
from wmplatform.cli import main
from wmplatform.collect import Collection, OneStream
from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import PlatformEnv
from wmplatform.errors import ExitCode
from wmplatform.registry import find
from wmplugins.carla import Carla, CarlaUnavailable, ServerLost, ServerTaken, WrongServer

from ..carla_double.launch import Double

pytest.importorskip("carla")

AHEAD = np.array([0.0, 1.0], np.float32)
REST = np.zeros(2, np.float32)
SHORT_TICK_S = 1.0
"""Time-out of calls to servers that are going to hang; they are quick otherwise."""


def highway(*doubles: Double, **settings: Any) -> Carla:
    """An adapter for the doubles, which waits long for what is slow and short for what is gone."""
    patient = {"startup_timeout_s": 30.0, "camera_timeout_s": 5.0, "patience_s": 40.0}
    chosen = {"time_limit": 6, "traffic": 0, **patient, **settings}
    return Carla(host="127.0.0.1", ports=tuple(double.port for double in doubles), **chosen)


def play(env: PlatformEnv, actions: int, action: Any = AHEAD) -> list[tuple[Any, ...]]:
    """Steps until the episode or the actions end."""
    steps: list[tuple[Any, ...]] = []
    for _ in range(actions):
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with Double() as running:
        yield running


@pytest.fixture(scope="module")
def driven(double: Double) -> Iterator[PlatformEnv]:
    """One environment with traffic and changing weather, for everything that leaves it well."""
    env = highway(double, time_limit=30, traffic=3, weather="dynamic").make(0)
    yield env
    env.close()


@pytest.fixture(scope="module")
def spare() -> Iterator[Double]:
    """A server for environments that come and go."""
    with Double() as running:
        yield running


class Driver(torch.nn.Module):
    """Full throttle, straight on."""

    def act(
        self, observations: Any, is_first: Tensor, memory: Any, **_: Any
    ) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.0, 1.0]]).expand(len(is_first), 2), torch.zeros(len(is_first))


# One server -------------------------------------------------------------------------------------


def test_an_episode_runs_to_its_time_limit(driven: PlatformEnv, double: Double) -> None:
    first, signals = driven.reset(seed=1)
    sky = double.counts()["set_weather_parameters"]
    steps = play(driven, 40)
    assert signals["distance"] == signals["invalid"] == 0.0
    assert len(steps) == 30
    assert [step[2:4] for step in steps] == [(False, False)] * 29 + [(False, True)]
    assert double.counts()["set_weather_parameters"] == sky + 30
    assert first["pixels"].std() > 1
    assert not np.array_equal(first["pixels"], steps[-1][0]["pixels"])


def test_reward_is_the_distance_where_nothing_else_happens(driven: PlatformEnv) -> None:
    driven.reset(seed=2)
    steps = play(driven, 12)
    for _, reward, _, _, signals in steps:
        assert reward == pytest.approx(signals["distance"], abs=1e-6)
        assert signals["impulse"] == signals["invalid"] == 0.0
    gained = np.diff([reward for _, reward, _, _, _ in steps])
    assert (gained > 0).all(), "full throttle goes faster and faster"


def test_steering_costs_and_leads_off_the_centre(driven: PlatformEnv) -> None:
    driven.reset(seed=2)
    play(driven, 10)
    away = play(driven, 8, np.array([0.5, 1.0], np.float32))
    offsets = [signals["off_centre"] for *_, signals in away]
    assert offsets[-1] > offsets[0] >= 0
    assert all(reward == pytest.approx(s["distance"] - 0.5, abs=0.05) for _, reward, *_, s in away)


def test_the_same_seed_begins_alike(driven: PlatformEnv) -> None:
    """Declared as not deterministic, for the simulator's sake; the draws are ours and repeat."""
    first, other, again = (driven.reset(seed=seed)[0]["pixels"] for seed in (3, 4, 3))
    assert np.abs(first.astype(int) - again).mean() < np.abs(first.astype(int) - other).mean()


def test_gymnasiums_checker_passes(driven: PlatformEnv) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(driven, skip_render_check=True, skip_close_check=True)


def test_a_server_serves_one_environment(driven: PlatformEnv, double: Double) -> None:
    driven.reset(seed=0)
    with pytest.raises(ServerTaken, match=f"127.0.0.1:{double.port} already"):
        highway(double).make(0)


def test_doctor_tells_that_a_client_drives_it(
    driven: PlatformEnv,
    double: Double,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    driven.reset(seed=0)
    found = Carla.diagnose_server(f"127.0.0.1:{double.port}")
    assert [each.ok for each in found] == [True, True]
    assert "version 0.9.16, shows Town04" in found[0].detail
    assert "synchronous mode" in found[1].detail
    play(driven, 3)  # and it went on undisturbed
    monkeypatch.setattr(doctor, "components", lambda *_: [find("envs", "carla")])
    assert main(["doctor", "--carla", "127.0.0.1:x"]) == ExitCode.ENVIRONMENT
    assert "BAD carla server 127.0.0.1:x: not an address" in capsys.readouterr().out


def test_laws_hold() -> None:
    with Double() as one, Double() as two:
        check_env_adapter(highway(one, two), steps=8)
        for double in (one, two):
            counts = double.counts()
            spawned = counts["spawn_actor"] + counts["spawn_actor_with_parent"]
            assert counts["destroy_actor"] == spawned
            assert counts["actors"] == 1, "the spectator alone"
            assert not any(name.startswith("unknown") for name in counts)


def test_torchrls_checker_passes_and_the_server_is_given_back() -> None:
    with Double() as double:
        env = OneStream(highway(double, traffic=2))
        check_env_specs(env, break_when_any_done="both", seed=0)
        env.close()
        counts = double.counts()
        assert counts["actors"] == 1
        assert counts["set_episode_settings"] == 2, "in step with us, and back"
        (found,) = Carla.diagnose_server(f"127.0.0.1:{double.port}")
        assert found.ok, found


# Servers that fail ------------------------------------------------------------------------------


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
from wmplugins.carla import Carla
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
    """1,000 steps, 20 other cars, changing weather; the server is killed within the tenth."""
    with Double(next_lives=[{}], back_after_s=2.0) as double:
        published = {"time_limit": 1000, "traffic": 20, "weather": "dynamic"}
        adapter = highway(double, **published, tick_timeout_s=3 * SHORT_TICK_S)
        collection = Collection(adapter, Driver(), 7, agent_steps_per_collect=10)
        batches, ended, killed = [], 0, False
        while ended < 20:
            batches.append(collection.collect().records)
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
