"""An environment of a few lines: a bright square that actions push over a 64 x 64 picture."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from wmplatform.envs import Frame, PlatformEnv, Simulator
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec

BREAKS_NEVER = 10**9


class Square(Simulator):
    """The square's way to the middle; `breaks_at` agent steps it raises an error."""

    def __init__(self, breaks_at: int = BREAKS_NEVER) -> None:
        self.breaks_at, self.steps = breaks_at, 0
        self.position = np.zeros(2)
        self.random = np.random.default_rng(0)

    def reset(self, seed: int | None) -> Mapping[str, float]:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.position = self.random.uniform(-1, 1, 2)
        self.steps = 0
        np.random.uniform()  # noqa: NPY002 - some simulators do draw from the global generator
        return {"success": 0.0, "distance": float(np.abs(self.position).max())}

    def advance(self, action: Any) -> Frame:
        self.steps += 1
        if self.steps >= self.breaks_at:
            raise RuntimeError("the square fell over")
        if isinstance(action, int):
            action = np.array([(-1, 0), (1, 0), (0, 1)][action])
        self.position = np.clip(self.position + 0.1 * action[:2], -1, 1)
        distance = float(np.abs(self.position).max())
        return Frame(-distance, signals={"success": float(distance < 0.2), "distance": distance})

    def observe(self) -> Mapping[str, NDArray[Any]]:
        image = np.zeros((3, 64, 64), np.uint8)
        row, column = ((self.position + 1) * 24 + 4).astype(int)
        image[:, row : row + 8, column : column + 8] = 255
        return {"pixels": image}


class MovingSquare(EnvAdapter):
    """Adapter of `Square`; counts how many environments it has made."""

    def __init__(
        self,
        *,
        time_limit: int | None = 6,
        breaks_at: int = BREAKS_NEVER,
        discrete: bool = False,
    ) -> None:
        self.time_limit, self.breaks_at, self.discrete = time_limit, breaks_at, discrete
        self.made = 0

    @property
    def name(self) -> str:
        return "moving_square"

    def spec(self) -> EnvSpec:
        return EnvSpec(
            observations={"pixels": ArraySpec((3, 64, 64), "uint8")},
            action=ActionSpec(3, "discrete") if self.discrete else ActionSpec(2),
            time_limit=self.time_limit,
            signals={"success": "max", "distance": "last"},
        )

    def make(self, seed: int) -> gymnasium.Env[Any, Any]:
        self.made += 1
        return PlatformEnv(Square(self.breaks_at), self.spec(), name=self.name, seed=seed)
