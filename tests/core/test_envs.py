"""What every environment has in common."""

import pickle  # noqa: TID251 - what worker processes do with errors
import subprocess
import sys
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.envs import (
    BadAction,
    EpisodeOver,
    Frame,
    PlatformEnv,
    SimulatorFault,
    action_space,
    from_unit,
    integers_from_unit,
    observation_space,
)
from wmplatform.errors import ExitCode
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec

from .toy_envs import Drift, ToyAdapter

PUSH = np.array([0.5, -0.25], np.float32)


def toy(seed: int = 0, **settings: Any) -> PlatformEnv:
    env = ToyAdapter(**settings).make(seed)
    assert isinstance(env, PlatformEnv)
    return env


def drift_of(env: PlatformEnv) -> Drift:
    simulator = env._simulator
    assert isinstance(simulator, Drift)
    return simulator


@given(
    repeat=st.integers(1, 5),
    seed=st.integers(0, 99),
    goal=st.one_of(st.just(np.inf), st.floats(0.0, 4.0)),
    lifetime=st.integers(0, 12),
)
def test_repeat_equals_single_steps(repeat: int, seed: int, goal: float, lifetime: int) -> None:
    settings = {"goal": goal, "lifetime": lifetime, "time_limit": None}
    big, small = toy(seed, action_repeat=repeat, **settings), toy(seed, **settings)
    big.reset()
    small.reset()
    actions = np.random.default_rng(seed).uniform(-1, 1, (6, 2)).astype(np.float32)
    for action in actions:
        singles = []
        for _ in range(repeat):
            singles.append(small.step(action))
            if singles[-1][2] or singles[-1][3]:
                break
        observation, reward, terminated, truncated, info = big.step(action)
        last = singles[-1]
        assert observation["place"] == last[0]["place"]
        assert reward == pytest.approx(sum(single[1] for single in singles))
        assert (terminated, truncated) == last[2:4]
        assert info["success"] == max(single[4]["success"] for single in singles)
        assert info["effort"] == pytest.approx(sum(single[4]["effort"] for single in singles))
        if terminated or truncated:
            break


def test_only_the_last_frame_of_a_repeat_is_rendered() -> None:
    env = toy(action_repeat=4)
    env.reset()
    env.step(PUSH)
    assert drift_of(env).renders == 2


