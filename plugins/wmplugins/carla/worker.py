"""`python -m wmplugins.carla.worker FD`: a process of its own for the client library.

The library has threads that end their process when a server dies at the wrong moment, and keeps a
traffic manager for each process that cannot be renewed. So it lives here: whatever happens, the
environment sees no more than a closed connection, and a new connection is a new process. The other
way round too: where the environment's process is killed, this one sees its end and gives the server
back, which would otherwise wait for the next tick for ever.

Over the inherited socket come JSON requests, one answer each; an answer with `pixels` is followed
by the picture's bytes.
"""

import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from pydantic import TypeAdapter

from wmplatform.errors import PlatformError
from wmplugins.carla.errors import CarlaUnavailable
from wmplugins.carla.examine import examine
from wmplugins.carla.settings import Server, Settings
from wmplugins.carla.task import HighwayTask, Outcome
from wmplugins.carla.wire import receive, send

__all__ = ["main"]


class _Worker:
    """Answers requests until it is told to close."""

    def __init__(self) -> None:
        self._task: HighwayTask | None = None

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Do what a request says."""
        try:
            return self._done(request)
        except CarlaUnavailable as error:
            return {"lost": error.last_error}, b""
        except PlatformError as error:
            return {"wrong": error.what, "hint": error.hint}, b""

    def close(self) -> None:
        """Give the server back."""
        if self._task is not None:
            self._task.close()
            self._task = None

    def _done(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        wanted = request["do"]
        if wanted == "open":
            server = TypeAdapter(Server).validate_python(request["server"])
            settings = TypeAdapter(Settings).validate_python(request["settings"])
            self._task = HighwayTask(server, settings)
            return {}, b""
        if wanted == "examine":
            return examine(TypeAdapter(Server).validate_python(request["server"])), b""
        assert self._task is not None, "open comes first"
        if wanted == "reset":
            return _told(self._task.reset(request["seed"]))
        return _told(self._task.advance(request["action"]))


def _told(outcome: Outcome) -> tuple[dict[str, Any], bytes]:
    ending = outcome.ending
    answer = {
        "reward": outcome.reward,
        "ending": "" if ending is None else ending.value,
        "terminated": ending is not None and ending.terminal,
        "truncated": ending is not None and not ending.terminal,
        "signals": outcome.signals,
        "pixels": True,
    }
    return answer, outcome.pixels.tobytes()


def main() -> None:
    """Serve one environment until it closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who saves and then closes
    connection, worker = Connection(int(sys.argv[1])), _Worker()
    try:
        while (request := receive(connection)) is not None:
            answer, pixels = worker.answer(request)
            send(connection, answer, pixels)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the environment is gone: what is left is to give the server back
    finally:
        worker.close()


if __name__ == "__main__":
    main()
