"""Start and stop the double from a test, and ask it what it was asked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack

PACKAGE = Path(__file__).resolve().parent


class Double:
    """The server in a process of its own, while a `with` block runs.

    Args:
        port: Port for calls; 0 takes a free one, which `port` then names.
        next_lives: Options of the processes that follow on the same port, each when the one before
            has died; without them the first one's death is the end.
        back_after_s: How long nothing listens in between.
        **options: Fields of `carla_double.server.Options`, for the first process.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        next_lives: Sequence[Mapping[str, str | float]] = (),
        back_after_s: float = 0.2,
        **options: str | float,
    ) -> None:
        self.port = port
        self._lives = [options, *next_lives]
        self._back_after_s = back_after_s
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep_alive, daemon=True)

    def start(self) -> None:
        """Start the first process; those of the next lives follow by themselves."""
        self._begin(self._lives[0])
        self._keeper.start()

    def _begin(self, options: Mapping[str, str | float]) -> None:
        """Start one process and wait until it has its port."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", PACKAGE.name, f"--port={self.port}", *flags],
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the double ended at its start: {self.process.wait()}")
        self.port = int(line)

    def _keep_alive(self) -> None:
        for options in self._lives[1:]:
            self.wait()
            if self._stopped.wait(self._back_after_s):
                return
            with self._lock:
                if not self._stopped.is_set():
                    self._close()
                    self._begin(options)

    def wait(self) -> int:
        """Wait until the process has ended; returns how, -9 for one that died on purpose."""
        assert self.process is not None
        return self.process.wait()

    def kill(self) -> None:
        """End the process now, whatever it is doing; a next life may follow."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the process for good."""
        self._stopped.set()
        with self._lock:
            if self.process is not None:
                self.kill()
                self._close()
        if self._keeper.is_alive():
            self._keeper.join()

    def _close(self) -> None:
        assert self.process is not None
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

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
        """How often each call was made.

        Also `actors` that exist, `ticks` so far, and `unknown: X` for calls it could not answer.
        """
        return self.call("double_counts")

    def change(self, **options: str | float) -> None:
        """Change options of the running process, such as `die_at`."""
        self.call("double_options", options)

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
                    return result[0][1] if len(result[0]) > 1 else None
        raise ConnectionError("the double closed the connection")
