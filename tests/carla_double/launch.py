"""Start and stop the double from a test, and ask it what it was asked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack

TESTS = Path(__file__).resolve().parents[1]


class Double:
    """The server in a process of its own, while a `with` block runs.

    Args:
        port: Port for calls; 0 takes a free one, which `port` then names.
        **options: Fields of `carla_double.server.Options`.
    """

    def __init__(self, port: int = 0, **options: str | float) -> None:
        self.port = port
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, on the same port as before if it ran before."""
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in self._options.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "carla_double", f"--port={self.port}", *flags],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the double ended at its start: {self.process.wait()}")
        self.port = int(line)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def counts(self) -> dict[str, int]:
        """How often each call was made; `actors` that exist; `unknown: X` for unanswered calls."""
        return self.call("double_counts")

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of one call made past the client library."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(msgpack.packb([0, 1, method, [[False], *arguments]]))
            unpacker = msgpack.Unpacker()
            while data := connection.recv(2**16):
                unpacker.feed(data)
                for _, _, error, result in unpacker:
                    if error is not None:
                        raise RuntimeError(error)
                    return result[0][1]
        raise ConnectionError("the double closed the connection")
