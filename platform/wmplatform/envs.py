"""What every environment has in common, so that an adapter writes only its simulator.

An adapter author subclasses `Simulator` (reset, advance one frame, observe, close) and returns
`PlatformEnv(simulator, spec, name=..., seed=...)` from `EnvAdapter.make`. The rest of the contract
lives here once: action checks, repeat, time limit, the end of an episode, copies, dtypes.

This file imports no torch: environment workers stay small.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from wmplatform.edge import Edge, Observation
from wmplatform.env_errors import (
    BadAction,
    CannotStart,
    EnvError,
    EnvironmentLost,
    EpisodeOver,
    Misdeclared,
    MissingSimulator,
    SimulatorFault,
    UnknownTask,
)
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.sums import REDUCTIONS, plain_sum

__all__ = [
    "BadAction",
    "CannotStart",
    "EnvError",
    "EnvironmentLost",
    "EpisodeOver",
    "Frame",
    "Misdeclared",
    "MissingSimulator",
    "PlatformEnv",
    "Simulator",
    "SimulatorFault",
    "UnknownTask",
    "action_space",
    "from_unit",
    "integers_from_unit",
    "observation_space",
]


@dataclass(frozen=True, slots=True)
class Frame:
    """What one environment frame brought, pictures aside."""

    reward: float
    terminated: bool = False
    """The task itself ended the episode."""
    truncated: bool = False
    """The simulator gave up, or its own time limit (in environment frames) was reached."""
    signals: Mapping[str, float] = field(default_factory=dict)


class Simulator(ABC):
    """One running simulator, without anything that environments have in common."""

    @abstractmethod
    def reset(self, seed: int | None) -> Mapping[str, float]:
        """Start an episode and return its signals.

        Args:
            seed: reseeds all randomness; None goes on with the present generator.
        """

    @abstractmethod
    def advance(self, action: Any) -> Frame:
        """Simulate one environment frame without rendering it.

        Args:
            action: float32 `[A]` in [-1, 1], or an int where actions are discrete.
        """

    @abstractmethod
    def observe(self) -> Mapping[str, NDArray[Any]]:
        """Render the present state; the caller copies, so buffers may be reused."""

    def close(self) -> None:  # noqa: B027 - optional: many simulators hold nothing
        """Free what the simulator holds; called once."""


class PlatformEnv(gymnasium.Env[Observation, Any]):
    """A gymnasium environment that keeps the laws of `EnvAdapter` for any `Simulator`.

    Args:
        simulator: the running simulator; this environment owns and closes it.
        spec: what the adapter declares.
        name: readable name for messages, e.g. `metaworld/reach`.
        seed: seeds the first `reset()` that is not given a seed.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it so

    def __init__(self, simulator: Simulator, spec: EnvSpec, *, name: str, seed: int) -> None:
        self.observation_space: spaces.Space[Any] = observation_space(spec)
        self.action_space: spaces.Space[Any] = action_space(spec.action)
        self.name = name
        self.agent_steps = 0
        """Agent steps taken in this episode."""
        self._simulator = simulator
        self._spec = spec
        self._edge = Edge(spec, name)
        self._next_seed: int | None = seed
        self._closed = False
        self._no_episode = "was stepped before its first reset"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `options` are ignored.

        Raises:
            EpisodeOver: the environment is closed.
            SimulatorFault: the first observation is not finite, or not as declared.
        """
        if self._closed:
            raise EpisodeOver(f"{self.name} is closed", env=self.name)
        seed = self._next_seed if seed is None else seed
        super().reset(seed=seed)
        self._no_episode = "failed during its last reset"
        self.agent_steps = 0
        signals = self._simulator.reset(seed)
        self._next_seed = None
        observation = self._observe()
        self._no_episode = ""
        return observation, self._info([signals])

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one agent step: `action_repeat` environment frames, of which the last is rendered.

        Raises:
            EpisodeOver: the episode has ended, or none was started.
            BadAction: the action is not finite or has the wrong shape; nothing was simulated.
            SimulatorFault: a reward or an observation is not finite, or not as declared.
        """
        if self._no_episode:
            raise EpisodeOver(f"{self.name} {self._no_episode}", env=self.name)
        command = self._checked(action)
        self._no_episode = "failed during its last step"
        self.agent_steps += 1
        frames = self._play(command)
        reward = self._reward(frames)
        terminated = bool(frames[-1].terminated)
        truncated = not terminated and (bool(frames[-1].truncated) or self._out_of_time())
        observation = self._observe()
        over = terminated or truncated
        self._no_episode = f"ended after agent step {self.agent_steps}" if over else ""
        info = self._info([frame.signals for frame in frames])
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the simulator; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._no_episode = "is closed"
            self._simulator.close()

    def _play(self, command: Any) -> list[Frame]:
        """Repeat an action until it is done or the episode is."""
        frames: list[Frame] = []
        for _ in range(self._spec.action_repeat):
            frames.append(self._simulator.advance(command))
            if frames[-1].terminated or frames[-1].truncated:
                break
        return frames

    def _reward(self, frames: list[Frame]) -> float:
        admit, number = self._edge.reward, self.agent_steps
        return admit(plain_sum(admit(frame.reward, number) for frame in frames), number)

    def _out_of_time(self) -> bool:
        limit = self._spec.time_limit
        return limit is not None and self.agent_steps >= limit

    def _checked(self, action: Any) -> Any:
        if self._spec.action.kind == "discrete":
            return self._checked_index(action)
        try:
            value = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError):
            raise self._bad_action(f"is not an array of numbers: {action!r}") from None
        if value.shape != (self._spec.action.size,):
            expected = (self._spec.action.size,)
            raise self._bad_action(f"has shape {value.shape} instead of {expected}")
        if not np.isfinite(value).all():
            raise self._bad_action(f"is not finite: {value.tolist()}")
        return value.clip(-1.0, 1.0).astype(np.float32)

    def _checked_index(self, action: Any) -> int:
        value = np.asarray(action)
        if value.shape != () or value.dtype.kind not in "iu":
            raise self._bad_action(f"is not an integer index: {action!r}")
        if not 0 <= value < self._spec.action.size:
            raise self._bad_action(f"is {value}, not in 0..{self._spec.action.size - 1}")
        return int(value)

    def _bad_action(self, what: str) -> BadAction:
        number = self.agent_steps + 1
        message = f"{self.name}: action of agent step {number} {what}"
        return BadAction(message, env=self.name, key="action", agent_step=number)

    def _observe(self) -> Observation:
        return self._edge.observation(self._simulator.observe(), self.agent_steps, copy=True)

    def _info(self, frames: list[Mapping[str, float]]) -> dict[str, Any]:
        """Sum the signals of one agent step's frames up, each by its own rule."""
        return {
            name: REDUCTIONS[rule]([float(signals[name]) for signals in frames])
            for name, rule in self._spec.signals.items()
        }


