"""A token-like model: sampled codes, a carry that is a ring of the past, short rollouts."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wmplatform.agent import Agent
from wmplatform.interfaces import (
    ActionSpec,
    ArraySpec,
    Capabilities,
    Imagined,
    LatentDynamics,
    Observed,
    Starts,
)
from wmplatform.types import (
    Carry,
    Context,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    Policy,
    select_where,
    tree_map,
)
from wmplatform.world_model import WorldModel
from wmplugins.dreamer.behavior import ImaginationActorCritic
from wmplugins.dreamer.heads import DiscountMLP, RewardMLP

from .kit import SPEC, Flat, Plain

GROUPS = {
    "model": ("world_model",),
    "actor": ("behavior.actor",),
    "critic": ("behavior.critic",),
}
CODES, HIDDEN = 5, 6


class Ring(LatentDynamics):
    """Reads the last codes and actions; the ring goes on from a segment's end only."""

    WINDOW = 3
    capabilities = Capabilities(
        differentiable_rollout=False, max_horizon=3, samples=frozenset({"imagine"})
    )
    loss_names = ("tokens",)

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__()
        self.width = CODES + action.size
        self.quantise = nn.Linear(embeds["embed"].shape[0], CODES)
        self.mix = nn.Linear(self.WINDOW * self.width, HIDDEN)
        self.next = nn.Linear(HIDDEN + action.size, CODES)

    @property
    def views(self) -> frozenset[str]:
        return frozenset({"policy", "value", "reward", "continue", "decode"})

    def feature_spec(self, view: str) -> FeatureSpec:
        return ArraySpec((CODES,)) if view == "decode" else ArraySpec((HIDDEN,))

    def features(self, state: Latent, view: str) -> Features:
        part: Tensor = state["code" if view == "decode" else "hidden"]
        return part

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        ring = torch.zeros(batch, self.WINDOW, self.width, device=device)
        return {"ring": ring, "seen": torch.zeros(batch, dtype=torch.int64, device=device)}

    def _push(self, carry: Carry, code: Tensor, action: Tensor) -> tuple[Latent, Carry]:
        ring = torch.cat([carry["ring"][:, 1:], torch.cat([code, action], -1)[:, None]], 1)
        hidden = self.mix(ring.flatten(1)).tanh()
        return {"code": code, "hidden": hidden}, {"ring": ring, "seen": carry["seen"] + 1}

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
        carry = select_where(is_first, self.initial(len(is_first), is_first.device), carry)
        action = action.masked_fill(is_first[:, None], 0.0)
        logits = self.quantise(embeds["embed"])
        hard = F.one_hot(logits.argmax(-1), CODES).float()
        soft = logits.softmax(-1)
        return self._push(carry, hard + soft - soft.detach(), action)

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
            state, carry = self.observe_step(now, actions[:, t], is_first[:, t], carry)
            states.append(state)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states)
        return Observed(stacked, carry, aux={"actions": actions, "is_first": is_first})

    def starts(self, observed: Observed) -> Starts:
        batch, length = observed.states["code"].shape[:2]
        last = tree_map(lambda x: x[:, -1].detach(), observed.states)
        rows = torch.arange(1, batch + 1, device=last["code"].device) * length - 1
        return Starts(last, self.detach(observed.carry), rows)

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        hidden, code = observed.states["hidden"], observed.states["code"]
        logits = self.next(torch.cat([hidden[:, :-1], observed.aux["actions"][:, 1:]], -1))
        each = F.cross_entropy(logits.transpose(1, 2), code[:, 1:].argmax(-1), reduction="none")
        return {"tokens": each.masked_fill(observed.aux["is_first"][:, 1:], 0.0).mean()}, {}

    @torch.no_grad()
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
        state, states, actions = start, [], []
        for i in range(horizon):
            known = isinstance(policy, Tensor)
            with torch.enable_grad():  # the policy learns by likelihood ratio
                action = policy[:, i] if known else policy(self.features(state, "policy"))
            logits = self.next(torch.cat([state["hidden"], action], -1))
            if deterministic:
                index = logits.argmax(-1)
            else:
                index = torch.multinomial(logits.softmax(-1), 1).squeeze(-1)
            state, carry = self._push(carry, F.one_hot(index, CODES).float(), action)
            states.append(state)
            actions.append(action)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states)
        return Imagined(stacked, torch.stack(actions, 1), carry)


class Unimaginative(Ring):
    """Predicts no future."""

    capabilities = Capabilities(supports_imagination=False, differentiable_rollout=False)


def build(dynamics: Any = Ring, **behavior: Any) -> Agent:
    """The agent."""
    torch.manual_seed(0)
    sizes = {"layers": 1, "units": 8}
    settings = {"horizon": 3, "gradient": "reinforce"} | behavior
    heads = {"reward": partial(RewardMLP, **sizes), "continue": partial(DiscountMLP, **sizes)}
    return Agent(
        SPEC,
        world_model=partial(WorldModel, encoder=Flat, dynamics=dynamics, heads=heads),
        behavior=partial(ImaginationActorCritic, **sizes, **settings),
        explorer=Plain,
    )
