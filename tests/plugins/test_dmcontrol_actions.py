"""How actions reach actuators, whatever their limits."""

from types import SimpleNamespace

import numpy as np

from wmplatform.envs import from_unit
from wmplugins.dmcontrol.simulator import _bounds


def test_actuators_with_both_limits_one_or_none() -> None:
    minimum, maximum = [0, 0, -1e10, -1, -1e10], [4, 1e10, 1, 1, 1e10]
    scaled = from_unit(*_bounds(SimpleNamespace(minimum=minimum, maximum=maximum)))
    for action, expected in (
        (-1.0, [0, 0, -1, -1, -1]),
        (-0.5, [1, 0.5, -0.5, -0.5, -0.5]),
        (1.0, [4, 2, 1, 1, 1]),
    ):
        assert scaled(np.full(5, action)).tolist() == expected


def test_the_unit_and_no_limits_pass_actions_through_without_rounding() -> None:
    low, high = _bounds(SimpleNamespace(minimum=[-1, -1e10], maximum=[1, 1e10]))
    assert np.isinf([low, high]).all()
