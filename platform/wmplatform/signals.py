"""Ctrl-C and SIGTERM as a question that a loop asks between two lines, not as an interruption."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["StopRequest"]


class StopRequest:
    """Listens for SIGTERM and SIGINT while its `with` block runs.

    The first signal only sets `requested`, so that the loop can finish what it does, save and
    leave. A second Ctrl-C raises `KeyboardInterrupt` where the program is; further SIGTERMs change
    nothing (who sends them also knows SIGKILL). The handlers from before come back at the end.
    Outside the main thread, where Python allows no handlers, nothing is listened for.
    """

    def __init__(self) -> None:
        self.requested = False
        """True once the process was asked to stop."""
        self.signal_name = ""
        """Which signal asked first, e.g. `SIGTERM`."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            self.signal_name = signal.Signals(number).name
