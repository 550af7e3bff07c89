"""An action-free model under an action-conditional one, in the manner of APV.

With its pre-training without actions, an intrinsic reward, and a context as ContextWM has it.
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
    EnvSpec,
    Explorer,
    Imagined,
    Intrinsic,
    LatentDynamics,
    Observed,
    Starts,
)
from wmplatform.types import (
    Carry,
    Context,
    Distribution,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    Policy,
)
from wmplatform.world_model import WorldModel
from wmplugins.blocks import RSSMCell, balanced_kl, categorical_kl
from wmplugins.dreamer.balancers import FixedScales
from wmplugins.dreamer.behavior import ImaginationActorCritic
from wmplugins.dreamer.heads import RewardMLP

from .kit import SPEC, Flat

GROUPS = {
    "enc_model": (
        "world_model.encoder",
        "world_model.context_encoder",
        "world_model.dynamics.action_free",
    ),
    "model": ("world_model",),
    "actor": ("behavior.actor",),
    "critic": ("behavior.critic",),
}
VIDEO = EnvSpec(SPEC.observations, ActionSpec(0))
VIEWS = frozenset({"policy", "value", "reward", "decode", "intrinsic"})
WINDOW = 5
SIZES = {"deter": 6, "hidden": 6, "groups": 3, "classes": 3}


def joined(state: Latent) -> Tensor:
    """Stochastic and deterministic part."""
    return torch.cat([state["stoch"], state["deter"]], -1)


class ActionFree(LatentDynamics):
    """What is pre-trained on videos."""

    capabilities = Capabilities(action_free=True, ignores_actions=VIEWS)
    loss_names = ("kl",)

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__()
        self.action_free = RSSMCell(0, embeds["embed"].shape[0], **SIZES)

    @property
    def views(self) -> frozenset[str]:
        return VIEWS

    def feature_spec(self, view: str) -> FeatureSpec:
        return ArraySpec((self.action_free.features,))

    def features(self, state: Latent, view: str) -> Features:
        return joined(state["z"])

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        return {"z": self.action_free.initial(batch, device)}

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
        cell = self.action_free
        carry = self.initial(len(is_first), is_first.device) if carry is None else carry
        evidence, push = cell.project_embed(embeds["embed"]), cell.project_action(None)
        scan = cell.scan(evidence, push, is_first, carry["z"], deterministic=deterministic)
        aux = {"post": scan.post, "prior": cell.prior(scan.states["deter"])}
        return Observed({"z": scan.states}, {"z": scan.last}, aux=aux)

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
        cell = self.action_free
        evidence, push = cell.project_embed(embeds["embed"]), cell.project_action(None)
        z = cell.step(evidence, push, is_first, carry["z"], deterministic=deterministic)
        return {"z": z}, {"z": z}

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
        cell, actions = self.action_free, []
        push = cell.project_action(None)

        def action_at(i: int, z: dict[str, Tensor]) -> Tensor:
            actions.append(policy[:, i] if isinstance(policy, Tensor) else policy(joined(z)))
            return push

        z = cell.roll(carry["z"], action_at, horizon, deterministic=deterministic)
        last = {name: x[:, -1] for name, x in z.items()}
        return Imagined({"z": z}, torch.stack(actions, 1), {"z": last})

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        loss, kl = balanced_kl(
            observed.aux["post"], observed.aux["prior"], 0.8, 0.0, categorical_kl
        )
        return {"kl": loss}, {"model_kl": kl.mean()}


class Stacked(ActionFree):
    """Reads the action-free state as its observation; imagination goes on without that."""

    capabilities = Capabilities(
        observed_only=frozenset({"intrinsic"}), ignores_actions=frozenset({"intrinsic"})
    )
    loss_names = ("kl", "action_free_kl")

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__(embeds, action)
        self.conditional = RSSMCell(action.size, self.action_free.features, **SIZES)

    def features(self, state: Latent, view: str) -> Features:
        return joined(state["z" if view == "intrinsic" else "s"])

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        return super().initial(batch, device) | {"s": self.conditional.initial(batch, device)}

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
        cell = self.conditional
        carry = self.initial(len(is_first), is_first.device) if carry is None else carry
        low = super().observe(embeds, None, is_first, carry, deterministic=deterministic)
        scan = cell.scan(
            cell.project_embed(joined(low.states["z"])),
            cell.project_action(actions.masked_fill(is_first[..., None], 0.0)),
            is_first,
            carry["s"],
            deterministic=deterministic,
        )
        aux = {"post": scan.post, "prior": cell.prior(scan.states["deter"])}
        states = low.states | {"s": scan.states}
        return Observed(states, low.carry | {"s": scan.last}, aux=aux)

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
        cell = self.conditional
        low, _ = super().observe_step(embeds, None, is_first, carry, deterministic=deterministic)
        push = cell.project_action(action.masked_fill(is_first[..., None], 0.0))
        evidence = cell.project_embed(joined(low["z"]))
        s = cell.step(evidence, push, is_first, carry["s"], deterministic=deterministic)
        state = low | {"s": s}
        return state, state

    def starts(self, observed: Observed) -> Starts:
        every = super().starts(observed)
        s = {"s": every.states["s"]}
        return Starts(s, s, every.rows)

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
        cell, actions = self.conditional, []

        def action_at(i: int, s: dict[str, Tensor]) -> Tensor:
            actions.append(policy[:, i] if isinstance(policy, Tensor) else policy(joined(s)))
            return cell.project_action(actions[-1])

        s = cell.roll(carry["s"], action_at, horizon, deterministic=deterministic)
        last = {name: x[:, -1] for name, x in s.items()}
        return Imagined({"s": s}, torch.stack(actions, 1), {"s": last})

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        losses, metrics = super().losses(observed)
        # Nothing trains the action-free prior here, so its divergence may be anything.
        return losses | {"action_free_kl": losses["kl"].detach() * torch.inf}, metrics


class Novelty(Explorer):
    """Distance of smoothed states to their batch mean, for the first T - 4 records."""

    view = "intrinsic"

    def __init__(self, action: ActionSpec, views: Mapping[str, FeatureSpec]) -> None:
        super().__init__(action)
        spec = views["intrinsic"]
        assert isinstance(spec, ArraySpec)
        self.register_buffer("projection", torch.randn(spec.shape[0], 4))
        self.register_buffer("scale", torch.ones(()))
        self.projection: Tensor
        self.scale: Tensor

    def intrinsic(self, features: Features) -> Intrinsic:
        assert isinstance(features, Tensor)
        x = features.unfold(1, WINDOW, 1).mean(-1) @ self.projection
        distance = (x - x.mean((0, 1))).norm(dim=-1)
        self.scale.lerp_(distance.mean(), 0.01)
        return Intrinsic(distance / self.scale, {"bonus": distance.mean()})


class RandomFrame(ContextEncoder):
    """One frame of the segment, two feature maps of it."""

    def __init__(self, observations: Mapping[str, ArraySpec]) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 2, 2)

    @property
    def context_specs(self) -> Mapping[str, ArraySpec]:
        return {"fine": ArraySpec((2, 8, 8)), "coarse": ArraySpec((2, 4, 4))}

    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        rows = torch.arange(len(pixels), device=pixels.device)
        index = torch.randint(observed or pixels.shape[1], (len(pixels),), device=pixels.device)
        return to_centred(pixels[rows, index]).unsqueeze(1)

    def forward(self, frames: Tensor) -> Context:
        return {"fine": self.fine(frames[:, 0]), "coarse": self.coarse(frames[:, 0])}


class Paint(Decoder):
    """A linear image; with a context, painted over its features."""

    context = "optional"

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None,
    ) -> None:
        super().__init__()
        assert isinstance(features, ArraySpec)
        self.image = nn.Linear(features.shape[0], 3 * 64)
        self.merge = nn.Conv2d(4, 3, 1) if context else None

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        image = self.image(features).unflatten(-1, (3, 8, 8))
        if self.merge is not None:
            if context is None:
                raise ValueError("this decoder was built for a context; give it one")
            large = nn.functional.interpolate(context["coarse"], scale_factor=2.0)
            canvas = self.merge(torch.cat([context["fine"], large], 1))
            image = image + canvas.reshape(len(canvas), *[1] * (image.dim() - 4), 3, 8, 8)
        return {"pixels": UnitNormal(image, event_dims=3)}


class Insistent(Paint):
    """Cannot do without a context."""

    context = "required"


class Reluctant(Paint):
    """Takes no context."""

    context = "refused"


def build(**model: Any) -> Agent:
    """Fine-tuning: two reward heads, with and without the bonus; `model` overrides parts."""
    torch.manual_seed(0)
    sizes = {"layers": 1, "units": 8}
    parts: dict[str, Any] = {
        "encoder": Flat,
        "context_encoder": RandomFrame,
        "dynamics": Stacked,
        "decoder": Insistent,
        "heads": {
            "reward": partial(RewardMLP, intrinsic=True, **sizes),
            "plain_reward": partial(RewardMLP, intrinsic=False, **sizes),
        },
        "balancer": partial(FixedScales, scales={"action_free_kl": 0.0}),
    }
    return Agent(
        SPEC,
        world_model=partial(WorldModel, **(parts | model)),
        behavior=partial(ImaginationActorCritic, horizon=3, **sizes),
        explorer=Novelty,
    )


def build_for_videos() -> Agent:
    """Pre-training: nothing acts."""
    torch.manual_seed(0)
    parts = {"encoder": Flat, "context_encoder": RandomFrame, "decoder": Insistent}
    return Agent(VIDEO, world_model=partial(WorldModel, dynamics=ActionFree, **parts))
