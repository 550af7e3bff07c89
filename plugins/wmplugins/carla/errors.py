"""What goes wrong between this machine and a CARLA server."""

from wmplatform.envs import MissingSimulator
from wmplatform.errors import ExitCode, PlatformError

__all__ = ["CarlaUnavailable", "ServerLost", "ServerTaken", "WrongServer"]


class CarlaUnavailable(MissingSimulator):
    """A server does not answer, or stopped answering.

    Attributes:
        host: of the server.
        port: of the server.
        last_error: what was seen last.
    """

    def __init__(self, host: str, port: int, last_error: str, *, hint: str = "") -> None:
        self.host, self.port, self.last_error = host, port, last_error
        default = f"`wmplatform doctor --carla {host}:{port}` says what is wrong with it"
        super().__init__(f"CARLA at {host}:{port}: {last_error}", hint=hint or default)


class WrongServer(PlatformError):
    """A server answers, but waiting does not make it serve the task: version, map, vehicle."""

    exit_code = ExitCode.ENVIRONMENT


class ServerTaken(PlatformError):
    """Every server that an environment may use is driven by another environment."""

    exit_code = ExitCode.ENVIRONMENT


class ServerLost(UserWarning):
    """A server was lost, and is connected to again; its episode, if one ran, ends as truncated."""
