"""Environments that each break one law of `EnvAdapter`; `wrap` of `ToyAdapter` puts them around."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from wmplatform.envs import BadAction
from wmplatform.interfaces.env_adapter import EnvSpec

from ..toy_envs import Drift, Env, ToyAdapter


class Mutant(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Passes everything through; subclasses spoil one thing."""

    def drift(self) -> Drift:
        simulator = self.unwrapped._simulator  # type: ignore[attr-defined]
        assert isinstance(simulator, Drift)
        return simulator


class IgnoresAllSeeds(Mutant):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.env.reset(seed=7, options=options)


class IgnoresResetSeed(Mutant):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.env.reset(options=options)


class GlobalGenerator(Mutant):
    def __init__(self, env: Env) -> None:
        super().__init__(env)
        np.random.seed(5)  # noqa: NPY002 - the mistake under test

    def step(self, action: Any) -> Any:
        self.drift().place += float(np.random.normal())  # noqa: NPY002
        return self.env.step(action)


class ReusesBuffer(Mutant):
    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.buffer = np.zeros((3, 4, 4), np.uint8)

    def _reuse(self, observation: Any) -> Any:
        self.buffer[:] = observation["pixels"]
        return {**observation, "pixels": self.buffer}

    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        return self._reuse(observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return self._reuse(observation), *rest


class FlippedView(Mutant):
    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return {**observation, "pixels": observation["pixels"][:, ::-1]}, *rest


class Reward(Mutant):
    def __init__(self, env: Env, change: Callable[[float], Any]) -> None:
        super().__init__(env)
        self.change = change

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, self.change(float(reward)), *rest


class EndsBothWays(Mutant):
    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = self.env.step(action)
        return observation, reward, truncated, truncated, info


class StepsAfterTheEnd(Mutant):
    def step(self, action: Any) -> Any:
        self.unwrapped._no_episode = ""  # type: ignore[attr-defined]
        return self.env.step(action)


class AcceptsNaN(Mutant):
    def step(self, action: Any) -> Any:
        return self.env.step(np.nan_to_num(action))


class AcceptsAnyShape(Mutant):
    def step(self, action: Any) -> Any:
        return self.env.step(action if action is None else action[:2])


class NamelessBadAction(Mutant):
    def step(self, action: Any) -> Any:
        try:
            return self.env.step(action)
        except BadAction:
            raise BadAction("bad action") from None


class ScalesInsteadOfClipping(Mutant):
    def step(self, action: Any) -> Any:
        if np.isfinite(action).all() and np.abs(action).max() > 1:
            action = action / np.abs(action).max()
        return self.env.step(action)


class LastRewardOnly(Mutant):
    def step(self, action: Any) -> Any:
        observation, _, *rest = self.env.step(action)
        return observation, self.drift().place, *rest


class OneRepeatTooMany(Mutant):
    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.drift().advance(np.clip(action, -1, 1))
        return result


class ClosesOnce(Mutant):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class ClosesNoisily(Mutant):
    def close(self) -> None:
        print("GL error", file=sys.stderr)


class CollectedNoisily(Mutant):
    def __del__(self) -> None:
        os.write(2, b"GL error from a C library\n")


class StaleFrame(Mutant):
    frame = np.zeros((3, 4, 4), np.uint8)

    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        return {**observation, "pixels": self.frame.copy()}, info

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.frame = result[0]["pixels"]
        return result


class NoSuccess(Mutant):
    def step(self, action: Any) -> Any:
        *rest, info = self.env.step(action)
        return *rest, {name: info[name] for name in info if name != "success"}


class NoSignalsAtReset(Mutant):
    def reset(self, **options: Any) -> Any:
        return self.env.reset(**options)[0], {}


class SuccessIsABool(Mutant):
    def step(self, action: Any) -> Any:
        *rest, info = self.env.step(action)
        return *rest, {**info, "success": bool(info["success"])}


class FloatPixels(Mutant):
    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return {**observation, "pixels": observation["pixels"] / np.float32(255)}, *rest


class ExtraObservation(Mutant):
    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        return {**observation, "extra": np.zeros(1)}, info


class WiderActions(Mutant):
    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)


