"""An environment whose every number says where it belongs, and an agent that counts.

The picture shows the episode's seed and the step; the reward of step t is t; `action[0]` of the
agent is the number of steps that it remembers.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from wmplatform.envs import Frame, PlatformEnv, Simulator
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec

# Environment processes do not know the tests' folder.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SPEC = EnvSpec({"pixels": ArraySpec((3, 4, 4), "uint8")}, ActionSpec(2), signals={"success": "max"})


class Counter(Simulator):
    """Counts frames; ends by itself after `ends_after`, if that is not None."""

    def __init__(self, ends_after: int | None, drift: bool) -> None:
        self.ends_after, self.drift = ends_after, drift
        self.resets = 0
        self.total = 0.0
        self.tick = 0
        self.seed = 0

    def reset(self, seed: int | None) -> dict[str, float]:
        if seed is not None:
            self.seed = seed
        self.resets += 1
        self.tick, self.total = 0, 0.0
        return {"success": 0.0}

    def advance(self, action: Any) -> Frame:
        self.tick += 1
        self.total += float(np.sum(action))
        terminated = self.tick == self.ends_after
        return Frame(float(self.tick), terminated, signals={"success": float(self.tick == 2)})

    def observe(self) -> dict[str, np.ndarray]:
        image = np.zeros((3, 4, 4), np.uint8)
        image[0] = self.tick % 256
        image[1] = self.seed % 251
        image[2] = int(self.total * 10) % 256
        if self.drift:
            image[2] += np.uint8(id(self) % 251)
        return {"pixels": image}


@dataclass
class CounterAdapter(EnvAdapter):
    """Episodes of `limit` steps (a truncation), or of `ends_after` (a termination)."""

    limit: int = 5
    ends_after: int | None = None
    deterministic: bool = True
    drift: bool = False
    """Claims to be deterministic but is not."""
    discrete: bool = False

    def spec(self) -> EnvSpec:
        spec = replace(SPEC, time_limit=self.limit, deterministic=self.deterministic)
        return replace(spec, action=ActionSpec(2, "discrete")) if self.discrete else spec

    def make(self, seed: int) -> PlatformEnv:
        simulator = Counter(self.ends_after, self.drift)
        return PlatformEnv(simulator, self.spec(), name=self.name, seed=seed)

    @property
    def name(self) -> str:
        return "counter/count"


class CountingAgent(nn.Module):
    """Remembers how many observations of the episode it saw; the rest of the action is noise."""

    def __init__(self, noise: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01))
        self.noise = noise
        self.clocks: list[int] = []
        self.device = torch.device("cpu")

    @torch.no_grad()
    def act(
        self,
        observations: dict[str, Tensor],
        is_first: Tensor,
        memory: Any,
        *,
        mode: str,
        agent_steps: int,
        warmup: bool = False,
    ) -> tuple[Tensor, Any]:
        assert observations["pixels"].dtype == torch.uint8
        assert observations["pixels"].shape[1:] == (3, 4, 4)
        self.clocks.append(agent_steps)
        seen = torch.zeros(len(is_first)) if memory is None else memory["carry"][0]
        seen = torch.where(is_first, 0, seen) + 1
        noise = torch.rand(len(is_first)) if self.noise else torch.zeros(len(is_first))
        first = -seen if warmup else seen
        action = torch.stack([self.scale * first, noise], 1)
        return action, {"carry": (seen,), "action": action}