@pytest.mark.parametrize("repeat", [1, 3])
def test_time_limit_truncates_at_exactly_that_agent_step(repeat: int) -> None:
    env = toy(action_repeat=repeat, time_limit=5)
    env.reset()
    ends = [env.step(PUSH)[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_termination_at_the_time_limit_is_not_a_truncation() -> None:
    env = toy(time_limit=1, goal=-1e9)
    env.reset()
    assert env.step(PUSH)[2:4] == (True, False)


def test_step_after_the_end_is_refused_and_reset_starts_again() -> None:
    env = toy(time_limit=1)
    env.reset()
    env.step(PUSH)
    with pytest.raises(EpisodeOver, match="toy/drift ended after agent step 1"):
        env.step(PUSH)
    env.reset()
    env.step(PUSH)


def test_step_before_reset_and_after_close_is_refused() -> None:
    env = toy()
    with pytest.raises(EpisodeOver, match="before its first reset"):
        env.step(PUSH)
    env.reset()
    env.close()
    with pytest.raises(EpisodeOver, match="is closed"):
        env.step(PUSH)
    with pytest.raises(EpisodeOver, match="is closed"):
        env.reset()


def test_step_after_a_failed_step_needs_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    env = toy()
    env.reset()
    with monkeypatch.context() as patch:
        patch.setattr(drift_of(env), "advance", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            env.step(PUSH)
    with pytest.raises(EpisodeOver, match="failed during its last step"):
        env.step(PUSH)
    env.reset()
    env.step(PUSH)


@pytest.mark.parametrize(
    ("action", "what"),
    [
        ([0.0, np.nan], "not finite"),
        ([np.inf, 0.0], "not finite"),
        ([0.0], "shape"),
        ([[0.0, 0.0]], "shape"),
        (None, "shape|numbers"),
        (["left", "right"], "numbers"),
    ],
)
def test_bad_action_names_env_key_and_agent_step(action: Any, what: str) -> None:
    env = toy()
    env.reset()
    env.step(PUSH)
    with pytest.raises(BadAction, match=what) as caught:
        env.step(action)
    assert (caught.value.env, caught.value.key, caught.value.agent_step) == (
        "toy/drift",
        "action",
        2,
    )
    assert "toy/drift: action of agent step 2" in str(caught.value)
    assert drift_of(env).frames == 1


@pytest.mark.parametrize("action", [2, -1, 0.5, np.array([0, 1]), None, np.nan])
def test_bad_index_is_refused(action: Any) -> None:
    env = toy(kind="discrete")
    env.reset()
    with pytest.raises(BadAction):
        env.step(action)


@pytest.mark.parametrize("index", [1, np.int64(1), np.array(1)])
def test_discrete_actions_reach_the_simulator_as_ints(index: Any) -> None:
    env = toy(kind="discrete")
    env.reset()
    assert env.step(index)[4] == {"success": 1.0, "effort": 1.0}


def test_finite_actions_are_clipped_whatever_their_dtype() -> None:
    far, near = toy(), toy()
    far.reset()
    near.reset()
    assert far.step(np.array([1e300, -7.0]))[1] == near.step(np.array([1, -1]))[1]


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_the_simulators_fault(
    reward: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = toy()
    env.reset()
    monkeypatch.setattr(drift_of(env), "advance", lambda _: Frame(reward))
    with pytest.raises(SimulatorFault, match="toy/drift: reward after agent step 1 is"):
        env.step(PUSH)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("place", np.array([np.nan]), "not finite"),
        ("pixels", np.zeros((4, 4, 3), np.uint8), r"uint8 \(4, 4, 3\) .* instead of"),
    ],
)
def test_an_observation_that_no_record_may_hold_is_refused(
    key: str, value: np.ndarray, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = toy()
    good = drift_of(env).observe()
    monkeypatch.setattr(drift_of(env), "observe", lambda: {**good, key: value})
    with pytest.raises(SimulatorFault, match=what) as caught:
        env.reset()
    assert caught.value.key == key


def test_observations_are_copies_with_the_declared_dtype() -> None:
    env = toy()
    first, _ = env.reset()
    kept = first["pixels"].copy()
    second = env.step(PUSH)[0]
    assert np.array_equal(first["pixels"], kept)
    assert not np.shares_memory(first["pixels"], second["pixels"])
    assert second["place"].dtype == np.float32


def test_reset_without_a_seed_goes_on_and_with_one_starts_again() -> None:
    env = toy(seed=3)
    first = env.reset()[0]["place"]
    second = env.reset()[0]["place"]
    assert first != second
    assert env.reset(seed=3)[0]["place"] == first
    assert env.reset()[0]["place"] == second
    assert toy(seed=9).reset(seed=3)[0]["place"] == first


def test_close_reaches_the_simulator_once() -> None:
    env = toy()
    env.close()
    env.close()
    assert drift_of(env).closed == 1


@pytest.mark.parametrize(
    ("rule", "expected"), [("max", 3.0), ("sum", 6.0), ("mean", 2.0), ("last", 2.0)]
)
def test_signals_of_a_repeat_are_summed_up_by_their_rule(
    rule: Literal["max", "sum", "mean", "last"], expected: float
) -> None:
    class Counting(Drift):
        def advance(self, action: Any) -> Frame:
            super().advance(action)
            return Frame(0.0, signals={"x": [1.0, 3.0, 2.0][self.frames - 1]})

        def reset(self, seed: int | None) -> dict[str, float]:
            super().reset(seed)
            return {"x": 0.0}

    spec = EnvSpec(
        observations={"place": ArraySpec((1,))},
        action=ActionSpec(2),
        action_repeat=3,
        signals={"x": rule},
    )
    env = PlatformEnv(Counting(), spec, name="toy", seed=0)
    env.reset()
    assert env.step(PUSH)[4] == {"x": expected}


BOUND = st.floats(-1e300, 1e300)


@given(bounds=st.tuples(BOUND, BOUND).map(sorted), action=st.floats(-1, 1))
def test_from_unit_maps_onto_the_bounds(bounds: list[float], action: float) -> None:
    low, high = np.array(bounds[:1]), np.array(bounds[1:])
    scaled = from_unit(low, high)
    ends = [scaled(np.array([end]))[0] for end in (-1.0, 1.0)]
    assert ends == bounds
    assert bounds[0] <= scaled(np.array([action]))[0] <= bounds[1]


@given(bound=BOUND, actions=st.tuples(*[st.floats(-1, 1, width=32)] * 2).map(sorted))
def test_from_unit_stays_on_the_inner_side_of_a_single_bound(
    bound: float, actions: list[float]
) -> None:
    scaled = from_unit(np.array([bound, -np.inf, -np.inf]), np.array([np.inf, bound, np.inf]))
    one, other = (scaled(np.full(3, action)) for action in actions)
    assert (one <= other).all()
    above, below, passed = one
    assert bound <= above <= bound + 2
    assert bound - 2 <= below <= bound
    assert passed == pytest.approx(actions[0])
    assert scaled(-np.ones(3))[0] == scaled(np.ones(3))[1] == bound


@given(low=st.integers(-(2**40), 2**40), count=st.integers(1, 300), size=st.integers(1, 7))
def test_integers_have_equal_parts_of_the_unit(low: int, count: int, size: int) -> None:
    first, last = np.array([low]), np.array([low + count - 1])
    scaled = integers_from_unit(first, last)
    centres = (2 * np.arange(count * size) + 1) / (count * size) - 1
    found = [scaled(np.array([centre], np.float32)).item() for centre in centres]
    assert found == [low + part for part in range(count) for _ in range(size)]
    for end, expected in ((-1.0, first), (1.0, last)):
        assert scaled(np.array([end])) == expected


def test_spaces_follow_the_spec() -> None:
    spec = ToyAdapter().spec()
    pixels = observation_space(spec)["pixels"]
    assert pixels == gymnasium.spaces.Box(0, 255, (3, 4, 4), np.uint8)
    assert action_space(ActionSpec(3, "discrete")) == gymnasium.spaces.Discrete(3)
    assert action_space(ActionSpec(3)) == gymnasium.spaces.Box(-1, 1, (3,), np.float32)


def test_errors_survive_a_worker_process() -> None:
    error = BadAction("no", env="toy", key="action", agent_step=4)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.env, copy.key, copy.agent_step, str(copy)) == ("toy", "action", 4, str(error))
    again = BadAction(error)  # how gymnasium's vector environments raise it in the parent
    assert (again.env, again.key, again.agent_step, str(again)) == ("toy", "action", 4, str(error))
    assert error.exit_code is ExitCode.FAILED


def test_environment_code_imports_no_torch() -> None:
    code = (
        "import sys, wmplatform.envs, wmplatform.contracts.env_adapter; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=_path(), check=False).returncode == 0


def _path() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
