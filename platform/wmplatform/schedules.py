"""Values that change with a clock: a constant, or a text like `linear(1e-3, 1e-4, 100000)`.

Clocks are declared by whoever owns the schedule (agent steps or updates), never a bare step.
"""

import math
import re
from collections.abc import Callable

from wmplatform.errors import ExitCode, PlatformError

__all__ = ["BadSchedule", "Schedule"]


class BadSchedule(PlatformError):
    """The text is no schedule."""

    exit_code = ExitCode.BAD_INPUT


def _share(clock: float, duration: float) -> float:
    return min(max(clock / duration, 0.0), 1.0)


def _linear(clock: float, initial: float, final: float, duration: float, *more: float) -> float:
    if more and clock > duration:
        return _linear(clock - duration, final, *more)
    share = _share(clock, duration)
    return (1 - share) * initial + share * final


def _warmup(clock: float, duration: float, value: float) -> float:
    return _share(clock, duration) * value


def _exp(clock: float, initial: float, final: float, halflife: float) -> float:
    return float((initial - final) * math.pow(0.5, clock / halflife) + final)


def _horizon(clock: float, initial: float, final: float, duration: float) -> float:
    return 1 - 1 / _linear(clock, initial, final, duration)


_FORMS: dict[str, tuple[Callable[..., float], tuple[int, ...]]] = {
    "linear": (_linear, (3, 5)),
    "warmup": (_warmup, (2,)),
    "exp": (_exp, (3,)),
    "horizon": (_horizon, (3,)),
}
_CALL = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")


class Schedule:
    """A number as a function of a clock.

    Forms: a plain number; `linear(initial, final, duration)`, or with `, final, duration` of a
    second line that follows; `warmup(duration, value)`; `exp(initial, final, halflife)`;
    `horizon(initial, final, duration)`, the discount 1 - 1/h of a linearly growing horizon h.
    """

    def __init__(self, value: float | str) -> None:
        """Parse a schedule.

        Raises:
            BadSchedule: unknown form or wrong number of arguments.
        """
        self.text = str(value)
        self._form: Callable[..., float] | None = None
        self._arguments: tuple[float, ...] = ()
        try:
            self._arguments = (float(value),)
        except ValueError:
            self._parse(self.text)

    def _parse(self, text: str) -> None:
        match = _CALL.fullmatch(text)
        form, counts = _FORMS.get(match.group(1), (None, ())) if match else (None, ())
        try:
            arguments = tuple(float(x) for x in match.group(2).split(",")) if match else ()
        except ValueError:
            arguments = ()
        if form is None or len(arguments) not in counts:
            raise BadSchedule(
                f"{text!r} is no schedule",
                hint="write a number, linear(initial, final, duration), warmup(duration, value), "
                "exp(initial, final, halflife) or horizon(initial, final, duration)",
            )
        self._form, self._arguments = form, arguments

    def __call__(self, clock: float) -> float:
        """Value at the clock, which starts at 0."""
        if self._form is None:
            return self._arguments[0]
        return self._form(clock, *self._arguments)

    @property
    def constant(self) -> bool:
        """Whether the value never changes."""
        return self._form is None
