"""Sums of Python floats that are the same bits under every Python. Imports no torch.

Python 3.12's `sum` corrects rounding errors, 3.11's does not: the same rewards would give other
returns, and other records.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

__all__ = ["REDUCTIONS", "plain_sum"]


def plain_sum(values: Iterable[float]) -> float:
    """Add from left to right, rounding each time, as `sum` did before Python 3.12."""
    total = 0.0
    for value in values:
        total += value
    return total


def _mean(values: list[float]) -> float:
    return plain_sum(values) / len(values)


def _last(values: list[float]) -> float:
    return values[-1]


REDUCTIONS: Mapping[str, Callable[[list[float]], float]] = MappingProxyType(
    {"max": max, "sum": plain_sum, "mean": _mean, "last": _last}
)
"""What the rules of `EnvSpec.signals` make of one or more values."""
