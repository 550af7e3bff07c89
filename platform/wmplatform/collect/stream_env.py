"""One stream of episodes, each with a seed of its own, of which the running one can be replayed.

This file imports no torch: environment workers stay small.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypedDict, TypeVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from wmplatform.collect.faults import (
    FaultBudget,
    FaultBudgetSpent,
    FaultReport,
    describe_error,
    make_env,
    recoverable,
)
from wmplatform.collect.isolated import IsolatedEnv
from wmplatform.edge import Edge
from wmplatform.interfaces.env_adapter import EnvAdapter

__all__ = ["IS_INIT", "LOST", "SPENT", "Outcome", "Snapshot", "StreamEnv", "episode_seed"]

Arrays: TypeAlias = dict[str, NDArray[Any]]
_T = TypeVar("_T")

IS_INIT = "is_init"
"""Key of the flag that marks the first observation of an episode."""
LOST = 1
"""The environment failed: there was no arrival, and the episode is truncated."""
SPENT = 2
"""The environment had failed for good before: nothing was played."""


class Snapshot(TypedDict):
    """Where a stream stands."""

    episode: int
    """Number of the running episode; -1 before the first."""
    actions: NDArray[np.float32]
    """What was done in it so far, `[steps, A]`."""
    observation: Arrays
    """What was seen last; empty where the next episode is to begin."""
    agent_steps: int
    """Taken in this stream, all episodes together."""
    faults: list[int]
    """At which of them faults came, those that still count."""


def episode_seed(run_seed: int, stream: int, episode: int) -> int:
    """Derive the seed of one episode, in 0 .. 2^31 - 1."""
    sequence = np.random.SeedSequence([run_seed, stream, episode])
    return int(sequence.generate_state(1)[0] >> 1)


class Outcome(NamedTuple):
    """What one step of a stream came to, beside what was seen."""

    reward: float
    terminated: bool
    truncated: bool
    fault: int = 0
    """`LOST` or `SPENT` where there was no such step."""


class StreamEnv:
    """Plays one episode after the other; the simulator starts at the first reset.

    What is seen lies in `last`: the adapter's observations, its signals as float32 `[1]`, and
    `is_init` uint8 `[1]`. Actions are float32 `[A]`; one-hot where the adapter's are discrete.

    An environment that fails is closed and noted in `reports`. A step that failed is lost: it is
    truncated, and `last` stays. The next reset makes another environment and starts the next
    episode, which has another seed; a reset that failed is tried again in the same way. Once the
    budget is spent, `spent` says so, `last` is blank, and every step is lost.

    Args:
        adapter: makes the environment.
        run_seed: with stream and episode, gives each episode's seed.
        stream: number of this stream.
        first_episode: number of the first episode.
        budget: faults that are put up with; errors are raised unless given.
    """

    def __init__(
        self,
        adapter: EnvAdapter,
        run_seed: int,
        stream: int,
        first_episode: int = 0,
        budget: FaultBudget | None = None,
    ) -> None:
        self.spec = adapter.spec()
        self.run_seed = run_seed
        self.reports: list[FaultReport] = []
        """Faults, in order; whoever reads them may clear the list."""
        self.spent: FaultBudgetSpent | None = None
        """What ends the run, once the environment has failed too often."""
        self.last: Arrays = {}
        """What was seen last."""
        self.resume: Snapshot | None = None
        """What the next reset goes on from."""
        self._stream = stream
        self._adapter = adapter
        self._edge = Edge(self.spec, adapter.name)
        self._budget = budget
        self._env: gymnasium.Env[Any, Any] | None = None
        self._made = False
        self._episode = first_episode - 1
        self._actions: list[NDArray[np.float32]] = []
        self._action: NDArray[np.float32] = np.zeros(self.spec.action.size, np.float32)
        self._length = self._agent_steps = 0

    def snapshot(self) -> Snapshot:
        """Describe where the stream stands."""
        size = self.spec.action.size
        return {
            "episode": self._episode,
            "actions": np.asarray(self._actions, np.float32).reshape(-1, size),
            "observation": {} if self.spent else dict(self.last),
            "agent_steps": self._agent_steps,
            "faults": list(self._budget.noted) if self._budget else [],
        }

    def reset(self) -> int:
        """Start the next episode, or go on with the one of `resume`.

        Where that does not look as it did before, or the environment is not deterministic, the next
        episode starts instead; `is_init` tells.

        Returns:
            How many environments failed at it.
        """
        before = len(self.reports)
        if not self._took_over():
            while self.spent is None and not self._guarded(self._next):
                pass
        if self.spent is not None:
            self.last = self._blank()
        return len(self.reports) - before

    def send(self, action: NDArray[np.float32]) -> None:
        """Begin a step; an environment in a process of its own plays it meanwhile."""
        self._action = np.array(action, np.float32)
        if isinstance(self._env, IsolatedEnv):
            self._env.step_async(self._command())

    def receive(self) -> Outcome:
        """End a step that `send` began."""
        if self.spent is not None:
            return Outcome(0.0, False, False, SPENT)
        outcome = self._guarded(self._play)
        if outcome is None:
            return Outcome(0.0, False, True, LOST)
        self._agent_steps += 1
        return outcome

    def close(self) -> None:
        """Close the simulator, if it was started."""
        if self._env is not None:
            self._env.close()

    def _took_over(self) -> bool:
        """Go on with the episode of `resume`; return whether that was possible."""
        snapshot, self.resume = self.resume, None
        if snapshot is None:
            return False
        self._episode, self._agent_steps = snapshot["episode"], snapshot["agent_steps"]
        if self._budget is not None:
            self._budget.noted = list(snapshot["faults"])
        if not snapshot["observation"] or not self.spec.deterministic:
            return False
        return bool(self._guarded(partial(self._replay, snapshot)))

    def _replay(self, snapshot: Snapshot) -> bool:
        """Play an episode again up to where it was; return whether it looks the same."""
        self._begin()
        for action in snapshot["actions"]:
            self.send(action)
            outcome = self._play()
            if outcome.terminated or outcome.truncated:
                return False
        return all(
            np.array_equal(self.last[key], value) for key, value in snapshot["observation"].items()
        )

    def _next(self) -> bool:
        """Start the next episode."""
        self._episode += 1
        self._begin()
        return True

    def _begin(self) -> None:
        seed = episode_seed(self.run_seed, self._stream, self._episode)
        self._actions, self._length = [], 0
        if self._env is None:
            self._env = make_env(self._adapter, seed)
            self._made = True
        observation, info = self._env.reset(seed=seed)
        self.last = self._gather(self._edge.observation(observation, 0), info, is_init=True)

    def _play(self) -> Outcome:
        """Play what `send` took."""
        env = self._env
        assert env is not None, "reset comes first"
        played = env.step_wait() if isinstance(env, IsolatedEnv) else env.step(self._command())
        observation, reward, terminated, truncated, info = played
        number = self._length + 1
        reward = self._edge.reward(reward, number)
        observation = self._edge.observation(observation, number)
        self.last = self._gather(observation, info, is_init=False)
        self._length = number
        if self.spec.deterministic:
            self._actions.append(self._action)
        return Outcome(reward, bool(terminated), bool(truncated))

    def _guarded(self, play: Callable[[], _T]) -> _T | None:
        """Play; None where the environment failed, which is closed and noted then.

        Raises:
            Exception: as the environment says, where another one would not do better.
        """
        try:
            return play()
        except Exception as error:
            played = self._agent_steps > 0
            if self._budget is None or not recoverable(error, made=self._made, played=played):
                raise
            self._give_up(self._budget, error)
            return None

    def _give_up(self, budget: FaultBudget, error: Exception) -> None:
        report = FaultReport(
            self._adapter.name,
            f"stream {self._stream}",
            episode_seed(self.run_seed, self._stream, self._episode),
            self._length,
            describe_error(error),
        )
        self.reports.append(report)
        self.spent = budget.spend(report, self._agent_steps)
        env, self._env = self._env, None
        if env is not None:
            with suppress(Exception):  # what is broken may not even close
                env.close()

    def _command(self) -> Any:
        discrete = self.spec.action.kind == "discrete"
        return int(self._action.argmax()) if discrete else self._action

    def _gather(self, observation: Arrays, info: dict[str, Any], *, is_init: bool) -> Arrays:
        signals = {name: np.array([info[name]], np.float32) for name in self.spec.signals}
        return {**observation, **signals, IS_INIT: np.array([is_init], np.uint8)}

    def _blank(self) -> Arrays:
        """What is shown once nothing can be seen any more."""
        arrays = self.spec.observations.items()
        blank = {key: np.zeros(array.shape, array.dtype) for key, array in arrays}
        return self._gather(blank, dict.fromkeys(self.spec.signals, 0.0), is_init=False)
