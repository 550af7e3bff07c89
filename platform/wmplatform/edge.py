"""The edge between environments and everything else. This file imports no torch."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wmplatform.env_errors import EnvError, Misdeclared, SimulatorFault
from wmplatform.interfaces.env_adapter import EnvSpec

__all__ = ["LARGEST_REWARD", "Edge", "Observation", "described", "rounds_or_widens"]

Observation: TypeAlias = dict[str, NDArray[Any]]

LARGEST_REWARD = float(np.finfo(np.float32).max)
"""Records hold rewards as float32; what is larger would be infinite there."""


class Edge:
    """Where what an environment gives comes in: nothing that is not declared gets past it.

    Floats are rounded to the declared float dtype and integers widened; nothing else is cast.
    Pictures of 0..1 would be black as uint8.

    Args:
        spec: what the adapter declares.
        name: of the environment, for messages.
    """

    def __init__(self, spec: EnvSpec, name: str) -> None:
        self.name = name
        arrays = spec.observations.items()
        self._declared = [(key, each.shape, np.dtype(each.dtype)) for key, each in arrays]

    def observation(self, given: object, agent_step: int, *, copy: bool = False) -> Observation:
        """Return the declared arrays, contiguous.

        Args:
            given: what the environment gave.
            agent_step: within the episode; 0 is the reset.
            copy: give each array memory of its own.

        Raises:
            Misdeclared: an array is missing, or has another shape or dtype.
            SimulatorFault: a float array is not finite.
        """
        if type(given) is not dict and not isinstance(given, Mapping):
            what = f"is a {type(given).__name__}, not a dict of arrays"
            raise self._error(Misdeclared, "observation", what, agent_step)
        found = {}
        for key, shape, dtype in self._declared:
            array: Any = given.get(key)
            if not (type(array) is np.ndarray and array.dtype == dtype and array.shape == shape):
                array = self._cast(key, array, shape, dtype, agent_step)
            if dtype.kind == "f" and not np.isfinite(array).all():
                raise self._error(SimulatorFault, key, "is not finite", agent_step)
            found[key] = np.array(array, order="C", copy=copy or None)
        return found

    def reward(self, given: object, agent_step: int) -> float:
        """Return a reward as a float.

        Args:
            given: a number, or an array of shape `()`.
            agent_step: within the episode.

        Raises:
            Misdeclared: it is no number.
            SimulatorFault: it is not finite, or would not be as float32, which records hold.
        """
        reward = given if type(given) is float else self._number(given, agent_step)
        if not -LARGEST_REWARD <= reward <= LARGEST_REWARD:
            what, hint = f"is {reward}", ""
            if np.isfinite(reward):
                what += ", infinite as the float32 that records hold"
                hint = "scale rewards in the adapter"
            raise self._error(SimulatorFault, "reward", what, agent_step, hint)
        return reward

    def _cast(
        self, key: str, given: object, shape: tuple[int, ...], dtype: np.dtype[Any], agent_step: int
    ) -> NDArray[Any]:
        if not isinstance(given, np.ndarray):
            what = "is missing" if given is None else f"is a {type(given).__name__}, not an array"
            raise self._error(Misdeclared, key, what, agent_step)
        if given.shape != shape or not rounds_or_widens(given.dtype, dtype):
            what = f"is {described(given)} instead of {dtype} {shape}"
            raise self._error(Misdeclared, key, what, agent_step)
        with np.errstate(over="ignore"):  # what is infinite then is refused
            return given.astype(dtype)

    def _number(self, given: object, agent_step: int) -> float:
        if isinstance(given, np.ndarray) and given.shape == ():
            given = given[()]
        if isinstance(given, float | int | np.floating | np.integer) and type(given) is not bool:
            return float(given)
        what = f"is {given!r}, not a number"
        if isinstance(given, np.ndarray):
            what = f"is {described(given)}, not one number"
        raise self._error(Misdeclared, "reward", what, agent_step, _REWARD)

    def _error(
        self, kind: type[EnvError], key: str, what: str, agent_step: int, hint: str = ""
    ) -> EnvError:
        when = f"after agent step {agent_step}" if agent_step else "at the reset"
        message = f"{self.name}: {key} {when} {what}"
        return kind(message, env=self.name, key=key, agent_step=agent_step, hint=hint)


_REWARD = "a step's reward is one finite number, such as a float"


def rounds_or_widens(given: np.dtype[Any], declared: np.dtype[Any]) -> bool:
    """Whether an array may be taken for the declared one: floats are rounded, integers widened."""
    if given == declared or given.kind == declared.kind == "f":
        return True
    return given.kind in "iu" and declared.kind in "iu" and np.can_cast(given, declared, "safe")


def described(array: NDArray[Any]) -> str:
    """Write an array's dtype, shape and range of values, which tell what it is meant to be."""
    text = f"{array.dtype} {array.shape}"
    if array.size and array.dtype.kind in "biuf":
        text += f" with values from {float(array.min()):g} to {float(array.max()):g}"
    return text
