"""A branched model in the manner of Iso-Dream.

One branch for what the agent controls, one for what it does not, and a static background whose
encoder shares the main encoder's first layer.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.distributions import UnitNormal
from wmplatform.images import to_centred
from wmplatform.interfaces import (
    ActionSpec,
    ArraySpec,
    Capabilities,
    ContextEncoder,
    Decoder,
    Encoder,
    Head,
    Imagined,
    LatentDynamics,
    Observed,
)
from wmplatform.types import (
    Batch,
    Carry,
    Context,
    Distribution,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    Policy,
    Target,
    tree_map,
)
from wmplatform.world_model import WorldModel
from wmplugins.dreamer.behavior import ImaginationActorCritic
from wmplugins.dreamer.heads import RewardMLP

from .kit import SPEC, Plain

GROUPS = {
    "model": ("world_model",),
    "actor": ("behavior.actor",),
    "critic": ("behavior.critic",),
}
FIRST_FRAMES = 2
PIXELS = 3 * 8 * 8


class TwoStage(Encoder):
    """A shared trunk, then one stage a branch."""

    def __init__(self, observations: Mapping[str, ArraySpec]) -> None:
        super().__init__()
        self.trunk = nn.Linear(PIXELS, 6)
        self.stages = nn.ModuleDict({"ctrl": nn.Linear(6, 5), "free": nn.Linear(6, 4)})

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        return {"ctrl": ArraySpec((5,)), "free": ArraySpec((4,))}

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = self.trunk(to_centred(observations["pixels"]).flatten(-3)).tanh()
        return {name: stage(x) for name, stage in self.stages.items()}


class Background(ContextEncoder):
    """The first frames of a segment to one image, through the encoder's trunk."""

    def __init__(self, observations: Mapping[str, ArraySpec]) -> None:
        super().__init__()
        self.trunk: nn.Module = nn.Linear(PIXELS, 6)
        self.stage = nn.Linear(6 * FIRST_FRAMES, PIXELS)

    def share(self, encoder: Encoder) -> None:
        if isinstance(encoder, TwoStage):
            del self.trunk
            self._trunk = (encoder.trunk,)  # a tuple: it stays the encoder's own parameter

    @property
    def context_specs(self) -> Mapping[str, ArraySpec]:
        return {"background": ArraySpec((3, 8, 8))}

    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        first = pixels[:, : min(FIRST_FRAMES, observed or FIRST_FRAMES)]
        short = FIRST_FRAMES - first.shape[1]
        return to_centred(torch.cat([first, first[:, -1:].expand(-1, short, -1, -1, -1)], 1))

    def forward(self, frames: Tensor) -> Context:
        trunk = self._trunk[0] if hasattr(self, "_trunk") else self.trunk
        x = trunk(frames.flatten(2)).tanh().flatten(1)
        return {"background": self.stage(x).unflatten(-1, (3, 8, 8)).clamp(-0.5, 0.5)}


class Branch(nn.Module):
    """A Gaussian recurrent cell, with or without an action."""

    def __init__(self, embed: int, action: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3 + action, 4)
        self.prior, self.post = nn.Linear(4, 3), nn.Linear(4 + embed, 3)

    def step(
        self, state: Latent, action: Tensor, embed: Tensor | None, noise: float
    ) -> dict[str, Tensor]:
        deter = self.cell(torch.cat([state["stoch"], action], -1), state["deter"])
        prior = self.prior(deter)
        mean = prior if embed is None else self.post(torch.cat([deter, embed], -1))
        stoch = mean + noise * torch.randn_like(mean) if noise else mean
        return {"stoch": stoch, "deter": deter, "mean": mean, "prior": prior}


