"""Clips of a square that drifts over a 64 x 64 picture, and a tiny model that can watch them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.clip_source import ClipSource
from wmplatform.interfaces import Capabilities, Imagined, LatentDynamics, Observed
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.types import ArraySpec, FeatureSpec, tree_map
from wmplatform.world_model import WorldModel
from wmplugins.dreamer.decoders import CNNDecoder
from wmplugins.dreamer.encoders import CNNEncoder


class ToyClips(ClipSource):
    """Draws from a generator of its own, which is its whole state."""

    def __init__(
        self,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: Any = "cpu",
        *,
        batch: int = 2,
        length: int = 5,
        size: int = 64,
    ) -> None:
        self.batch, self.length, self.size = batch, length, size
        share = batch // world_size
        self.rows = slice(rank * share, (rank + 1) * share)
        self.random = torch.Generator().manual_seed(seed)
        self.closed = False

    def sample(self) -> TensorDict:
        start, speed = torch.randint(-24, 24, (2, self.batch, 1, 2), generator=self.random)
        time = torch.arange(self.length).view(1, -1, 1)
        at = (start + speed * time // 8).clamp(-24, 24) + 32
        rows = torch.arange(64)
        near = (rows - at.unsqueeze(-1)).abs() < 6  # [B, T, 2, 64]
        image = near[:, :, 0, :, None] & near[:, :, 1, None, :]
        pixels = (image.to(torch.uint8) * 200).unsqueeze(2).expand(-1, -1, 3, -1, -1)
        first = torch.zeros(self.batch, self.length, dtype=torch.bool)
        first[:, 0] = True
        pixels = pixels[..., : self.size, : self.size].contiguous()
        return TensorDict({"pixels": pixels, "is_first": first}, first.shape)[self.rows]

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.random.set_state(state["random"])

    def close(self) -> None:
        self.closed = True


class Drift(LatentDynamics):
    """A GRU without samples: the state is its memory, and its prior predicts the next one."""

    capabilities = Capabilities(action_free=True, differentiable_rollout=False)
    loss_names = ("prior",)

    def __init__(
        self, embeds: Mapping[str, ArraySpec], action: Any, *, units: int = 8, noise: float = 0.0
    ) -> None:
        super().__init__()
        self.units, self.noise = units, noise
        self.action_free = nn.ModuleDict(
            {
                "gru": nn.GRUCell(embeds["embed"].shape[0], units),
                "prior": nn.Linear(units, units),
            }
        )

    @property
    def views(self) -> frozenset[str]:
        return frozenset({"policy", "value", "reward", "decode"})

    def feature_spec(self, view: str) -> FeatureSpec:
        return ArraySpec((self.units,))

    def features(self, state: Any, view: str) -> Tensor:
        return state["h"]

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Any:
        weight = self.action_free["prior"].weight
        return {"h": weight.new_zeros(batch, self.units)}

    def observe_step(
        self, embeds: Any, action: Any, is_first: Any, carry: Any, **unused: Any
    ) -> Any:
        h = torch.where(is_first.unsqueeze(-1), 0.0, carry["h"])
        h = self.action_free["gru"](embeds["embed"].to(h.dtype), h)
        if self.noise and not unused.get("deterministic"):
            h = h + self.noise * torch.randn_like(h)
        return {"h": h}, {"h": h}

    def observe(
        self, embeds: Any, actions: Any, is_first: Tensor, carry: Any = None, **more: Any
    ) -> Observed:
        carry = self.initial(len(is_first), is_first.device) if carry is None else carry
        states = []
        for t in range(is_first.shape[1]):
            embed = {"embed": embeds["embed"][:, t]}
            state, carry = self.observe_step(embed, None, is_first[:, t], carry)
            states.append(state)
        return Observed(tree_map(lambda *x: torch.stack(x, 1), *states), carry)

    def imagine(self, start: Any, carry: Any, policy: Any, horizon: int, **unused: Any) -> Imagined:
        states = []
        for _ in range(horizon):
            carry = {"h": torch.tanh(self.action_free["prior"](carry["h"]))}
            states.append(carry["h"])
        assert isinstance(policy, Tensor)
        return Imagined({"h": torch.stack(states, 1)}, policy, carry)

    def losses(self, observed: Observed) -> Any:
        h = observed.states["h"]
        guess = torch.tanh(self.action_free["prior"](h[:, :-1]))
        return {"prior": (guess - h[:, 1:].detach()).square().sum(-1).mean()}, {}


class Stacked(Drift):
    """With a second, conditional part, as fine-tuning has it."""

    def __init__(
        self, embeds: Mapping[str, ArraySpec], action: Any, *, units: int = 8, noise: float = 0.0
    ) -> None:
        super().__init__(embeds, action, units=units, noise=noise)
        self.conditional = nn.Linear(units + action.size, units)


def video_model(depth: int = 2, **dynamics: Any) -> partial[WorldModel]:
    """Factory of a tiny world model without actions."""
    return partial(
        WorldModel,
        encoder=partial(CNNEncoder, depth=depth),
        dynamics=partial(Drift, **dynamics),
        decoder=partial(CNNDecoder, depth=depth),
    )


def video_agent(**dynamics: Any) -> partial[Agent]:
    """Factory of an agent that only watches."""
    return partial(Agent, world_model=video_model(**dynamics))


def video_learner(**adam: Any) -> partial[Learner]:
    """Factory of a learner with one optimiser."""
    settings = {"lr": 1e-3} | adam
    return partial(
        Learner, groups={"model": ("world_model",)}, optimizers={"model": partial(Adam, **settings)}
    )
