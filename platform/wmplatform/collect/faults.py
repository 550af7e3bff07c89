"""What goes wrong with environments, and how much of it a run puts up with.

This file imports no torch: environment workers stay small.
"""

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.envs import SimulatorFault
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.interfaces.env_adapter import EnvSpec

__all__ = [
    "CollectionStopped",
    "CollectorLost",
    "EnvFault",
    "FaultBudget",
    "FaultBudgetSpent",
    "FaultReport",
    "describe_error",
    "recoverable",
    "refuse_unfit",
]


class EnvFault(PlatformError):
    """An environment in another process failed; reads like the error that it had there.

    Args:
        error: that error, or its text.
    """

    def __init__(self, error: object) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.exit_code = getattr(error, "exit_code", self.exit_code)
        self.restart_helps: bool | None = getattr(error, "restart_helps", None)
        """As the error says; None where it does not say."""
        self.line = _in_one_line(error) if isinstance(error, Exception) else self.what
        """The error in one line."""

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class FaultReport:
    """An environment that failed, and was closed."""

    name: str
    """Readable name of the environment."""
    place: str
    """Which of them, e.g. `stream 3` or `evaluation`."""
    seed: int
    """Of its episode."""
    agent_step: int
    """Steps that its episode had; 0 where the reset failed too."""
    what: str
    """What it raised, in one line."""

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.place}: the episode of seed {self.seed} was given up after agent "
            f"step {self.agent_step}: {self.what}"
        )


class CollectionStopped(PlatformError):
    """Environments cannot be played any more; what was collected can be saved and gone on from."""

    exit_code = ExitCode.ENVIRONMENT


class CollectorLost(CollectionStopped):
    """The process of a collector died, or raised an error of its own."""


class FaultBudgetSpent(CollectionStopped):
    """An environment failed more often than a run puts up with.

    Args:
        report: of the last fault.
        limit: faults that were allowed.
        window: agent steps that they are counted in.
    """

    def __init__(self, report: FaultReport, limit: int, window: int) -> None:
        self.report, self.limit, self.window = report, limit, window
        super().__init__(
            f"an environment failed more than {limit} times within {window} agent steps",
            where=str(report),
            hint="the run is saved: mend the cause, and the same command goes on; "
            "Collection.fault_budget and Collection.fault_window say how much is put up with",
        )


class FaultBudget:
    """Counts the faults of one environment within the last agent steps.

    Args:
        limit: faults that are put up with.
        window: agent steps that they are counted in.
    """

    def __init__(self, limit: int, window: int) -> None:
        self.limit, self.window = limit, window
        self.noted: list[int] = []
        """Agent steps at which the faults came."""

    def spend(self, report: FaultReport, agent_steps: int) -> FaultBudgetSpent | None:
        """Count a fault.

        Returns:
            What ends the run, if this was one too many; the run that goes on after it has a full
            budget again.
        """
        recent = [at for at in self.noted if agent_steps - at < self.window]
        self.noted = [*recent, agent_steps]
        if len(self.noted) <= self.limit:
            return None
        self.noted = []
        return FaultBudgetSpent(report, self.limit, self.window)


def recoverable(error: Exception, *, made: bool) -> bool:
    """Whether another environment may do better than the one that raised.

    Args:
        error: what it raised. It may say so itself, by an attribute `restart_helps`.
        made: whether an environment of this adapter could be made before. What cannot even be
            made the first time is a mistake to be mended, and no accident.
    """
    helps: bool | None = getattr(error, "restart_helps", None)
    return made if helps is None else helps


def describe_error(error: Exception) -> str:
    """Write an error in one line; one without an explanation also says where it was raised."""
    if isinstance(error, EnvFault):
        return error.line
    return _in_one_line(error)


def refuse_unfit(
    spec: EnvSpec, observation: Mapping[str, NDArray[Any]], reward: float = 0.0
) -> None:
    """Look at what no record may hold; cheap enough for every step.

    Raises:
        SimulatorFault: the reward or a float observation is not finite, or an observation is
            missing or has another shape or dtype than declared.
    """
    if not math.isfinite(reward):
        raise SimulatorFault(f"the reward is {reward}", key="reward")
    for key, declared in spec.observations.items():
        value = observation.get(key)
        if value is None:
            raise SimulatorFault(f"{key} is missing", key=key)
        if value.shape != declared.shape or value.dtype != declared.dtype:
            raise SimulatorFault(
                f"{key} is {value.dtype} {value.shape} instead of "
                f"{declared.dtype} {declared.shape}",
                key=key,
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise SimulatorFault(f"{key} is not finite", key=key)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, PlatformError):
        return f"{type(error).__name__}: {error.what}"
    first = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text
