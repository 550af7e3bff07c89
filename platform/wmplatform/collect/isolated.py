"""Environments in processes of their own: one that hangs or dies takes nothing else with it.

This file imports no torch: environment workers stay small.
"""

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from wmplatform.collect.faults import EnvFault, make_env
from wmplatform.edge import Edge, Observation
from wmplatform.envs import EnvironmentLost, action_space, observation_space
from wmplatform.interfaces.env_adapter import Diagnosis, EnvAdapter, EnvSpec

__all__ = ["IsolatedAdapter", "IsolatedEnv", "Isolation", "StartMethod"]

StartMethod = Literal["forkserver", "spawn"]
"""How environment processes start; never fork, which copies GL contexts and locked threads."""

_CLOSING_S = 10.0
_ERROR = "wmplatform:error"


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """How environments are kept apart, and how long they may take."""

    start_method: StartMethod = "forkserver"
    step_timeout_s: float = 60.0
    """For one agent step."""
    reset_timeout_s: float = 300.0
    """For the start of the simulator, and for one reset."""


class IsolatedAdapter(EnvAdapter):
    """Another adapter, whose environments run in a process each.

    Args:
        adapter: makes the environments; pickled.
        isolation: how processes start, and their time-outs.
    """

    def __init__(self, adapter: EnvAdapter, isolation: Isolation) -> None:
        self.adapter, self.isolation = adapter, isolation

    def spec(self) -> EnvSpec:
        """Describe the environment."""
        return self.adapter.spec()

    def make(self, seed: int) -> "IsolatedEnv":
        """Start a process, and the environment in it.

        Raises:
            EnvFault: the environment cannot be made.
            EnvironmentLost: the process died, or took too long.
        """
        return IsolatedEnv(self.adapter, seed, self.isolation)

    @property
    def name(self) -> str:
        """Readable name of the environment."""
        return self.adapter.name

    def diagnose(self) -> list[Diagnosis]:
        """Try what the adapter needs of the machine."""
        return self.adapter.diagnose()


