"""Schedules, by hand-computed values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from wmplatform.errors import ExitCode
from wmplatform.schedules import BadSchedule, Schedule


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("linear(1, 3, 100)", {0: 1, 50: 2, 100: 3, 1000: 3}),
        ("linear(1e-3,1e-4,10)", {0: 1e-3, 5: 5.5e-4, 11: 1e-4}),
        (
            "linear(1.0, 0.5, 100, 0.1, 200)",
            {0: 1, 50: 0.75, 100: 0.5, 200: 0.3, 300: 0.1, 999: 0.1},
        ),
        ("warmup(100, 0.5)", {0: 0, 50: 0.25, 100: 0.5, 1000: 0.5}),
        ("exp(1, 0.1, 10)", {0: 1, 10: 0.55, 20: 0.325, 100_000: 0.1}),
        ("horizon(10, 100, 90)", {0: 0.9, 45: 1 - 1 / 55, 90: 0.99, 1000: 0.99}),
    ],
)
def test_forms(text: str, values: dict[int, float]) -> None:
    schedule = Schedule(text)
    assert not schedule.constant
    for clock, expected in values.items():
        assert_allclose(schedule(clock), expected, rtol=1e-12)


@given(st.floats(-10, 10), st.integers(0, 10**9))
def test_a_number_never_changes(value: float, clock: int) -> None:
    assert Schedule(value)(clock) == value
    assert Schedule(str(value))(clock) == value
    assert Schedule(value).constant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "linear(1, 2)",
        "linear(1, 2, x)",
        "linear(1, 2, 3, 4)",
        "sine(1, 2, 3)",
        "linear(1,2,3",
        "1 2",
    ],
)
def test_anything_else_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(BadSchedule) as caught:
        Schedule(text)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "linear(" in str(caught.value)