class Isolated(LatentDynamics):
    """Two branches; the free one reads no action. The first record is used up."""

    capabilities = Capabilities(ignores_actions=frozenset({"decode/free"}))
    loss_names = ("kl_ctrl", "kl_free")

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__()
        self.ctrl = Branch(embeds["ctrl"].shape[0], action.size)
        self.free = Branch(embeds["free"].shape[0], 0)

    @property
    def views(self) -> frozenset[str]:
        return frozenset({"policy", "value", "reward", "decode"})

    def feature_spec(self, view: str) -> FeatureSpec:
        if view == "decode":
            return {"ctrl": ArraySpec((7,)), "free": ArraySpec((7,))}
        return ArraySpec((14,)) if view == "reward" else ArraySpec((7,))

    def features(self, state: Latent, view: str) -> Features:
        parts = {
            name: torch.cat([state[name]["stoch"], state[name]["deter"]], -1)
            for name in ("ctrl", "free")
        }
        if view == "decode":
            return dict(parts)
        return torch.cat([*parts.values()], -1) if view == "reward" else parts["ctrl"]

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        sizes = {"stoch": 3, "deter": 4, "mean": 3, "prior": 3}
        return {
            name: {key: torch.zeros(batch, size, device=device) for key, size in sizes.items()}
            for name in ("ctrl", "free")
        }

    def _step(
        self, state: Latent, action: Tensor, embeds: Mapping[str, Tensor | None], noise: float
    ) -> Latent:
        return {
            "ctrl": self.ctrl.step(state["ctrl"], action, embeds["ctrl"], noise),
            "free": self.free.step(state["free"], action[..., :0], embeds["free"], noise),
        }

    def observe_step(
        self,
        embeds: Mapping[str, Tensor],
        action: Tensor | None,
        is_first: Tensor,
        carry: Carry,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> tuple[Latent, Carry]:
        assert action is not None
        gone = is_first[:, None]
        carry = tree_map(lambda x: x.masked_fill(gone, 0.0), carry)
        action = action.masked_fill(gone, 0.0)
        state = self._step(carry, action, embeds, 0.0 if deterministic else 0.1)
        return state, state

    def observe(
        self,
        embeds: Mapping[str, Tensor],
        actions: Tensor | None,
        is_first: Tensor,
        carry: Carry | None = None,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> Observed:
        assert actions is not None
        carry = self.initial(len(is_first), is_first.device) if carry is None else carry
        states = []
        for t in range(is_first.shape[1]):
            now = {name: x[:, t] for name, x in embeds.items()}
            state, carry = self.observe_step(
                now, actions[:, t], is_first[:, t], carry, deterministic=deterministic
            )
            states.append(state)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states[1:])
        return Observed(stacked, carry, slice(1, None))

    def imagine(
        self,
        start: Latent,
        carry: Carry,
        policy: Policy | Tensor,
        horizon: int,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> Imagined:
        states, actions = [], []
        blind = {"ctrl": None, "free": None}
        for i in range(horizon):
            known = isinstance(policy, Tensor)
            action = policy[:, i] if known else policy(self.features(carry, "policy"))
            carry = self._step(carry, action, blind, 0.0 if deterministic else 0.1)
            states.append(carry)
            actions.append(action)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states)
        return Imagined(stacked, torch.stack(actions, 1), carry)

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        return {
            f"kl_{name}": (state["mean"] - state["prior"]).square().sum(-1).mean()
            for name, state in observed.states.items()
        }, {}


class Masks(Decoder):
    """An image and a mask of each branch over the background."""

    context = "required"

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(7, 4 * 64) for name in ("ctrl", "free")})

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        if context is None:
            raise ValueError("the background is missing")
        image, rest = 0.0, 1.0
        for name, part in self.parts.items():
            out = part(features[name]).unflatten(-1, (4, 8, 8))
            mask = out[..., 3:, :, :].sigmoid()
            image = image + mask * out[..., :3, :, :]
            rest = rest - mask
        background = context["background"]
        lead = features["ctrl"].dim() - 2
        background = background.reshape(len(background), *[1] * lead, 3, 8, 8)
        return {"pixels": UnitNormal(image + rest * background, event_dims=3)}


class InverseDynamics(Head):
    """Which action led from one embedding to the next."""

    view = "embeds"
    timing = "transition"

    def __init__(self, features: FeatureSpec, *, embed: str = "ctrl") -> None:
        super().__init__()
        self.embed = embed
        self.linear = nn.Linear(features["before"][embed].shape[0], features["action"].shape[0])

    def forward(self, features: Features) -> Distribution:
        change = features["after"][self.embed] - features["before"][self.embed]
        return UnitNormal(self.linear(change), event_dims=1)

    def target(self, batch: Batch) -> Target:
        return Target(batch["action"])

    @classmethod
    def contract_wiring(cls) -> dict[str, Any]:
        """Specs for the contract checks."""
        embeds = {"ctrl": ArraySpec((5,)), "free": ArraySpec((4,))}
        action = ArraySpec((3,))
        return {"features": {"before": embeds, "action": action, "after": embeds}}


def build(**model: Any) -> Agent:
    """The agent; `model` overrides parts of the world model."""
    torch.manual_seed(0)
    sizes = {"layers": 1, "units": 8}
    parts: dict[str, Any] = {
        "encoder": TwoStage,
        "context_encoder": Background,
        "dynamics": Isolated,
        "decoder": Masks,
        "heads": {"reward": partial(RewardMLP, **sizes), "inverse": InverseDynamics},
    }
    return Agent(
        SPEC,
        world_model=partial(WorldModel, **(parts | model)),
        behavior=partial(ImaginationActorCritic, horizon=3, **sizes),
        explorer=Plain,
    )