class IsolatedEnv(gymnasium.Env[Observation, Any]):
    """An environment in a process of its own.

    Whatever goes wrong in it is raised here as `EnvFault`, and the process lives on. Where the
    process itself is lost, or does not answer in time, it is killed.

    Args:
        adapter: makes the environment, in the other process.
        seed: for `adapter.make`.
        isolation: how the process starts, and its time-outs.

    Raises:
        EnvFault: the environment cannot be made.
        EnvironmentLost: the process died, or took too long.
    """

    def __init__(self, adapter: EnvAdapter, seed: int, isolation: Isolation) -> None:
        spec = adapter.spec()
        self.observation_space: spaces.Space[Any] = observation_space(spec)
        self.action_space = action_space(spec.action)
        self.name = adapter.name
        self._isolation = isolation
        self._signals = tuple(spec.signals)
        self._process: _Process | None = None
        self._broken: OSError | None = None
        try:
            self._process = _Process(partial(_Inside, adapter, seed), isolation.start_method)
            self._process.call_async("start")
        except (EOFError, OSError) as error:
            raise self._died(error) from error
        (failed,) = self._wait(self._process.call_wait, isolation.reset_timeout_s)
        if failed is not None:
            self.close()
            raise failed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see `EnvAdapter`.

        Raises:
            EnvFault: the environment raised.
            EnvironmentLost: the process died, or took too long.
        """
        del options
        self._send(lambda process: process.reset_async(seed=[seed]))
        observation, info = self._wait(self._running.reset_wait, self._isolation.reset_timeout_s)
        return _only(observation), self._signals_of(info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one agent step; raises as `reset` does."""
        self.step_async(action)
        return self.step_wait()

    def step_async(self, action: Any) -> None:
        """Begin a step; `step_wait` gives what came of it, errors included."""
        self._send(lambda process: process.step_async(np.asarray(action)[None]))

    def step_wait(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """End a step that `step_async` began; raises as `reset` does."""
        outcome = self._wait(self._running.step_wait, self._isolation.step_timeout_s)
        observation, reward, terminated, truncated, info = outcome
        signals = self._signals_of(info)
        return (
            _only(observation),
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            signals,
        )

    def close(self) -> None:
        """Close the environment and end the process; a second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.close(timeout=_CLOSING_S)

    @property
    def _running(self) -> "_Process":
        if self._process is None:
            raise EnvironmentLost(f"{self.name} is closed", env=self.name)
        return self._process

    def _send(self, send: Callable[["_Process"], None]) -> None:
        try:
            send(self._running)
        except OSError as error:
            self._broken = error

    def _wait(self, wait: Callable[[float], Any], timeout_s: float) -> Any:
        try:
            if self._broken is not None:
                raise self._broken
            return wait(timeout_s)
        except multiprocessing.TimeoutError as error:
            self._running.close(timeout=0.0)
            self._process = None
            what = f"{self.name} does not answer: it was given {timeout_s:g} s"
            raise EnvironmentLost(what, env=self.name) from error
        except (EOFError, OSError) as error:
            raise self._died(error) from error

    def _died(self, error: Exception) -> EnvironmentLost:
        process, self._process = self._process, None
        how = str(error) or type(error).__name__
        if process is not None:
            process.close(timeout=1.0)
            how = f"exit code {process.exit_code}"
        return EnvironmentLost(f"the process of {self.name} died ({how})", env=self.name)

    def _signals_of(self, info: dict[str, Any]) -> dict[str, Any]:
        if _ERROR in info:
            raise info[_ERROR][0]
        return {name: float(info[name][0]) for name in self._signals}


class _Process(AsyncVectorEnv):
    """A vector environment of one, which can be ended whatever state it is in."""

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], context: StartMethod) -> None:
        # What each environment process needs is imported once, not by each of them.
        multiprocessing.set_forkserver_preload([__name__])
        super().__init__([make], context=context, autoreset_mode=AutoresetMode.DISABLED)

    @property
    def exit_code(self) -> int | None:
        """Of the ended process; -9 where it was killed."""
        return self.processes[0].exitcode

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask the process to close, and kill it where it has not after so many seconds."""
        (process,), (pipe,) = self.processes, self.parent_pipes
        with suppress(OSError):
            pipe.send(("close", None))
        process.join(0.0 if terminate else timeout)
        process.kill()
        process.join()
        pipe.close()


class _Inside(gymnasium.Env[Observation, Any]):
    """The environment as its process sees it: started when told to, raising nothing."""

    def __init__(self, adapter: EnvAdapter, seed: int) -> None:
        self._adapter, self._seed, self._spec = adapter, seed, adapter.spec()
        self.observation_space: spaces.Space[Any] = observation_space(self._spec)
        self.action_space = action_space(self._spec.action)
        self._edge = Edge(self._spec, adapter.name)
        self._env: gymnasium.Env[Any, Any] | None = None
        self._length = 0

    def start(self) -> EnvFault | None:
        """Make the environment; return what went wrong."""
        # Ctrl-C reaches all processes of a terminal; the first one decides what comes of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # NumPy's global state comes from the fork server, the same for all environments.
        np.random.seed(self._seed)  # noqa: NPY002 - simulators may use it
        try:
            self._env = make_env(self._adapter, self._seed)
        except Exception as error:  # noqa: BLE001 - goes on in the other process
            return EnvFault(error)
        return None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        assert self._env is not None
        try:
            observation, info = self._env.reset(seed=seed)
            self._length = 0
            return self._edge.observation(observation, 0), self._signals(info)
        except Exception as error:  # noqa: BLE001 - goes on in the other process
            return self._nothing(), {_ERROR: EnvFault(error)}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        assert self._env is not None
        command = int(action) if self._spec.action.kind == "discrete" else action
        try:
            observation, reward, terminated, truncated, info = self._env.step(command)
            self._length += 1
            reward = self._edge.reward(reward, self._length)
            observation = self._edge.observation(observation, self._length)
            return observation, reward, bool(terminated), bool(truncated), self._signals(info)
        except Exception as error:  # noqa: BLE001 - goes on in the other process
            return self._nothing(), 0.0, False, True, {_ERROR: EnvFault(error)}

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _signals(self, info: dict[str, Any]) -> dict[str, Any]:
        return {name: float(info[name]) for name in self._spec.signals}

    def _nothing(self) -> Observation:
        arrays = self._spec.observations.items()
        return {key: np.zeros(array.shape, array.dtype) for key, array in arrays}


def _only(observation: Any) -> Observation:
    """Take the batch of one apart."""
    return {key: value[0] for key, value in observation.items()}
