"""Healthy dynamics of shapes that are easy to forget.

A branched model with several embeddings that uses up its first record, a sliding-window model whose
carry is no state, and recurrent ones that read a context and that know how old an episode is.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.contracts.reference import RecurrentDynamics
from wmplatform.interfaces import Capabilities, Imagined, LatentDynamics, Observed, Starts
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
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

__all__ = [
    "BranchedDynamics",
    "ClockedDynamics",
    "ContextualDynamics",
    "RecurrentDynamics",
    "WindowDynamics",
]


class ContextualDynamics(RecurrentDynamics):
    """Its posterior sees each record against the context of the row."""

    capabilities = Capabilities(needs_context=True)

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__(embeds, action)
        self.static = nn.Linear(5, embeds["embed"].shape[0])

    def background(self, context: Context) -> Tensor:
        x: Tensor = self.static(context["static"])
        return x

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
        assert context is not None
        seen = {"embed": embeds["embed"] - self.background(context)}
        return super().observe_step(seen, action, is_first, carry, deterministic=deterministic)

    @classmethod
    def contract_wiring(cls) -> dict[str, Any]:
        return {"context": {"static": ArraySpec((5,))}}


class ClockedDynamics(RecurrentDynamics):
    """A recurrent cell that also hears how many records old the episode is."""

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        return {**super().initial(batch, device), "age": torch.zeros(batch, 1, device=device)}

    def reset(self, is_first: Tensor, carry: Carry, action: Tensor) -> tuple[Carry, Tensor]:
        start = self.initial(len(is_first)), torch.zeros_like(action)
        chosen: tuple[Carry, Tensor] = select_where(is_first, start, (carry, action))
        return chosen

    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        return super()._advance(carry, action) + 0.2 * torch.sin(carry["age"])

    def _state(self, carry: Carry, deter: Tensor, mean: Tensor, deterministic: bool) -> Latent:
        stoch = mean if deterministic else mean + torch.randn_like(mean)
        return {"deter": deter, "stoch": stoch, "mean": mean, "age": carry["age"] + 1}

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
        carry, action = self.reset(is_first, carry, action)
        deter = self._advance(carry, action)
        mean = self.posterior(torch.cat([deter, embeds[self.embed]], -1))
        state = self._state(carry, deter, mean, deterministic)
        return state, {name: state[name] for name in carry}

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
            action = policy[:, i] if known else policy(self.features(state, "policy"))  # type: ignore[index, operator]
            deter = self._advance(carry, action)
            state = self._state(carry, deter, self.prior(deter), deterministic)
            carry = {name: state[name] for name in carry}
            states.append(state)
            actions.append(action)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states)
        return Imagined(stacked, torch.stack(actions, 1), carry)


class BranchedDynamics(LatentDynamics):
    """Two branches on two embeddings; one of them reads no action. Drops record 0.

    States are nested, features of the view `decode` come in parts, and `observe` says with
    `records` that the first record has no state.
    """

    capabilities = Capabilities(ignores_actions=frozenset({"decode/free"}))
    loss_names = ("kl_ctrl", "kl_free")

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__()
        self.ctrl = RecurrentDynamics(embeds, action, embed="ctrl")
        self.free = RecurrentDynamics(embeds, action, embed="free")

    @property
    def views(self) -> frozenset[str]:
        return frozenset({"policy", "value", "reward", "decode"})

    def feature_spec(self, view: str) -> FeatureSpec:
        ctrl, free = self.ctrl.feature_spec("policy"), self.free.feature_spec("policy")
        assert isinstance(ctrl, ArraySpec)
        assert isinstance(free, ArraySpec)
        return {"ctrl": ctrl, "free": free} if view == "decode" else ctrl

    def features(self, state: Latent, view: str) -> Features:
        ctrl = self.ctrl.features(state["ctrl"], view)
        free = self.free.features(state["free"], view)
        assert isinstance(ctrl, Tensor)
        assert isinstance(free, Tensor)
        return {"ctrl": ctrl, "free": free} if view == "decode" else ctrl

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        return {"ctrl": self.ctrl.initial(batch, device), "free": self.free.initial(batch, device)}

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
        parts = {}
        for name, branch, a in self._branches(actions):
            start = None if carry is None else carry[name]
            parts[name] = branch.observe(embeds, a, is_first, start, deterministic=deterministic)
        states = {name: tree_map(lambda x: x[:, 1:], p.states) for name, p in parts.items()}
        return Observed(states, {n: p.carry for n, p in parts.items()}, slice(1, None), parts)

    def _branches(self, action: Tensor) -> list[tuple[str, RecurrentDynamics, Tensor]]:
        return [("ctrl", self.ctrl, action), ("free", self.free, torch.zeros_like(action))]

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
        out = {
            name: branch.observe_step(embeds, a, is_first, carry[name], deterministic=deterministic)
            for name, branch, a in self._branches(action)
        }
        return {n: o[0] for n, o in out.items()}, {n: o[1] for n, o in out.items()}

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        found = {
            f"kl_{name}": branch.losses(observed.aux[name])[0]["kl"]
            for name, branch in (("ctrl", self.ctrl), ("free", self.free))
        }
        return found, {}

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
        ctrl = self.ctrl.imagine(
            start["ctrl"], carry["ctrl"], policy, horizon, deterministic=deterministic
        )
        still = torch.zeros_like(ctrl.actions)
        free = self.free.imagine(
            start["free"], carry["free"], still, horizon, deterministic=deterministic
        )
        carry = {"ctrl": ctrl.carry, "free": free.carry}
        return Imagined({"ctrl": ctrl.states, "free": free.states}, ctrl.actions, carry)

    @classmethod
    def contract_wiring(cls) -> dict[str, Any]:
        return {"embeds": {"ctrl": ArraySpec((8,)), "free": ArraySpec((7,))}}


class WindowDynamics(LatentDynamics):
    """Attends to the last few records through a ring of past inputs; no recurrence.

    The carry is a window of inputs with a mask, which is no state and has no time axis to stack.
    Episodes cannot start inside a segment.
    """

    WINDOW = 3
    capabilities = Capabilities(
        resets_mid_sequence=False, max_horizon=4, samples=frozenset({"imagine"})
    )
    loss_names = ("next",)

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec) -> None:
        super().__init__()
        self.embed, self.action = embeds["embed"].shape[0], action.size
        self.inputs = nn.Linear(self.embed + action.size, 6)
        self.mix = nn.Linear(6 * self.WINDOW, 6)
        self.predict = nn.Linear(6 + action.size, self.embed)

    @property
    def views(self) -> frozenset[str]:
        return frozenset({"policy", "value", "reward", "decode"})

    def feature_spec(self, view: str) -> FeatureSpec:
        return ArraySpec((6,))

    def features(self, state: Latent, view: str) -> Features:
        hidden: Tensor = state["hidden"]
        return hidden

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        window = torch.zeros(batch, self.WINDOW, self.embed + self.action, device=device)
        return {"window": window, "used": torch.zeros(batch, self.WINDOW, device=device).bool()}

    def _push(self, carry: Carry, x: Tensor) -> tuple[Latent, Carry]:
        window = torch.cat([carry["window"][:, 1:], x[:, None]], 1)
        used = torch.cat([carry["used"][:, 1:], torch.ones_like(carry["used"][:, :1])], 1)
        safe = torch.where(used[..., None], window, torch.zeros_like(window))
        hidden = torch.tanh(self.mix(torch.tanh(self.inputs(safe)).flatten(1)))
        state = {"hidden": hidden, "embed": x[:, : self.embed]}
        return state, {"window": window, "used": used}

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
        carry = select_where(is_first, self.initial(len(action)), carry)
        action = torch.where(is_first[:, None], torch.zeros_like(action), action)
        return self._push(carry, torch.cat([embeds["embed"], action], -1))

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
        carry = self.initial(len(is_first)) if carry is None else carry
        states, windows = [], []
        for t in range(is_first.shape[1]):
            embed = {name: x[:, t] for name, x in embeds.items()}
            state, carry = self.observe_step(embed, actions[:, t], is_first[:, t], carry)
            states.append(state)
            windows.append(carry)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states)
        return Observed(stacked, carry, aux={"windows": windows, "actions": actions})

    def starts(self, observed: Observed) -> Starts:
        starts = super().starts(observed)
        carry = tree_map(lambda *x: torch.stack(x, 1).flatten(0, 1), *observed.aux["windows"])
        return replace(starts, carry=self.detach(carry))

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        hidden, embed = observed.states["hidden"], observed.states["embed"]
        guess = self.predict(torch.cat([hidden[:, :-1], observed.aux["actions"][:, 1:]], -1))
        return {"next": (guess - embed[:, 1:].detach()).square().mean()}, {}

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
            action = policy[:, i] if known else policy(self.features(state, "policy"))  # type: ignore[index, operator]
            embed = self.predict(torch.cat([state["hidden"], action], -1))
            if not deterministic:
                embed = embed + torch.randn_like(embed)
            state, carry = self._push(carry, torch.cat([embed, action], -1))
            states.append(state)
            actions.append(action)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states)
        return Imagined(stacked, torch.stack(actions, 1), carry)
