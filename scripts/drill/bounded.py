"""Work in a child process that may take so much time and memory, and what came of it."""

import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wmplatform.errors import ExitCode, PlatformError

__all__ = ["Outcome", "in_child"]

CPU_S = 30
"""Processor time of a child; a slow machine makes no hang of it."""
IDLE_S = 10.0
"""Seconds that a child may wait for something without using the processor at all."""
MEMORY_BYTES = 1 << 30
"""What a child may take beyond what it begins with."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    kind: str
    text: str
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether this may happen."""
        return self.kind in ("refused", "harmless")


def in_child(work: Callable[[], None], log: Path) -> Outcome:
    """Do something in a child process with bounded time and memory."""
    child = os.fork()
    if child == 0:
        _do(work, log)
    status = _wait(child)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hung = number in (signal.SIGKILL, signal.SIGXCPU)
        return Outcome("hang" if hung else f"signal {number}", "")
    found = json.loads(log.read_text())
    return Outcome(found["kind"], found["text"], found["detail"])


def _wait(child: int) -> int:
    """Wait for a child; one that sleeps all the time is killed. Returns its status."""
    before, since_s = "", time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
        # Behind the name in brackets: its state, and ten fields on its processor times.
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        now = " ".join((fields[0], *fields[11:13]))
        if now != before or fields[0] == "R":
            before, since_s = now, time.monotonic()
        elif time.monotonic() - since_s > IDLE_S:
            os.kill(child, signal.SIGKILL)


def _do(work: Callable[[], None], log: Path) -> None:
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    try:
        work()
        found = Outcome("harmless", "")
    except PlatformError as error:
        kind = "refused" if error.exit_code in set(ExitCode) else "no exit code"
        found = Outcome(kind, str(error))
    except MemoryError:
        found = Outcome("memory", "", traceback.format_exc())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is counted
        found = Outcome("traceback", repr(error)[:300], traceback.format_exc()[-3000:])
    log.write_text(json.dumps(vars(found)))
    os._exit(0)
