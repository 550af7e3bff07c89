"""What goes wrong with environments, and how much of it a run puts up with.

This file imports no torch: environment workers stay small.
"""

import traceback
from dataclasses import dataclass
from typing import Any

import gymnasium

from wmplatform.envs import CannotStart
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.interfaces.env_adapter import EnvAdapter

__all__ = [
    "CollectionStopped",
    "CollectorLost",
    "EnvFault",
    "FaultBudget",
    "FaultBudgetSpent",
    "FaultReport",
    "describe_error",
    "make_env",
    "recoverable",
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


def make_env(adapter: EnvAdapter, seed: int) -> gymnasium.Env[Any, Any]:
    """Make an environment.

    Raises:
        CannotStart: its constructor raised something else than a `PlatformError`.
        PlatformError: as the adapter says.
    """
    try:
        return adapter.make(seed)
    except PlatformError:
        raise
    except Exception as error:
        raise CannotStart(adapter.name, _in_one_line(error)) from error


def recoverable(error: Exception, *, made: bool, played: bool) -> bool:
    """Whether another environment may do better than the one that raised.

    What never worked is a mistake to be mended, and no accident.

    Args:
        error: what it raised. It may say so itself, by an attribute `restart_helps`.
        made: whether an environment of this adapter could be made before.
        played: whether one has taken a step, be it before a resume. That much is asked for where
            the exit code of the error blames the configuration.
    """
    helps: bool | None = getattr(error, "restart_helps", None)
    if helps is not None:
        return helps
    return played if getattr(error, "exit_code", None) is ExitCode.BAD_INPUT else made


def describe_error(error: Exception) -> str:
    """Write an error in one line; one without an explanation also says where it was raised."""
    if isinstance(error, EnvFault):
        return error.line
    return _in_one_line(error)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, PlatformError):
        return f"{type(error).__name__}: {error.what}"
    first = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text
