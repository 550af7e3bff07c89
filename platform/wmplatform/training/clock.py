"""A wall clock for saving; the only place of a loop where time matters."""

import time

__all__ = ["Clock"]


class Clock:
    """Tells when so many seconds have passed since the last reset."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._since_s = time.monotonic()

    def due(self) -> bool:
        """Whether the time has passed."""
        return time.monotonic() - self._since_s >= self.every_s

    def reset(self) -> None:
        """Start counting again."""
        self._since_s = time.monotonic()
