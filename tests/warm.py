"""Python in processes of their own, without the seconds that importing torch takes each time.

A template process imports what a run imports; `start` lets it fork a child, which executes what
`python -c` would be given. A child has its own signals, folder, environment, streams and exit code.
What depends on how a process starts or on what it imports needs a real one.
"""

import atexit
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
CLI = "import sys; from wmplatform.cli import main; sys.exit(main())"
IMPORTED = (
    "wmplatform.commands",
    "wmplatform.logging.event_file",
    "wmplatform.training.online",
    "wmplatform.training.launch",
    "wmplugins.dreamer.behavior",
    "wmplugins.dreamer.rssm",
    "wmplugins.gym.simulator",
    "gymnasium",
    "pydantic",
    "av",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
"""What a run of `tests/tiny.gin` imports, roughly."""
PATIENCE_S = 600.0
"""Longer than anything takes, on a machine that is busy with other things."""


class Child:
    """A process that the template has forked."""

    def __init__(self, pid: int, out: IO[bytes], err: IO[bytes]) -> None:
        self.pid, self._out, self._err = pid, out, err
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait for what it does.

        Raises:
            RuntimeError: it ended before, or took ten minutes.
        """
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if self.poll() is not None or time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise RuntimeError(f"it did not get there: {self.finish()}")
            time.sleep(0.02)

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end.

        Raises:
            TimeoutError: it takes ten minutes.
        """
        ended = os.pidfd_open(self.pid)
        in_time, *_ = select.select([ended], [], [], PATIENCE_S)
        os.close(ended)
        if not in_time:
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError(f"process {self.pid} does not end: {_text(self._err)}")
        code = self.poll()
        assert code is not None
        return subprocess.CompletedProcess([], code, _text(self._out), _text(self._err))


def start(code: str, *words: object, **environment: str) -> Child:
    """Execute code with `words` as its arguments, from the top folder of the checkout."""
    out, err = TemporaryFile(), TemporaryFile()  # noqa: SIM115 - closed when they are read
    order = {
        "code": code,
        "words": [*map(str, words)],
        "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
        "streams": [f"/proc/{os.getpid()}/fd/{stream.fileno()}" for stream in (out, err)],
    }
    return Child(_ask(order), out, err)


def cli(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `wmplatform` to its end."""
    return start(CLI, *words, **environment).finish()


def _text(stream: IO[bytes]) -> str:
    with stream:
        stream.seek(0)
        return stream.read().decode()


@cache
def _template() -> "subprocess.Popen[str]":
    """The template of this test process, which ends with it."""
    template = subprocess.Popen(
        [sys.executable, "-P", __file__],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "OMP_NUM_THREADS": "1",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(template.communicate)  # closes its input, and it ends
    return template


def _ask(order: Mapping[str, Any]) -> Any:
    template = _template()
    assert template.stdin
    assert template.stdout
    print(json.dumps(order), file=template.stdin, flush=True)
    return json.loads(template.stdout.readline())


def _serve() -> None:
    """Fork a child for each order, and say how it ended."""
    for module in IMPORTED:
        with suppress(ModuleNotFoundError):  # of an extra that is not installed
            import_module(module)
    gc.freeze()  # so that no child copies what it only collects around
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            _become(order)


def _become(order: Mapping[str, Any]) -> None:
    for number, path in enumerate(["/dev/null", *order["streams"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["-c", *order["words"]]
    exec(order["code"], {"__name__": "__main__"})
    sys.exit()


if __name__ == "__main__":
    _serve()
