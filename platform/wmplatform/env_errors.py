"""What goes wrong with environments, for `wmplatform.envs`. This file imports no torch."""

from wmplatform.errors import ExitCode, PlatformError

__all__ = [
    "BadAction",
    "CannotStart",
    "EnvError",
    "EnvironmentLost",
    "EpisodeOver",
    "Misdeclared",
    "MissingSimulator",
    "SimulatorFault",
    "UnknownTask",
]


class EnvError(PlatformError):
    """Base of what goes wrong while an episode is played.

    Args:
        what: what happened, in one line that names the environment.
        env: readable name of the environment.
        key: record key of the offending value; empty where there is none.
        agent_step: number of the step within the episode; 0 is the reset.
        hint: what to do; the class has a default.
    """

    default_hint = ""
    restart_helps: bool | None = False
    """Whether another environment and another episode may do better; a run then goes on. None is
    yes once an environment has been played."""
    env: str
    key: str
    agent_step: int

    # Vector environments raise a worker's error again as `type(error)(error)`.
    def __init__(
        self,
        what: "str | EnvError",
        *,
        env: str = "",
        key: str = "",
        agent_step: int = 0,
        hint: str = "",
    ) -> None:
        if isinstance(what, EnvError):
            env, key, agent_step, hint = what.env, what.key, what.agent_step, what.hint
            what = what.what
        self.env, self.key, self.agent_step = env, key, agent_step
        super().__init__(what, hint=hint or self.default_hint)


class EpisodeOver(EnvError):
    """A step where there is no episode: before a reset, after the end, after `close`."""

    default_hint = "call reset() first, on an environment that is not closed"


class BadAction(EnvError):
    """An action that the environment cannot take: not finite, of the wrong shape, out of range."""

    default_hint = "a value that is not finite usually comes from a policy that has diverged"


class SimulatorFault(EnvError):
    """A simulator gave a value that no record may hold."""

    restart_helps: bool | None = True
    default_hint = (
        "the simulation became unstable or its adapter is wrong; "
        "`wmplatform check env` finds the second"
    )


class Misdeclared(SimulatorFault):
    """An environment gives something else than its `spec()` declares.

    Before the first step it cannot be used as it is configured. Later, it is a fault like others.
    """

    exit_code = ExitCode.BAD_INPUT
    restart_helps = None
    default_hint = (
        "give what spec() declares, or declare what is given; a picture is uint8, 0 to 255: "
        "(255 * picture).round().astype(numpy.uint8)"
    )


class EnvironmentLost(EnvError):
    """A simulator does not answer any more: its connection broke, its process died, it hangs.

    An adapter raises it from `make`, `reset` or `step` (in a `Simulator`: from `reset`, `advance`
    or `observe`) after it has tried what it can itself. The episode ends as truncated, this
    environment is closed, and another one is made for the next episode.
    """

    exit_code = ExitCode.ENVIRONMENT
    restart_helps = True
    default_hint = "look at the simulator's own log; the run goes on with a new environment"


class CannotStart(PlatformError):
    """An environment could not even be made.

    Args:
        name: of the environment.
        error: what its constructor raised, in one line.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, name: str, error: str) -> None:
        self.name, self.error = name, error
        hint = "look at its settings; `wmplatform check env` plays it alone"
        super().__init__(f"{name} cannot be made: {error}", hint=hint)


class MissingSimulator(PlatformError):
    """A simulator, or a library that it needs, is not installed or not reachable."""

    exit_code = ExitCode.ENVIRONMENT
    restart_helps = False


class UnknownTask(PlatformError):
    """An adapter was asked for a task that its simulator does not have."""

    exit_code = ExitCode.BAD_INPUT
