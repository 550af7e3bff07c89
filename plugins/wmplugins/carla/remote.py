"""An environment's end of its client process."""

import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from wmplugins.carla.errors import CarlaUnavailable, WrongServer
from wmplugins.carla.settings import Server
from wmplugins.carla.wire import receive, send

__all__ = ["Remote", "unreachable"]

_CLOSING_S = 10.0
_PROBE_S = 5.0


class Remote:
    """A running client process for one server.

    Args:
        server: to talk to; the process connects when it is asked to.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wmplugins.carla.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # signals to the terminal's group are not meant for it
            )
        self._connection = Connection(ours.detach())

    def ask(self, do: str, timeout_s: float, **more: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer.

        Args:
            do: what.
            timeout_s: after which the process is given up.
            more: what else the request says.

        Raises:
            CarlaUnavailable: the server or the process is gone, or too slow; so is this one then.
            WrongServer: it answers, but cannot serve; this one is closed then.
        """
        try:
            send(self._connection, {"do": do, "server": asdict(self.server), **more})
            in_time = self._connection.poll(timeout_s)
        except (BrokenPipeError, ConnectionResetError):
            in_time = True  # the end is read below
        if not in_time:
            self.close(patience_s=0.0)
            raise self._lost(f"no answer to {do!r} within {timeout_s:g} s")
        answer = receive(self._connection)
        if answer is None:
            raise self._died()
        if "lost" in answer:
            self.close()
            raise self._lost(answer["lost"])
        if "wrong" in answer:
            self.close()
            raise WrongServer(answer["wrong"], hint=answer["hint"])
        return answer

    def close(self, patience_s: float = _CLOSING_S) -> None:
        """Let the process give the server back, but wait no longer than `patience_s` for it."""
        self._connection.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _died(self) -> CarlaUnavailable:
        code = self._process.wait(_CLOSING_S)
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").splitlines()
        lines = [line.strip() for line in said if line.strip() and "WARNING" not in line]
        last = f": {lines[-1]}" if lines else ""
        self.close(patience_s=0.0)
        return self._lost(f"the client process ended ({_manner(code)}){last}")

    def _lost(self, what: str) -> CarlaUnavailable:
        return CarlaUnavailable(self.server.host, self.server.port, what)


def _manner(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def unreachable(server: Server) -> str:
    """Say why nothing can be connected to at a server's address; empty where something listens.

    The library itself tries for the whole time-out and reports no more than that it passed.
    """
    try:
        with socket.create_connection((server.host, server.port), _PROBE_S):
            return ""
    except TimeoutError:
        return f"no answer within {_PROBE_S:g} s; wrong address, or a firewall drops it"
    except ConnectionRefusedError:
        return "nothing listens there"
    except socket.gaierror as error:
        return f"unknown host ({error.strerror})"
    except OSError as error:
        return str(error.strerror or error)
