"""What an environment gives is looked at once, where it comes in: nothing is cast in silence."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.collect import Collection, EnvFault, FaultBudgetSpent, IsolatedEnv, Isolation
from wmplatform.collect.torch_envs import OneStream, VectorStreams
from wmplatform.edge import Edge
from wmplatform.envs import CannotStart, Frame, Misdeclared, PlatformEnv, SimulatorFault
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.evaluation import Evaluation
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec

from .counter_env import CounterAdapter, CountingAgent
from .toy_envs import Drift

# Environment processes do not know the tests' folder.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SPEC = EnvSpec({"pixels": ArraySpec((3, 4, 4), "uint8"), "state": ArraySpec((2,))}, ActionSpec(2))
EDGE = Edge(SPEC, "toy/edge")
PIXELS = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
STATE = np.zeros(2, np.float32)
LARGEST = float(np.finfo(np.float32).max)


def admitted(**given: Any) -> dict[str, np.ndarray]:
    return EDGE.observation({"pixels": PIXELS, "state": STATE, **given}, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pixels": PIXELS / 48.0}, "float64 (3, 4, 4) with values from 0 to 0.979167 instead of"),
        ({"pixels": PIXELS.astype(np.float32)}, "float32 (3, 4, 4) with values from 0 to 47"),
        ({"pixels": PIXELS.astype(np.int16)}, "int16 (3, 4, 4)"),
        ({"pixels": PIXELS > 20}, "bool (3, 4, 4) with values from 0 to 1"),
        ({"pixels": PIXELS.astype(object)}, "object (3, 4, 4)"),
        ({"pixels": PIXELS.transpose(1, 2, 0)}, "uint8 (4, 4, 3)"),
        ({"pixels": PIXELS[None]}, "uint8 (1, 3, 4, 4)"),
        ({"pixels": PIXELS.tolist()}, "is a list, not an array"),
        ({"pixels": None}, "is missing"),
        ({"state": np.zeros(2, np.int64)}, "int64 (2,)"),
        ({"state": np.zeros(2, np.uint8)}, "uint8 (2,)"),
        ({"state": np.zeros(2, complex)}, "complex128 (2,)"),
        ({"state": np.zeros((0,), np.float32)}, "float32 (0,) instead of float32 (2,)"),
        ({"state": np.float32(0)}, "is a float32, not an array"),
    ],
)
def test_an_array_that_is_not_as_declared_is_refused_by_name(given: Any, said: str) -> None:
    (key,) = given
    with pytest.raises(Misdeclared) as caught:
        admitted(**given)
    error = caught.value
    assert error.what.startswith(f"toy/edge: {key} after agent step 3 ")
    assert said in error.what
    assert (error.env, error.key, error.agent_step) == ("toy/edge", key, 3)
    assert error.exit_code is ExitCode.BAD_INPUT
    assert "(255 * picture)" in error.hint


@pytest.mark.parametrize("given", [PIXELS, [PIXELS], None])
def test_observations_that_are_no_dict_are_refused(given: Any) -> None:
    with pytest.raises(Misdeclared, match=r"observation at the reset is a \w+, not a dict"):
        EDGE.observation(given, 0)


@given(st.sampled_from(["float16", "float64", "longdouble", ">f4"]), st.integers(-9, 9))
def test_floats_are_rounded_to_the_declared_float(dtype: str, value: int) -> None:
    state = admitted(state=np.full(2, value / 8, dtype))["state"]
    assert state.dtype == np.float32
    assert state.tolist() == [value / 8] * 2


def test_integers_are_widened_and_never_narrowed() -> None:
    edge = Edge(EnvSpec({"index": ArraySpec((1,), "int32")}, ActionSpec(1)), "toy")
    (found,) = edge.observation({"index": np.array([7], np.uint16)}, 0).values()
    assert (found.dtype, found.tolist()) == (np.int32, [7])
    for wrong in (np.int64, np.uint32, np.float64, np.bool_):
        with pytest.raises(Misdeclared, match="index at the reset"):
            edge.observation({"index": np.ones(1, wrong)}, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_floats_that_are_not_finite_as_declared_are_a_fault(value: float) -> None:
    with pytest.raises(SimulatorFault, match="state after agent step 3 is not finite") as caught:
        admitted(state=np.array([0.0, value]))
    assert caught.value.restart_helps is True


def test_only_what_is_declared_comes_in_and_in_one_piece() -> None:
    flipped = admitted(pixels=PIXELS[:, ::-1], extra=STATE)
    assert list(flipped) == ["pixels", "state"]
    assert flipped["pixels"].flags.c_contiguous
    assert np.array_equal(flipped["pixels"], PIXELS[:, ::-1])
    assert flipped["state"] is STATE  # what is as declared is not copied
    copy = EDGE.observation({"pixels": PIXELS, "state": STATE}, 0, copy=True)
    assert not np.shares_memory(copy["state"], STATE)


@pytest.mark.parametrize(
    "given", [None, True, np.True_, "1.0", [1.0], np.ones(1), np.ones((1, 2)), 1j, Fraction(1, 2)]
)
def test_a_reward_that_is_no_number_is_refused_by_name(given: Any) -> None:
    with pytest.raises(Misdeclared, match=r"toy/edge: reward after agent step 4 is .*number") as e:
        EDGE.reward(given, 4)
    assert (e.value.key, e.value.agent_step, e.value.exit_code) == ("reward", 4, 2)
    assert "one finite number" in e.value.hint


@given(
    value=st.floats(-LARGEST, LARGEST),
    kind=st.sampled_from([float, np.float64, np.float32, np.array]),
)
def test_rewards_are_the_number_as_a_float(value: float, kind: Callable[[float], Any]) -> None:
    found = EDGE.reward(kind(value), 1)
    assert type(found) is float
    assert found == float(kind(value))
    assert math.isfinite(np.float32(found))


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3)])
def test_whole_rewards_are_numbers(given: Any) -> None:
    assert EDGE.reward(given, 1) == 3.0


@pytest.mark.parametrize("given", [1e300, -1e300, 3.5e38, np.float64(1e39), 10**39])
def test_a_reward_that_records_would_hold_as_infinite_is_refused(given: Any) -> None:
    with pytest.raises(SimulatorFault, match="infinite as the float32 that records hold") as e:
        EDGE.reward(given, 1)
    assert "scale rewards" in e.value.hint


@pytest.mark.parametrize("given", [math.nan, math.inf, np.float32("-inf"), np.array(np.nan)])
def test_a_reward_that_is_not_finite_is_a_fault(given: Any) -> None:
    with pytest.raises(SimulatorFault, match=r"reward after agent step 1 is (nan|-?inf)\n") as e:
        EDGE.reward(given, 1)
    assert e.value.restart_helps is True


@pytest.mark.parametrize("reward", [None, 3e38])
def test_each_reward_of_a_repeat_and_their_sum_are_looked_at(reward: Any) -> None:
    class Paying(Drift):
        def advance(self, action: Any) -> Frame:
            return Frame(reward)

    spec = EnvSpec({"place": ArraySpec((1,))}, ActionSpec(2), action_repeat=2)
    env = PlatformEnv(Paying(), spec, name="toy", seed=0)
    env.reset()
    with pytest.raises(SimulatorFault, match="toy: reward after agent step 1"):
        env.step(np.zeros(2))


@pytest.mark.parametrize("shape", [(3, 64, 64), (64, 64, 3)])
def test_pictures_declared_as_floats_are_refused_with_the_way_out(shape: Any) -> None:
    with pytest.raises(PlatformError, match=r"pixels.*float32.*uint8") as caught:
        EnvSpec({"pixels": ArraySpec(shape)}, ActionSpec(1))
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert "(255 * picture)" in caught.value.hint


# ---- wherever environments are played


class Changing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Changes what is given from some step of some episode on."""

    def __init__(self, env: Any, adapter: "ChangingAdapter") -> None:
        super().__init__(env)
        self.adapter = adapter
        self.steps = 0

    def reset(self, **options: Any) -> Any:
        self.adapter.resets += 1
        self.steps = 0
        observation, info = super().reset(**options)
        return self._change(observation, 0.0)[0], info

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, *rest = super().step(action)
        return *self._change(observation, reward), *rest

    def _change(self, observation: Any, reward: Any) -> tuple[Any, Any]:
        if (self.adapter.resets, self.steps) < self.adapter.since:
            return observation, reward
        return self.adapter.change(observation, reward)


