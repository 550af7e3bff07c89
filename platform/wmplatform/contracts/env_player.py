"""Plays environments for the laws of `EnvAdapter`. This file imports no torch."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np
from numpy.typing import NDArray

from wmplatform.contracts.violation import ContractViolation
from wmplatform.edge import LARGEST_REWARD, described
from wmplatform.envs import SimulatorFault
from wmplatform.interfaces.env_adapter import EnvAdapter

__all__ = ["Moment", "Player", "require"]


@contextlib.contextmanager
def _edge() -> Iterator[None]:
    """What `PlatformEnv` refuses of its simulator breaks laws 3 and 8."""
    try:
        yield
    except SimulatorFault as fault:
        if not fault.key:
            raise
        law = 3 if fault.key == "reward" else 8
        raise ContractViolation("EnvAdapter", law, fault.what) from fault


def require(condition: bool, law: int, what: str) -> None:
    if not condition:
        raise ContractViolation("EnvAdapter", law, what)


@dataclass(frozen=True)
class Moment:
    """What one reset or step gave, copied."""

    observation: dict[str, NDArray[Any]]
    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    def difference(self, other: "Moment") -> str:
        """Name what differs; empty where nothing does."""
        for key, value in self.observation.items():
            if not np.array_equal(value, other.observation[key]):
                return key
        for name in ("reward", "terminated", "truncated", "info"):
            if getattr(self, name) != getattr(other, name):
                return name
        return ""


class Player:
    """Plays one environment, checks everything that it gives (laws 2, 3, 8) and remembers it."""

    def __init__(self, adapter: EnvAdapter, seed: int) -> None:
        self.spec = adapter.spec()
        self.env: gymnasium.Env[Any, Any] = adapter.make(seed)
        self.episode: list[Moment] = []
        self._given: list[tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.env.close()

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode."""
        with _edge():
            observation, info = self.env.reset(seed=seed)
        self.episode = []
        self._remember(Moment(self._checked(observation), self._checked_info(info)))

    def step(self, action: Any) -> None:
        """Take an agent step."""
        with _edge():
            result: tuple[Any, ...] = self.env.step(action)
        observation, reward, terminated, truncated, info = result
        where = f"at agent step {len(self.episode)}"
        finite = type(reward) is float and abs(reward) <= LARGEST_REWARD
        what = f"reward {where} is {reward!r}, not a Python float that is finite as float32"
        require(finite, 3, what)
        booleans = isinstance(terminated, bool | np.bool_) and isinstance(
            truncated, bool | np.bool_
        )
        require(booleans, 3, f"terminated and truncated {where} are not booleans")
        both = bool(terminated) and bool(truncated)
        require(not both, 3, f"terminated and truncated are both true {where}")
        arrays, signals = self._checked(observation), self._checked_info(info)
        self._remember(Moment(arrays, signals, reward, bool(terminated), bool(truncated)))

    def play(self, actions: Sequence[Any]) -> list[Moment]:
        """Step until the episode or the actions end; return the episode so far."""
        for action in actions:
            if self.episode[-1].over:
                break
            self.step(action)
        self.check_memory()
        return self.episode

    def check_memory(self) -> None:
        """Law 2: what was given earlier has not changed and shares nothing."""
        for arrays, copies in self._given:
            for key, array in arrays.items():
                unchanged = np.array_equal(array, copies[key])
                require(unchanged, 2, f"{key} was changed by a later reset or step")
        for (earlier, _), (later, _) in itertools.pairwise(self._given):
            for key in earlier:
                shared = np.shares_memory(earlier[key], later[key])
                require(not shared, 2, f"{key} shares memory with the one before it")

    def _remember(self, moment: Moment) -> None:
        self.episode.append(moment)

    def _checked(self, observation: Any) -> dict[str, NDArray[Any]]:
        keys = set(observation) if isinstance(observation, dict) else type(observation).__name__
        expected = set(self.spec.observations)
        require(keys == expected, 8, f"observations are {keys}, spec() declares {expected}")
        for key, declared in self.spec.observations.items():
            array = observation[key]
            require(isinstance(array, np.ndarray), 8, f"{key} is no array: {array!r}")
            same = (array.dtype, array.shape) == (declared.dtype, declared.shape)
            wanted = f"{declared.dtype} {declared.shape}"
            require(same, 8, f"{key} is {described(array)}, spec() declares {wanted}")
            require(array.flags.c_contiguous, 2, f"{key} is not contiguous")
        copies = {key: np.array(array) for key, array in observation.items()}
        self._given.append((dict(observation), copies))
        return copies

    def _checked_info(self, info: dict[str, Any]) -> dict[str, Any]:
        where = "reset" if not self.episode else f"agent step {len(self.episode)}"
        for name in self.spec.signals:
            require(name in info, 8, f"info has no {name!r} at {where}")
            what = f"signal {name!r} at {where} is {info[name]!r}, not a float"
            require(isinstance(info[name], float), 8, what)
        return {name: info[name] for name in self.spec.signals}
