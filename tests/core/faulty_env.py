"""An environment that fails in episodes that are chosen beforehand by their seeds."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import gymnasium
import numpy as np

from wmplatform.collect import episode_seed
from wmplatform.envs import EnvironmentLost
from wmplatform.interfaces.env_adapter import EnvAdapter, EnvSpec

from .counter_env import CounterAdapter

__all__ = ["MAKE", "RESET", "Fault", "Faults", "FaultyAdapter", "expected", "plan"]

# Environment processes do not know the tests' folder.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MAKE, RESET = -1, 0
"""When a fault comes: from 1 on, the number of the agent step that fails."""

Fault = tuple[str, int]
"""What happens, and when."""

Faults = Mapping[int, Fault]
"""Faults by the seed of the episode."""


def plan(run_seed: int, faults: Mapping[tuple[int, int], Fault]) -> dict[int, Fault]:
    """Turn faults by stream and episode into faults by seed."""
    return {episode_seed(run_seed, *where): fault for where, fault in faults.items()}


def expected(faults: Faults, run_seed: int, stream: int, limit: int, records: int) -> list[Any]:
    """What a stream must record: seed and tick of each record, `records` of them."""
    found: list[tuple[int, int]] = []
    episode = 0
    while len(found) < records:
        seed = episode_seed(run_seed, stream, episode)
        _, at = faults.get(seed, ("", limit + 1))
        found += [(seed, tick) for tick in range(max(0, at))]
        episode += 1
    return found[:records]


class Spoiled(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Does what the plan says at some step of some episodes."""

    def __init__(self, env: gymnasium.Env[Any, Any], faults: Faults) -> None:
        super().__init__(env)
        self.faults = faults
        self.fault: Fault = ("", 0)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.steps, self.fault = 0, self.faults.get(seed, ("", -2))
        observation, info = super().reset(seed=seed)
        _, observation, info = self._spoil(0.0, observation, info)
        return observation, info

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        reward, observation, info = self._spoil(float(reward), observation, info)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        super().close()
        if self.fault[0] == "clinging":
            raise RuntimeError("does not even close")

    def _spoil(self, reward: float, observation: Any, info: Any) -> Any:
        kind, at = self.fault
        if at != self.steps:
            return reward, observation, info
        misbehave(kind)
        pixels = observation["pixels"]
        broken = {
            "nan": (float("nan"), observation, info),
            "inf": (float("inf"), observation, info),
            "shape": (reward, {"pixels": pixels[:, :2]}, info),
            "dtype": (reward, {"pixels": pixels.astype(np.float32)}, info),
            "no key": (reward, {}, info),
            "no signal": (reward, observation, {}),
            "no reward": (None, observation, info),
        }
        return broken[kind]


def misbehave(kind: str) -> None:
    """Fail in a way that gives no value at all, if it is one of those."""
    if kind in ("raise", "clinging"):
        raise RuntimeError("the belt came off")
    if kind == "lost":
        raise EnvironmentLost("nobody answers at port 2000")
    if kind == "hang":
        time.sleep(3600)
    if kind == "exit":
        os._exit(7)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class FaultyAdapter(EnvAdapter):
    """Another adapter, whose environments fail by plan."""

    faults: Faults = field(default_factory=dict)
    inner: EnvAdapter = field(default_factory=CounterAdapter)
    name = "counter/faulty"

    def spec(self) -> EnvSpec:
        return self.inner.spec()

    def make(self, seed: int) -> Any:
        kind, at = self.faults.get(seed, ("", RESET))
        if at == MAKE:
            misbehave(kind)
        return Spoiled(self.inner.make(seed), self.faults)
