"""Recurrent branches with Gaussian latents: one that samples a posterior, one that never does.

Shape letters: B batch, T time, N rows, A action, S stochastic, D deterministic, E embedding, H
hidden. As in the RSSM, what is not recurrent is taken out of the loops.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wmplugins.blocks import Gaussian, GRUCell, Unrolled, lowered

__all__ = ["Branch", "Following", "Inferring", "Scan", "State"]

State = dict[str, Tensor]
"""`stoch` fp32 `[*lead, S]` and `deter` fp32 `[*lead, D]`; with them, what a branch needs."""


class Scan(NamedTuple):
    """A branch over a segment."""

    states: State
    """`stoch` and `deter`, `[B, T, ...]`."""
    last: State
    """What the next record needs, `[B, ...]`."""
    prior: Gaussian
    post: Gaussian | None
    """None for a branch that has no posterior."""


class Branch(nn.Module, ABC):
    """What the branches share: a GRU (LayerNorm eps 1e-5) and a prior of its state.

    Parameters at 50, 200, 200: cell 241,800, prior 40,200 + 20,100.
    """

    def __init__(self, inputs: int, *, stoch: int, deter: int, hidden: int, min_std: float) -> None:
        super().__init__()
        self.stoch, self.deter, self.min_std = stoch, deter, min_std
        self.inputs = nn.Linear(inputs, hidden)
        self.cell = GRUCell(hidden, deter, "torch", eps=1e-5)
        self.prior_hidden = nn.Linear(deter, hidden)
        self.prior_out = nn.Linear(hidden, 2 * stoch)

    @property
    def features(self) -> int:
        """Width of the concatenated state, S + D."""
        return self.stoch + self.deter

    def initial(self, batch: int, device: torch.device | str = "cpu") -> State:
        """All zeros."""
        return {
            "stoch": torch.zeros(batch, self.stoch, device=device),
            "deter": torch.zeros(batch, self.deter, device=device),
        }

    def prior(self, deter: Tensor) -> Gaussian:
        """Prior of the stochastic state, from `[*lead, D]`."""
        x = F.elu(self.prior_hidden(deter))
        return Gaussian.of(self.prior_out(x), self.min_std)

    def noise(self, *lead: int, like: Tensor, deterministic: bool) -> Tensor:
        """Noise `[*lead, S]` of a whole rollout; zeros give the mean."""
        shape = (*lead, self.stoch)
        return like.new_zeros(shape) if deterministic else torch.randn(shape, device=like.device)

    @abstractmethod
    def scan(
        self,
        embed_BTE: Tensor,
        action_BTA: Tensor | None,
        is_first: Tensor,
        state: State,
        *,
        deterministic: bool = False,
    ) -> Scan:
        """Go through a segment.

        Args:
            embed_BTE: of each record.
            action_BTA: that led into it; None for a branch without actions.
            is_first: bool `[B, T]`.
            state: before the segment, from `initial` or from the scan before.
            deterministic: means instead of samples.
        """

    @abstractmethod
    def step(self, state: State, action_NA: Tensor | None, noise_NS: Tensor) -> State:
        """Go one step on without an observation."""

    def roll(self, state: State, horizon: int, *, deterministic: bool) -> State:
        """Go `horizon` steps on without actions or observations; `[N, horizon, ...]`."""
        rows = len(state["deter"])
        noise_T = self.noise(horizon, rows, like=state["deter"], deterministic=deterministic)
        states = []
        for noise_NS in noise_T:
            state = self.step(state, None, noise_NS)
            states.append(state)
        return _stacked(states)


class Inferring(Branch):
    """z_t ~ q(. | h_t, e_t) with h_t = GRU(h_{t-1}, [z_{t-1}, a_t]) (Iso-Dream eq. 1).

    Parameters at 50, 200, 200 beside the shared ones: inputs 10,200 + 200 A, posterior
    245,000 + 20,100 for an embedding of 1024.
    """

    def __init__(
        self, action: int, embed: int, *, stoch: int, deter: int, hidden: int, min_std: float
    ) -> None:
        super().__init__(stoch + action, stoch=stoch, deter=deter, hidden=hidden, min_std=min_std)
        self.post_hidden = nn.Linear(deter + embed, hidden)
        self.post_out = nn.Linear(hidden, 2 * stoch)

    def scan(
        self,
        embed_BTE: Tensor,
        action_BTA: Tensor | None,
        is_first: Tensor,
        state: State,
        *,
        deterministic: bool = False,
    ) -> Scan:
        """Go through a segment with posterior steps."""
        batch, length = is_first.shape
        noise_T = self.noise(length, batch, like=state["deter"], deterministic=deterministic)
        from_stoch, gru, from_deter, out = self._unrolled(embed_BTE, action_BTA)
        first_T = is_first.unsqueeze(-1).unbind(1)
        states, raws = [], []
        for t in range(length):
            state = {name: x.masked_fill(first_T[t], 0.0) for name, x in state.items()}
            x = F.elu(from_stoch(t, state["stoch"]))
            deter = self.cell.mix(gru(t, torch.cat([x, state["deter"]], -1)), state["deter"])
            raws.append(out(t, F.elu(from_deter(t, deter))))
            stoch = Gaussian.of(raws[-1], self.min_std).sample(noise_T[t])
            state = {"stoch": stoch, "deter": deter}
            states.append(state)
        found = _stacked(states)
        post = Gaussian.of(torch.stack(raws, 1), self.min_std)
        return Scan(found, state, self.prior(found["deter"]), post)

    def _unrolled(self, embed_BTE: Tensor, action_BTA: Tensor | None) -> tuple[Unrolled, ...]:
        """Layers of a posterior step in their order, for all steps of a scan."""
        batch, length = embed_BTE.shape[:2]

        def bias(layer: nn.Linear) -> Tensor:
            return lowered(layer.bias).expand(length, batch, -1)

        actions, embeds = bias(self.inputs), self.post_hidden.weight[:, self.deter :]
        if action_BTA is not None:
            weight = self.inputs.weight[:, self.stoch :]
            actions = F.linear(action_BTA.transpose(0, 1), weight, self.inputs.bias)
        return (
            Unrolled(self.inputs.weight[:, : self.stoch], actions),
            Unrolled(self.cell.linear.weight, bias(self.cell.linear), is_bias=True),
            Unrolled(
                self.post_hidden.weight[:, : self.deter],
                F.linear(embed_BTE.transpose(0, 1), embeds, self.post_hidden.bias),
            ),
            Unrolled(self.post_out.weight, bias(self.post_out), is_bias=True),
        )

    def step(self, state: State, action_NA: Tensor | None, noise_NS: Tensor) -> State:
        """Go one step on, sampling the prior."""
        stoch = state["stoch"]
        inputs = stoch if action_NA is None else torch.cat([stoch, action_NA], -1)
        deter = self.cell(F.elu(self.inputs(inputs)), state["deter"])
        return {"stoch": self.prior(deter).sample(noise_NS), "deter": deter}


class Following(Branch):
    """z_t ~ p(. | h_t) with h_t = GRU(h_{t-1}, e_{t-1}): no posterior, no action.

    It sees the embedding of the record before and has to predict; without one it sees zeros. Its
    samples do not feed back, so the loop holds the GRU alone. State: also `embed`, the embedding
    for the next record. Parameters of the inputs at 200, for an embedding of 1024: 205,000.
    """

    def __init__(self, embed: int, *, stoch: int, deter: int, hidden: int, min_std: float) -> None:
        super().__init__(embed, stoch=stoch, deter=deter, hidden=hidden, min_std=min_std)
        self.embed = embed

    def initial(self, batch: int, device: torch.device | str = "cpu") -> State:
        """All zeros."""
        start = super().initial(batch, device)
        return {**start, "embed": torch.zeros(batch, self.embed, device=device)}

    def scan(
        self,
        embed_BTE: Tensor,
        action_BTA: Tensor | None,
        is_first: Tensor,
        state: State,
        *,
        deterministic: bool = False,
    ) -> Scan:
        """Go through a segment; each record is predicted from those before it."""
        assert action_BTA is None, "this branch reads no action"
        batch, length = is_first.shape
        before = torch.cat([state["embed"].unsqueeze(1), embed_BTE[:, :-1]], 1)
        first = is_first.unsqueeze(-1)
        x_BTH = F.elu(self.inputs(before.masked_fill(first, 0.0)))
        bias = lowered(self.cell.linear.bias).expand(length, batch, -1)
        gru = Unrolled(self.cell.linear.weight, bias, is_bias=True)
        deter, deters = state["deter"], []
        for t in range(length):
            deter = deter.masked_fill(first[:, t], 0.0)
            deter = self.cell.mix(gru(t, torch.cat([x_BTH[:, t], deter], -1)), deter)
            deters.append(deter)
        found = torch.stack(deters, 1)
        prior = self.prior(found)
        noise = self.noise(batch, length, like=found, deterministic=deterministic)
        states = {"stoch": prior.sample(noise), "deter": found}
        last = {"stoch": states["stoch"][:, -1], "deter": deter, "embed": embed_BTE[:, -1]}
        return Scan(states, last, prior, None)

    def step(self, state: State, action_NA: Tensor | None, noise_NS: Tensor) -> State:
        """Go one step on with no embedding."""
        assert action_NA is None, "this branch reads no action"
        blind = F.elu(self.inputs.bias).expand(len(noise_NS), -1)
        deter = self.cell(blind, state["deter"])
        return {"stoch": self.prior(deter).sample(noise_NS), "deter": deter}


def _stacked(states: list[State]) -> State:
    return {name: torch.stack([state[name] for state in states], 1) for name in states[0]}
