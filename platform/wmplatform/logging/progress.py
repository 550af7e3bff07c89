"""How far a run is: a live line on a terminal, a plain line every few seconds elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import pairwise

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["Progress", "as_duration"]

_WINDOW_S = 30.0
_SPEEDS = {"updates": "updates", "env_frames": "frames", "frames_seen": "frames"}


class Progress:
    """Shows counters, speeds, the last return and the time left.

    Args:
        total: where the run ends, in units of `axis`.
        axis: the counter that `total` is about.
        console: where to; stderr unless given.
        every_s: seconds between plain lines, where the console is no terminal.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        total: int,
        axis: str = "agent_steps",
        *,
        console: Console | None = None,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.axis, self.every_s = total, axis, every_s
        self.console = console or Console(stderr=True)
        self._clock = clock
        self._seen: deque[tuple[float, dict[str, int]]] = deque()
        self._facts: dict[str, float] = {}
        self._printed_s = float("-inf")
        self._unprinted = ""
        self._live: Live | None = None

    def update(self, counters: Mapping[str, int], **facts: float) -> None:
        """Show the present counters; cheap enough for every turn of the loop.

        Args:
            counters: at least `axis`; speeds are shown for updates and frames.
            facts: numbers worth seeing, e.g. `last_return=12.0`; the last value of each stays.
        """
        self._facts.update(facts)
        now = self._clock()
        self._remember(now, counters)
        if self.console.is_terminal:
            self._show(counters)
            return
        self._unprinted = self.line(counters)
        if now - self._printed_s >= self.every_s:
            self._printed_s = now
            self._print()

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def rates(self) -> dict[str, float]:
        """Return each counter's change per second over the last half minute."""
        if len(self._seen) < 2:
            return {}
        (start_s, first), (end_s, last) = self._seen[0], self._seen[-1]
        seconds = max(end_s - start_s, 1e-9)
        return {name: (last[name] - first[name]) / seconds for name in last if name in first}

    def left_s(self) -> float | None:
        """Estimate the seconds left, or None where nothing has moved yet."""
        rate = self.rates().get(self.axis, 0.0)
        if rate <= 0:
            return None
        return max(0.0, (self.total - self._seen[-1][1][self.axis]) / rate)

    def line(self, counters: Mapping[str, int]) -> str:
        """Write everything in one line."""
        rates = self.rates()
        parts = [f"{self.axis} {counters[self.axis]:,}/{self.total:,}"]
        parts += [
            f"{name} {counters[name]:,}"
            for name in ("env_frames", "frames_seen", "updates")
            if name in counters and name != self.axis
        ]
        parts += [f"{rates[name]:.1f} {word}/s" for name, word in _SPEEDS.items() if name in rates]
        parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._facts.items()]
        left = self.left_s()
        return "  ".join([*parts, "" if left is None else f"left {as_duration(left)}"]).strip()

    def close(self) -> None:
        """Leave the last state on the screen; a second call does nothing."""
        if self._unprinted:
            self._print()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self) -> None:
        self.console.print(self._unprinted, highlight=False, soft_wrap=True)
        self._unprinted = ""

    def _remember(self, now: float, counters: Mapping[str, int]) -> None:
        self._seen.append((now, dict(counters)))
        # One moment a second is plenty, and keeps a fast loop's memory small.
        if len(self._seen) > 2 and now - self._seen[-3][0] < 1.0:
            del self._seen[-2]
        while len(self._seen) > 2 and now - self._seen[1][0] > _WINDOW_S:
            self._seen.popleft()

    def _show(self, counters: Mapping[str, int]) -> None:
        if self._live is None:
            self._live = Live(console=self.console, refresh_per_second=4)
            self._live.start()
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self.total, completed=counters[self.axis], width=20)
        row.add_row(bar, Text(self.line(counters)))
        self._live.update(row)


def as_duration(seconds: float) -> str:
    """Write seconds as `1 d 2 h`, `2 h 3 min`, `3 min 4 s` or `4 s`."""
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, size), (lower, small) in pairwise(units):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {lower}"
    return f"{whole} s"