def observation_space(spec: EnvSpec) -> spaces.Dict:
    """Build the `Dict` space of declared observations; uint8 spans 0..255, floats are unbounded."""
    return spaces.Dict({key: _box(array) for key, array in spec.observations.items()})


def action_space(spec: ActionSpec) -> spaces.Space[Any]:
    """Build `Box(-1, 1, (size,), float32)`, or `Discrete(size)`."""
    if spec.kind == "discrete":
        return spaces.Discrete(spec.size)
    return spaces.Box(-1.0, 1.0, (spec.size,), np.float32)


def _box(array: ArraySpec) -> spaces.Box:
    dtype = np.dtype(array.dtype)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, array.shape, dtype.type)
    if dtype.kind == "b":
        return spaces.Box(0, 1, array.shape, dtype.type)
    limits = np.iinfo(dtype)
    return spaces.Box(limits.min, limits.max, array.shape, dtype.type)


def from_unit(
    low: NDArray[Any], high: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """Make the function that maps an action `[A]` from [-1, 1] to [low, high], entry by entry.

    Args:
        low: `[A]` lower bounds; an entry may have an infinite one.
        high: `[A]` upper bounds, likewise. With one bound, values span 2 from it on; without
            bounds, they pass through.
    """
    start = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 2.0, -1.0))
    end = np.where(np.isfinite(high), high, start + 2.0)

    def scaled(action: NDArray[Any]) -> NDArray[np.float64]:
        share = (np.asarray(action, dtype=np.float64) + 1.0) / 2.0
        # Exact at both ends, unlike start + share * (end - start), but rounded in between.
        between = start * (1.0 - share) + end * share
        return np.asarray(np.minimum(np.maximum(between, start), end))

    return scaled


def integers_from_unit(
    low: NDArray[Any], high: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[np.int64]]:
    """Make the function that maps an action `[A]` from [-1, 1] to integers, entry by entry.

    Each integer has an equal part of [-1, 1].

    Args:
        low: `[A]` smallest integers.
        high: `[A]` largest integers; fewer than 2^16 above `low`, since an action as float32 cannot
            tell more of them apart evenly.
    """
    first = low.astype(np.int64)
    last = high.astype(np.int64)
    count = last - first + 1

    def scaled(action: NDArray[Any]) -> NDArray[np.int64]:
        share = (np.asarray(action, dtype=np.float64) + 1.0) / 2.0
        part = np.floor(share * count).astype(np.int64)
        return np.asarray(np.minimum(first + part, last))

    return scaled