class CallsTheLimitATermination(Mutant):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info


class PaintsFloats(Mutant):
    """A simulator that gives 0..1 where its spec says uint8."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        simulator = self.drift()
        observe = simulator.observe
        simulator.observe = lambda: {**observe(), "pixels": observe()["pixels"] / 255}  # type: ignore[method-assign]


class Pays(Mutant):
    """A simulator whose rewards are something else."""

    def __init__(self, env: Env, reward: Any) -> None:
        super().__init__(env)
        simulator = self.drift()
        advance = simulator.advance
        simulator.advance = lambda action: replace(advance(action), reward=reward)  # type: ignore[method-assign]


class StandsStill(Mutant):
    """Every picture is the same one."""

    def _stand(self, observation: Any) -> Any:
        return {**observation, "pixels": np.ones((3, 4, 4), np.uint8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._stand(observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return self._stand(observation), *rest


class ShowsTheFirstFrame(Mutant):
    """A picture is taken at the reset, and never again in the episode."""

    frame = np.zeros((3, 4, 4), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        self.frame = observation["pixels"]
        return observation, info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return {**observation, "pixels": self.frame.copy()}, *rest


class DeclaresFloats(ToyAdapter):
    """Not an environment but an adapter: its pictures are declared as floats."""

    def spec(self) -> EnvSpec:
        spec = super().spec()
        pixels = replace(spec.observations["pixels"], dtype="float32")
        return replace(spec, observations={**spec.observations, "pixels": pixels})


def none(_: float) -> None:
    return None


def not_a_number(_: float) -> float:
    return float("nan")


def shorter(env: Env) -> Env:
    return _with_limit(env, 7)


def longer(env: Env) -> Env:
    return _with_limit(env, 9)


def _with_limit(env: Any, limit: int) -> Env:
    env._spec = replace(env._spec, time_limit=limit)
    return env


def none_reward(env: Env) -> Env:
    return Reward(env, none)


def nan_reward(env: Env) -> Env:
    return Reward(env, not_a_number)


def array_reward(env: Env) -> Env:
    return Reward(env, np.float32)


def true_reward(env: Env) -> Env:
    return Reward(env, bool)


def written_reward(env: Env) -> Env:
    return Reward(env, str)


def vector_reward(env: Env) -> Env:
    return Reward(env, np.atleast_1d)


def huge_reward(env: Env) -> Env:
    return Reward(env, lambda reward: 1e300 * reward)


def simulator_without_rewards(env: Env) -> Env:
    return Pays(env, None)


def simulator_of_huge_rewards(env: Env) -> Env:
    return Pays(env, 1e300)


MUTANTS: list[tuple[int, Callable[[Env], Env]]] = [
    (1, IgnoresAllSeeds),
    (1, IgnoresResetSeed),
    (1, GlobalGenerator),
    (2, ReusesBuffer),
    (2, FlippedView),
    (3, none_reward),
    (3, nan_reward),
    (3, array_reward),
    (3, true_reward),
    (3, written_reward),
    (3, vector_reward),
    (3, huge_reward),
    (3, simulator_without_rewards),
    (3, simulator_of_huge_rewards),
    (3, EndsBothWays),
    (3, CallsTheLimitATermination),
    (3, shorter),
    (3, longer),
    (4, StepsAfterTheEnd),
    (4, AcceptsNaN),
    (4, AcceptsAnyShape),
    (4, NamelessBadAction),
    (4, ScalesInsteadOfClipping),
    (6, ClosesOnce),
    (6, ClosesNoisily),
    (6, CollectedNoisily),
    (7, StaleFrame),
    (8, NoSuccess),
    (8, NoSignalsAtReset),
    (8, SuccessIsABool),
    (8, FloatPixels),
    (8, ExtraObservation),
    (8, WiderActions),
    (8, PaintsFloats),
    (9, StandsStill),
    (9, ShowsTheFirstFrame),
]