@dataclass
class ChangingAdapter(EnvAdapter):
    """An adapter without `PlatformEnv`'s care, as anybody may write one."""

    change: Callable[[Any, Any], tuple[Any, Any]]
    since: tuple[int, int] = (0, 0)
    """Episode, from 1, and step."""
    inner: EnvAdapter = field(default_factory=CounterAdapter)
    resets: int = 0
    name = "toy/changing"

    def spec(self) -> EnvSpec:
        return self.inner.spec()

    def make(self, seed: int) -> Any:
        return Changing(self.inner.make(seed), self)


def light(observation: Any, reward: Any) -> tuple[Any, Any]:
    return {"pixels": observation["pixels"] / 255.0}, reward


def same(observation: Any, reward: Any) -> tuple[Any, Any]:
    return {"pixels": sloped(observation["pixels"])}, reward


def unpaid(observation: Any, reward: Any) -> tuple[Any, Any]:
    return observation, None


def nameless(observation: Any, reward: Any) -> tuple[Any, Any]:
    return {"image": observation["pixels"]}, reward


def flipped(observation: Any, reward: Any) -> tuple[Any, Any]:
    return {"pixels": sloped(observation["pixels"])[:, ::-1, ::-1]}, reward


def sloped(pixels: Any) -> Any:
    """Another value at each place."""
    return pixels // 2 + np.arange(16, dtype=np.uint8).reshape(4, 4)


