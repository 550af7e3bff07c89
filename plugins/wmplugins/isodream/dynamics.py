"""Iso-Dream's latent dynamics: a controllable and a free branch (Pan et al. 2022, section 3.1).

Shape letters: B batch, T time, N rows, H horizon, W window, S stochastic, D deterministic, E
embedding, F = S + D features of a branch.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

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
    tree_map,
)
from wmplugins.blocks import Gaussian, balanced_kl, embed_size
from wmplugins.isodream.branch import Following, Inferring, Scan, State

__all__ = ["IsolatedDynamics"]

_VECTORS = {"reward": 1, "continue": 1, "free": 1, "joint": 2, "intrinsic": 2, "decode_joint": 2}
"""Views that are one vector, and of how many branches."""


class IsolatedDynamics(LatentDynamics):
    """Two recurrent branches: actions enter `ctrl` only, `free` goes on by itself.

    Latent: for each branch `stoch` `[*lead, S]`, `deter` `[*lead, D]` and `shown` `[*lead, S]`,
    the sample that the decoder reads; with a `window`, also `ahead` `[*lead, W, F]`, features of
    the free branch now and W - 1 steps on, rolled out without observations.

    Views: `policy` and `value` are ctrl's features, with a window `ctrl` and `future` (`ahead`).
    `decode` has a part for each branch; `decode_joint` is both as one vector, for decoders that
    know of no branches. `reward` and `continue` read ctrl, `joint` and `intrinsic` both branches.

    The free branch has a posterior like ctrl's, or follows: it then sees the embedding of the
    record before, predicts, has no divergence, and the first record of a segment is used up.

    Parameters at the defaults, an embedding of 1024 each: 1,085,700 following with an action of 6
    (1,350,800 with the idle posterior of `parity`), 1,155,200 with a posterior and an action of 2.
    """

    capabilities = Capabilities(
        ignores_actions=frozenset({"free", "decode/free", "policy/future", "value/future"})
    )

    def __init__(
        self,
        embeds: Mapping[str, ArraySpec],
        action: ActionSpec,
        *,
        free_posterior: bool = False,
        window: Annotated[int, Ge(0)] = 0,
        ctrl_records: Annotated[int, Ge(0)] | None = None,
        free_records: Annotated[int, Ge(0)] | None = None,
        stoch: Annotated[int, Ge(1)] = 50,
        deter: Annotated[int, Ge(1)] = 200,
        hidden: Annotated[int, Ge(1)] = 200,
        min_std: Annotated[float, Gt(0.0)] = 0.1,
        kl_balance: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.8,
        free_nats: Annotated[float, Ge(0.0)] = 1.0,
        parity: bool = False,
    ) -> None:
        """Build the branches.

        Args:
            embeds: the encoder's output specs, with `ctrl` and `free`.
            action: the action's spec.
            free_posterior: whether the free branch infers its state; else it follows.
            window: states of the free branch, the present one included, that policies read.
            ctrl_records: records of a segment at which the decoder sees ctrl's posterior; after
                them its one-step prior. None for all.
            free_records: likewise for free; where it follows, records whose embedding it sees.
            stoch: entries of the Gaussian latent, of each branch.
            deter: units of the GRU.
            hidden: units of the dense layers.
            min_std: smallest scale of a latent.
            kl_balance: share of the KL that trains the prior.
            free_nats: a branch's mean KL is not pushed below this.
            parity: as the authors' code: the first record only gives a following branch its first
                input, that branch has a posterior head that nothing reads and a KL of
                `free_nats`, the window of a start of imagination is rolled out by the stepped
                model, and imagined rewards read another roll-out than policies.
        """
        super().__init__()
        sizes = {"stoch": stoch, "deter": deter, "hidden": hidden}
        widths = {name: embed_size(embeds, name) for name in ("ctrl", "free")}
        self.window, self.parity = window, parity
        self.records = {"ctrl": ctrl_records, "free": free_records}
        self.kl_balance, self.free_nats = kl_balance, free_nats
        self.ctrl = Inferring(action.size, widths["ctrl"], **sizes, min_std=min_std)
        self.free: Inferring | Following
        if free_posterior:
            self.free = Inferring(0, widths["free"], **sizes, min_std=min_std)
        else:
            self.free = Following(widths["free"], **sizes, min_std=min_std)
            self.capabilities = replace(self.capabilities, warmup_frames=1)
        if parity and not free_posterior:
            self.idle = torch.nn.Sequential(
                torch.nn.Linear(deter + widths["free"], hidden), torch.nn.Linear(hidden, 2 * stoch)
            )
        judged = ("ctrl", "free") if free_posterior or parity else ("ctrl",)
        self.loss_names = tuple(f"kl_{name}" for name in judged)

    @property
    def follows(self) -> bool:
        """Whether the free branch has no posterior."""
        return isinstance(self.free, Following)

    @property
    def views(self) -> frozenset[str]:
        """Names that `features` knows."""
        return frozenset({"policy", "value", "decode", *_VECTORS})

    def feature_spec(self, view: str) -> FeatureSpec:
        """One vector, or several: `ctrl` and `free`, `ctrl` and `future`."""
        width = self.ctrl.features
        one = ArraySpec((width,))
        if view == "decode":
            return {"ctrl": one, "free": one}
        if view in _VECTORS:
            return ArraySpec((_VECTORS[view] * width,))
        return {"ctrl": one, "future": ArraySpec((self.window, width))} if self.window else one

    def features(self, state: Latent, view: str) -> Features:
        """Read a latent; stochastic parts first, ctrl before free."""
        if view == "decode":
            return {name: _vector(state[name], "shown") for name in ("ctrl", "free")}
        if view == "decode_joint":
            return torch.cat([_vector(state[name], "shown") for name in ("ctrl", "free")], -1)
        if view in ("joint", "intrinsic"):
            return torch.cat([_vector(state[name]) for name in ("ctrl", "free")], -1)
        if view == "free":
            return _vector(state["free"])
        ctrl = _vector(state["ctrl"])
        if self.window and view in ("policy", "value"):
            return {"ctrl": ctrl, "future": state["ahead"]}
        return ctrl

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        """All zeros; `age` counts the records since the segment or the episode began."""
        return {
            "ctrl": self.ctrl.initial(batch, device),
            "free": self.free.initial(batch, device),
            "age": torch.zeros(batch, dtype=torch.int64, device=device),
        }

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
        """Scan both branches; one that follows uses the first record up."""
        del context
        if actions is None:
            raise ValueError("dynamics.isolated is action-conditional; this batch has no actions")
        seeds = self.parity and self.follows and carry is None
        if carry is None:
            carry = self.initial(len(is_first), is_first.device)
        rest = slice(1, None) if seeds else slice(None)
        if seeds:
            carry = self._seeded(carry, embeds)
        states, carry, aux = self._scan(
            {name: x[:, rest] for name, x in embeds.items()},
            actions[:, rest],
            is_first[:, rest],
            carry,
            deterministic=deterministic,
        )
        if not self.follows:
            return Observed(states, carry, aux=aux)
        if not seeds:
            states, aux = (tree_map(lambda x: x[:, 1:], each) for each in (states, aux))
        return Observed(states, carry, slice(1, None), aux)

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
        """A segment of one record."""
        del context
        if action is None:
            raise ValueError("dynamics.isolated is action-conditional; there is no action")
        states, carry, _ = self._scan(
            {name: x.unsqueeze(1) for name, x in embeds.items()},
            action.unsqueeze(1),
            is_first.unsqueeze(1),
            carry,
            deterministic=deterministic,
        )
        return tree_map(lambda x: x[:, 0], states), carry

    def starts(self, observed: Observed) -> Starts:
        """All rows; with `parity` and a window, they look ahead with the parameters of now."""
        found = super().starts(observed)
        if self.parity and self.window:
            found.states["ahead"] = self._ahead(found.states["free"], deterministic=False)
        return found

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
        """Roll the free branch out first, then ctrl under the policy, which may look ahead."""
        del carry, context
        free, ahead = self._free_rollout(start, horizon, deterministic=deterministic)
        ctrl, actions = self._ctrl_rollout(
            start, ahead, policy, horizon, deterministic=deterministic
        )
        states: Latent = {
            "ctrl": {**ctrl, "shown": ctrl["stoch"]},
            "free": {**free, "shown": free["stoch"]},
        }
        if ahead is not None:
            states["ahead"] = ahead
        return Imagined(states, actions, tree_map(lambda x: x[:, -1], states))

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        """One divergence for each branch with a posterior, balanced and clipped by itself."""
        found: dict[str, Tensor] = {}
        metrics: Metrics = {}
        for name in ("ctrl", "free"):
            if name not in observed.aux:
                continue
            post, prior = observed.aux[name]
            found[f"kl_{name}"], kl = balanced_kl(
                post, prior, self.kl_balance, self.free_nats, Gaussian.kl
            )
            metrics[f"{name}_model_kl"] = kl.mean()
        if self.parity and self.follows:
            found["kl_free"] = torch.full_like(found["kl_ctrl"].detach(), self.free_nats)
        return found, metrics

    def _seeded(self, carry: Carry, embeds: Mapping[str, Tensor]) -> Carry:
        """The carry after a first record that only a following branch looks at."""
        embed_BTE = self._fed(embeds["free"][:, :1], carry["age"].unsqueeze(1))
        free = {**carry["free"], "embed": embed_BTE[:, 0]}
        return {**carry, "free": free, "age": carry["age"] + 1}

    def _scan(
        self,
        embeds: Mapping[str, Tensor],
        actions: Tensor,
        is_first: Tensor,
        carry: Carry,
        *,
        deterministic: bool,
    ) -> tuple[Latent, Carry, dict[str, tuple[Gaussian, Gaussian]]]:
        """States `[B, T, ...]` of all records, the carry, and posterior and prior by branch."""
        age_BT = _ages(is_first, carry["age"])
        actions = actions.masked_fill(is_first.unsqueeze(-1), 0.0)
        free_embed = self._fed(embeds["free"], age_BT) if self.follows else embeds["free"]
        found = {
            "ctrl": self.ctrl.scan(
                embeds["ctrl"], actions, is_first, carry["ctrl"], deterministic=deterministic
            ),
            "free": self.free.scan(
                free_embed, None, is_first, carry["free"], deterministic=deterministic
            ),
        }
        states: Latent = {
            name: {**scan.states, "shown": self._shown(name, scan, age_BT, deterministic)}
            for name, scan in found.items()
        }
        if self.window:
            states["ahead"] = self._ahead(states["free"], deterministic=deterministic)
        aux = {
            name: (scan.post, scan.prior) for name, scan in found.items() if scan.post is not None
        }
        last = {name: scan.last for name, scan in found.items()}
        return states, {**last, "age": age_BT[:, -1] + 1}, aux

    def _fed(self, embed_BTE: Tensor, age_BT: Tensor) -> Tensor:
        """Embeddings that a following branch may see; the others are zero."""
        limit = self.records["free"]
        if limit is None:
            return embed_BTE
        return embed_BTE.masked_fill((age_BT >= limit).unsqueeze(-1), 0.0)

    def _shown(self, name: str, scan: Scan, age_BT: Tensor, deterministic: bool) -> Tensor:
        """What the decoder reads: the state's sample, or after some records the prior's."""
        stoch, limit = scan.states["stoch"], self.records[name]
        if limit is None or scan.post is None:
            return stoch
        noise = torch.zeros_like(stoch) if deterministic else torch.randn_like(stoch)
        return torch.where((age_BT < limit).unsqueeze(-1), stoch, scan.prior.sample(noise))

    @torch.no_grad()
    def _ahead(self, free: State, *, deterministic: bool) -> Tensor:
        """Features of the free branch from each state on, `[*lead, W, F]`, detached."""
        lead = free["deter"].shape[:-1]
        flat = {name: free[name].detach().flatten(0, -2) for name in ("stoch", "deter")}
        now = _vector(flat).unsqueeze(1)
        if self.window > 1:
            later = self.free.roll(flat, self.window - 1, deterministic=deterministic)
            now = torch.cat([now, _vector(later)], 1)
        return now.unflatten(0, lead)

    def _free_rollout(
        self, start: Latent, horizon: int, *, deterministic: bool
    ) -> tuple[State, Tensor | None]:
        """States `[N, H, ...]` of the free branch, and windows on them `[N, H, W, F]`."""
        if not self.window:
            return self.free.roll(start["free"], horizon, deterministic=deterministic), None
        seen, stoch = start["ahead"], self.free.stoch
        last = {"stoch": seen[:, -1, :stoch], "deter": seen[:, -1, stoch:]}
        later = _vector(self.free.roll(last, horizon, deterministic=deterministic))
        path = torch.cat([seen, later], 1)
        ahead = path.unfold(1, self.window, 1)[:, 1:].transpose(-1, -2)
        if self.parity:
            return self.free.roll(start["free"], horizon, deterministic=deterministic), ahead
        mine = path[:, 1 : horizon + 1]
        return {"stoch": mine[..., :stoch], "deter": mine[..., stoch:]}, ahead

    def _ctrl_rollout(
        self,
        start: Latent,
        ahead: Tensor | None,
        policy: Policy | Tensor,
        horizon: int,
        *,
        deterministic: bool,
    ) -> tuple[State, Tensor]:
        """States `[N, H, ...]` of the controllable branch, and the actions that led there."""
        state = {name: start["ctrl"][name] for name in ("stoch", "deter")}
        noise_T = self.ctrl.noise(
            horizon, len(state["deter"]), like=state["deter"], deterministic=deterministic
        )
        states, actions = [], []
        window = start.get("ahead")
        for i in range(horizon):
            if isinstance(policy, Tensor):
                actions.append(policy[:, i])
            else:
                latent = {"ctrl": state} if ahead is None else {"ctrl": state, "ahead": window}
                actions.append(policy(self.features(latent, "policy")))
            state = self.ctrl.step(state, actions[-1], noise_T[i])
            states.append(state)
            window = None if ahead is None else ahead[:, i]
        stacked = {name: torch.stack([each[name] for each in states], 1) for name in state}
        return stacked, torch.stack(actions, 1)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"deter": 8, "hidden": 8, "stoch": 4}

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Specs for the contract checks."""
        return {"embeds": {"ctrl": ArraySpec((8,)), "free": ArraySpec((7,))}}


def _vector(state: State, stoch: str = "stoch") -> Tensor:
    """Stochastic part first, `[*lead, S + D]`, fp32."""
    return torch.cat([state[stoch].float(), state["deter"].float()], -1)


def _ages(is_first: Tensor, before: Tensor) -> Tensor:
    """Number of each record, int64 `[B, T]`, counted from the episode's start or from `before`."""
    t = torch.arange(is_first.shape[1], device=is_first.device)
    start = torch.where(is_first, t, -1).cummax(1).values
    return torch.where(start >= 0, t - start, before.unsqueeze(1) + t)
