"""The highway task through the real client library, against a stand-in for the server."""

import functools
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from torchrl.envs.utils import check_env_specs

from wmplatform import doctor
from wmplatform.cli import main
from wmplatform.collect import OneStream
from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import PlatformEnv
from wmplatform.errors import ExitCode
from wmplatform.registry import find
from wmplugins.carla import Carla, ServerTaken
from wmplugins.carla.errors import ServerLost

from ..carla_double.launch import Double
from .carla_driving import highway, play

pytest.importorskip("carla")


def tried_again(test: Callable[[], None]) -> Callable[[], None]:
    """Repeat a test, up to twice, in which the client library itself crashed (by a signal)."""

    @functools.wraps(test)
    def patient() -> None:
        for _ in range(2):
            try:
                return test()
            except ServerLost as error:
                if "the client process ended (signal" not in str(error):
                    raise
        return test()

    return patient


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


@tried_again
def test_laws_hold() -> None:
    with Double() as one, Double() as two:
        check_env_adapter(highway(one, two), steps=8)
        for double in (one, two):
            counts = double.counts()
            spawned = counts["spawn_actor"] + counts["spawn_actor_with_parent"]
            assert counts["destroy_actor"] == spawned
            assert counts["actors"] == 1, "the spectator alone"
            assert not any(name.startswith("unknown") for name in counts)


@tried_again
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