def rollout(env: Any) -> Any:
    torch.manual_seed(0)
    found = env.rollout(3)["next", "pixels"]
    env.close()
    return found


def agent() -> Any:
    return CountingAgent()


MISTAKES = [
    (light, (1, 0), r"pixels at the reset is float64 \(3, 4, 4\) with values from 0 to"),
    (nameless, (1, 0), "pixels at the reset is missing"),
    (unpaid, (1, 1), "reward after agent step 1 is None, not a number"),
    (light, (1, 1), "pixels after agent step 1 is float64"),
]


@pytest.mark.parametrize(
    ("change", "since", "said", "isolate"),
    [*((*mistake, False) for mistake in MISTAKES), (*MISTAKES[1], True), (*MISTAKES[2], True)],
)
def test_what_never_was_as_declared_is_one_message_and_no_retry(
    change: Any, since: tuple[int, int], said: str, isolate: bool
) -> None:
    adapter = ChangingAdapter(change, since)
    collection = Collection(adapter, agent(), 0, agent_steps_per_collect=3, isolate=isolate)
    with pytest.raises((Misdeclared, EnvFault), match=f"toy/changing: {said}") as caught:
        collection.collect()
    collection.close()
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert isolate or adapter.resets == 1


@pytest.mark.parametrize(("change", "since", "said"), MISTAKES[:3])
def test_an_evaluation_does_not_try_again_either(change: Any, since: Any, said: str) -> None:
    adapter = ChangingAdapter(change, since)
    with pytest.raises(Misdeclared, match=said):
        Evaluation(episodes=2).run(
            adapter, agent(), 0, {"agent_steps": 0}, on_fault=lambda report: None
        )
    assert adapter.resets == 1


@pytest.mark.parametrize("change", [light, unpaid, nameless])
def test_what_was_as_declared_for_a_while_is_a_fault_like_others(change: Any) -> None:
    adapter = ChangingAdapter(change, since=(2, 2))
    collection = Collection(adapter, agent(), 0, agent_steps_per_collect=3, fault_budget=3)
    found = collection.collect()
    assert not found.faults
    while not found.spent:
        found = collection.collect()
    collection.close()
    assert isinstance(found.spent, FaultBudgetSpent)
    assert "Misdeclared" in str(found.spent)


def test_what_was_as_declared_before_a_resume_is_a_fault_too() -> None:
    first = Collection(CounterAdapter(), agent(), 0, agent_steps_per_collect=3)
    first.collect()
    state = first.state_dict()
    first.close()
    adapter = ChangingAdapter(light, since=(1, 0))
    again = Collection(adapter, agent(), 0, agent_steps_per_collect=3, fault_budget=2)
    again.load_state_dict(state)
    found = again.collect()
    again.close()
    assert len(found.faults) == 3
    assert found.spent


def test_a_constructor_that_raises_is_one_message_and_no_retry() -> None:
    class Broken(CounterAdapter):
        def make(self, seed: int) -> Any:
            raise TypeError("there is no such arm")

    said = r"counter/count cannot be made: TypeError: there is no such arm \(.*test_edge.py:\d+\)"
    collection = Collection(Broken(), agent(), 0)
    with pytest.raises(CannotStart, match=said) as caught:
        collection.collect()
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    with pytest.raises(CannotStart, match=said):
        Evaluation(episodes=1).run(
            Broken(), agent(), 0, {"agent_steps": 0}, on_fault=lambda report: None
        )
    with pytest.raises(EnvFault, match=said) as elsewhere:
        IsolatedEnv(Broken(), 0, Isolation())
    assert elsewhere.value.exit_code is ExitCode.BAD_INPUT


def test_flipped_views_are_played_like_their_copies() -> None:
    adapter = ChangingAdapter(flipped)
    plain, turned, vector = (
        rollout(env)
        for env in (
            OneStream(ChangingAdapter(same)),
            OneStream(adapter),
            VectorStreams(adapter, num_envs=1),
        )
    )
    assert not torch.equal(turned, plain)
    assert torch.equal(turned, plain.flip(-1, -2))
    assert torch.equal(vector[0], turned)
    (episode,) = Evaluation(episodes=1).run(adapter, agent(), 0, {"agent_steps": 0}).episodes
    assert episode.records["pixels"].shape == (6, 3, 4, 4)
