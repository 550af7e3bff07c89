"""How far preparing is: a live bar on a terminal, a plain line every few seconds elsewhere."""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["PrepareProgress"]


class PrepareProgress:
    """Shows videos, frames, speed and how many were quarantined.

    Args:
        total: videos.
        done: videos that were finished before.
        console: where to; stderr unless given.
        every_s: seconds between plain lines, where the console is no terminal.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        console: Console | None = None,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.every_s = total, every_s
        self.console = console or Console(stderr=True)
        self._clock = clock
        self._start_s = self._printed_s = clock()
        self._first: tuple[int, int] | None = None
        self._bar = Progress(
            BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
            console=self.console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # elsewhere it would print an empty line
            self._bar.stop()

    def update(self, videos: int, frames: int, quarantined: int) -> None:
        """Show what is finished by now, quarantined videos included."""
        text = self.line(videos, frames, quarantined)
        if self.console.is_terminal:
            self._bar.update(self._task, completed=videos, description=text)
        elif self._clock() - self._printed_s >= self.every_s:
            self._printed_s = self._clock()
            self.say(text)

    def line(self, videos: int, frames: int, quarantined: int) -> str:
        """Write everything in one line; the speed is that of this process, not of earlier ones."""
        if self._first is None:
            self._first, self._start_s = (videos, frames), self._clock()
        seconds = self._clock() - self._start_s
        parts = [f"videos {videos:,}/{self.total:,}", f"frames {frames:,}"]
        if seconds > 0:
            parts.append(f"{(frames - self._first[1]) / seconds:,.0f} frames/s")
        return "  ".join([*parts, f"quarantined {quarantined:,}"])

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
