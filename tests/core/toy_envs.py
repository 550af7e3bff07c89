"""A tiny world of numbers for the tests of environments: a point that drifts and is pushed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from wmplatform.envs import Frame, PlatformEnv, Simulator
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec

Env = gymnasium.Env[Any, Any]


class Drift(Simulator):
    """A point on a line: pushed by the action, blown by the seed's wind, drawn as grey levels."""

    def __init__(self, kind: str = "continuous", goal: float = np.inf, lifetime: int = 0) -> None:
        self.kind = kind
        self.goal = goal
        self.lifetime = lifetime
        self.frames = 0
        self.renders = 0
        self.closed = 0
        self.random = np.random.default_rng()
        self.place = 0.0
        self.buffer = np.zeros((3, 4, 4), np.uint8)

    def reset(self, seed: int | None) -> Mapping[str, float]:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.frames = 0
        self.place = float(self.random.normal())
        return {"success": 0.0, "effort": 0.0}

    def advance(self, action: Any) -> Frame:
        push = float(action) if self.kind == "discrete" else float(np.sum(action))
        self.frames += 1
        self.place += push + 0.1 * float(self.random.normal())
        return Frame(
            reward=self.place,
            terminated=self.place > self.goal,
            truncated=self.frames == self.lifetime,
            signals={"success": float(push > 0), "effort": abs(push)},
        )

    def observe(self) -> Mapping[str, np.ndarray]:
        self.renders += 1
        self.buffer[:] = int(abs(self.place) * 1000) % 256
        return {"pixels": self.buffer, "place": np.array([self.place])}

    def close(self) -> None:
        self.closed += 1


@dataclass
class ToyAdapter(EnvAdapter):
    """The drifting point; `wrap` may spoil what it makes."""

    action_repeat: int = 1
    time_limit: int | None = 8
    kind: str = "continuous"
    goal: float = np.inf
    lifetime: int = 0
    deterministic: bool = True
    still: tuple[str, ...] = ()
    wrap: Callable[[Env], Env] | None = None

    name = "toy/drift"

    def spec(self) -> EnvSpec:
        return EnvSpec(
            observations={"pixels": ArraySpec((3, 4, 4), "uint8"), "place": ArraySpec((1,))},
            action=ActionSpec(2, "discrete" if self.kind == "discrete" else "continuous"),
            action_repeat=self.action_repeat,
            time_limit=self.time_limit,
            signals={"success": "max", "effort": "sum"},
            deterministic=self.deterministic,
            still=self.still,
        )

    def make(self, seed: int) -> Env:
        simulator = Drift(self.kind, self.goal, self.lifetime)
        env = PlatformEnv(simulator, self.spec(), name=self.name, seed=seed)
        return env if self.wrap is None else self.wrap(env)
