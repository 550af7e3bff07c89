"""One stream of episodes, each with a seed of its own, of which the running one can be replayed.

This file imports no torch: environment workers stay small.
"""

from typing import Any, TypeAlias, TypedDict

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from wmplatform.envs import observation_space
from wmplatform.errors import PlatformError
from wmplatform.interfaces.env_adapter import EnvAdapter, EnvSpec

__all__ = ["IS_INIT", "EnvFault", "Snapshot", "StreamEnv", "WorkerEnv", "episode_seed"]

Arrays: TypeAlias = dict[str, NDArray[Any]]

IS_INIT = "is_init"
"""Key of the flag that marks the first observation of an episode."""


class EnvFault(PlatformError):
    """An environment in another process failed; reads like the error that it had there.

    Args:
        error: that error, or its text.
    """

    def __init__(self, error: object) -> None:
        super().__init__(str(error))
        self.exit_code = getattr(error, "exit_code", self.exit_code)

    def __str__(self) -> str:
        return self.what


class Snapshot(TypedDict):
    """Where a stream stands."""

    episode: int
    """Number of the running episode; -1 before the first."""
    actions: NDArray[np.float32]
    """What was done in it so far, `[steps, A]`."""
    observation: Arrays
    """What was seen last."""


def episode_seed(run_seed: int, stream: int, episode: int) -> int:
    """Derive the seed of one episode, in 0 .. 2^31 - 1."""
    sequence = np.random.SeedSequence([run_seed, stream, episode])
    return int(sequence.generate_state(1)[0] >> 1)


class StreamEnv(gymnasium.Env[Arrays, NDArray[np.float32]]):
    """Plays one episode after the other; the simulator starts at the first reset.

    Observations hold the adapter's, its signals as float32 `[1]`, and `is_init` uint8 `[1]`, so
    that all of it goes through shared memory. Actions are float32 `[A]`; one-hot where the
    adapter's are discrete.

    Args:
        adapter: makes the environment.
        run_seed: with stream and episode, gives each episode's seed.
        stream: number of this stream.
        first_episode: number of the first episode.
    """

    def __init__(
        self, adapter: EnvAdapter, run_seed: int, stream: int, first_episode: int = 0
    ) -> None:
        self.spec_of_env = adapter.spec()
        self.observation_space: spaces.Space[Any] = _space(self.spec_of_env)
        size = self.spec_of_env.action.size
        self.action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.run_seed = run_seed
        self._stream = stream
        self._adapter = adapter
        self._env: gymnasium.Env[Any, Any] | None = None
        self._episode = first_episode - 1
        self._actions: list[NDArray[np.float32]] = []
        self._last: Arrays = {}
        self._resume: Snapshot | None = None

    @property
    def resume(self) -> Snapshot | None:
        """What the next reset goes on from; a property so that vector environments can set it."""
        return self._resume

    @resume.setter
    def resume(self, snapshot: Snapshot | None) -> None:
        self._resume = snapshot

    def snapshot(self) -> Snapshot:
        """Describe where the stream stands."""
        size = self.spec_of_env.action.size
        actions = np.asarray(self._actions, np.float32).reshape(-1, size)
        return {"episode": self._episode, "actions": actions, "observation": dict(self._last)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start the next episode, or go on with the one of `resume`.

        Where that does not look as it did before, or the environment is not deterministic, the next
        episode starts instead; `is_init` tells.
        """
        snapshot, self._resume = self._resume, None
        if snapshot is not None:
            self._episode = snapshot["episode"]
            if self._episode >= 0 and self.spec_of_env.deterministic and self._replay(snapshot):
                return dict(self._last), {}
        self._episode += 1
        return dict(self._begin()), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take one agent step."""
        assert self._env is not None, "reset comes first"
        action = np.array(action, np.float32)
        observation, reward, terminated, truncated, info = self._env.step(self._command(action))
        if self.spec_of_env.deterministic:
            self._actions.append(action)
        self._last = self._gather(observation, info, is_init=False)
        return dict(self._last), float(reward), bool(terminated), bool(truncated), {}

    def close(self) -> None:
        """Close the simulator, if it was started."""
        if self._env is not None:
            self._env.close()

    def _begin(self) -> Arrays:
        seed = episode_seed(self.run_seed, self._stream, self._episode)
        if self._env is None:
            self._env = self._adapter.make(seed)
        observation, info = self._env.reset(seed=seed)
        self._actions = []
        self._last = self._gather(observation, info, is_init=True)
        return self._last

    def _replay(self, snapshot: Snapshot) -> bool:
        """Play an episode again up to where it was; return whether it looks the same."""
        self._begin()
        for action in snapshot["actions"]:
            _, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                return False
        return all(
            np.array_equal(self._last[key], value) for key, value in snapshot["observation"].items()
        )

    def _command(self, action: NDArray[np.float32]) -> Any:
        return int(action.argmax()) if self.spec_of_env.action.kind == "discrete" else action

    def _gather(self, observation: Arrays, info: dict[str, Any], *, is_init: bool) -> Arrays:
        signals = {name: np.array([info[name]], np.float32) for name in self.spec_of_env.signals}
        return {**observation, **signals, IS_INIT: np.array([is_init], np.uint8)}


class WorkerEnv(StreamEnv):
    """A `StreamEnv` whose errors survive the way to another process."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Start the next episode; see `StreamEnv.reset`."""
        try:
            return super().reset(seed=seed, options=options)
        except PlatformError as error:
            raise EnvFault(error) from error

    def step(self, action: NDArray[np.float32]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Take one agent step; see `StreamEnv.step`."""
        try:
            return super().step(action)
        except PlatformError as error:
            raise EnvFault(error) from error


def _space(spec: EnvSpec) -> spaces.Dict:
    signals = {name: spaces.Box(-np.inf, np.inf, (1,), np.float32) for name in spec.signals}
    flag = spaces.Box(0, 1, (1,), np.uint8)
    return spaces.Dict({**observation_space(spec).spaces, **signals, IS_INIT: flag})
