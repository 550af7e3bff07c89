"""How tests of the CARLA adapter drive it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wmplatform.envs import PlatformEnv
from wmplugins.carla import Carla

from ..carla_double.launch import Double

pytest.importorskip("carla")

AHEAD = np.array([0.0, 1.0], np.float32)
REST = np.zeros(2, np.float32)
SHORT_TICK_S = 1.0
"""Time-out of calls to servers that are going to hang; they are quick otherwise."""


def highway(*doubles: Double, **settings: Any) -> Carla:
    """An adapter for the doubles, which waits long for what is slow and short for what is gone."""
    patient = {"startup_timeout_s": 30.0, "camera_timeout_s": 5.0, "patience_s": 40.0}
    chosen = {"time_limit": 6, "traffic": 0, **patient, **settings}
    return Carla(host="127.0.0.1", ports=tuple(double.port for double in doubles), **chosen)


def play(env: PlatformEnv, actions: int, action: Any = AHEAD) -> list[tuple[Any, ...]]:
    """Steps until the episode or the actions end."""
    steps: list[tuple[Any, ...]] = []
    for _ in range(actions):
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


class Driver(torch.nn.Module):
    """Full throttle, straight on."""

    def act(
        self, observations: Any, is_first: Tensor, memory: Any, **_: Any
    ) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.0, 1.0]]).expand(len(is_first), 2), torch.zeros(len(is_first))
