"""Recurrent cells: a GRU, and DreamerV2's recurrent state-space cell with its scans over time.

Shape letters: B batch, T time, N rows, A action, S stochastic (G groups x K classes, flattened), D
deterministic, E embedding, H hidden. The recurrence works on plain tensors; what is not recurrent
is taken out of the loops: actions and embeddings are projected for all T at once, prior logits are
computed from the stacked deterministic states, the noise of all samples is drawn in one call, and
weights get one gradient for all steps of a posterior scan.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wmplatform.distributions import race_noise, sample_one_hot
from wmplugins.blocks.layers import Init, dense, glorot_
from wmplugins.blocks.unrolled import Unrolled, lowered

__all__ = ["GRUCell", "RSSMCell", "RSSMScan", "RSSMState", "Reset"]

Reset = Literal["select", "multiply"]
RSSMState = dict[str, Tensor]
"""`stoch` one-hot fp32 `[*lead, S]` and `deter` fp32 `[*lead, D]`."""


class RSSMScan(NamedTuple):
    """A posterior scan over a segment."""

    states: RSSMState
    """`[B, T, ...]`."""
    last: RSSMState
    """`[B, ...]`."""
    post: Tensor
    """Posterior logits fp32 `[B, T, G, K]`."""


class GRUCell(nn.Module):
    """GRU with one LayerNorm over all three gates (DreamerV2 appendix, eps 1e-3 there).

    Gates in the order reset, candidate, update. The reset gate scales the candidate's whole
    pre-activation, and the update gate is biased by -1.
    """

    def __init__(
        self, inputs: int, units: int, init: Init = "glorot", *, eps: float = 1e-3
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + units, 3 * units)
        if init == "glorot":
            glorot_(self.linear)
        self.norm = nn.LayerNorm(3 * units, eps=eps)

    def forward(self, x_NI: Tensor, h_ND: Tensor) -> Tensor:
        """Go one step: `[N, inputs]`, `[N, units]` to `[N, units]`."""
        return self.mix(self.linear(torch.cat([x_NI, h_ND], -1)), h_ND)

    def mix(self, gates_NG: Tensor, h_ND: Tensor) -> Tensor:
        """Go on from the linear layer's outputs `[N, 3 * units]`."""
        gates = self.norm(gates_NG.float())
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(h_ND, candidate, torch.sigmoid(update - 1))


class RSSMCell(nn.Module):
    """The networks of one RSSM, split so that callers hoist what is not recurrent.

    Args:
        action: width of the action input; 0 for a model without one.
        embed: width of the posterior's embedding input.
        deter: D, units of the GRU.
        hidden: H, units of the dense layers.
        groups: G, number of categoricals.
        classes: K, classes of each.
        gru_init: `glorot` as the original, `torch` as the ContextWM authors' code.
        reset: `multiply` reproduces codes that reset by multiplying with zero, where NaN survives.
    """

    img_in: nn.Linear
    obs_out: nn.Linear
    obs_dist: nn.Linear

    def __init__(
        self,
        action: int,
        embed: int,
        *,
        deter: int,
        hidden: int,
        groups: int,
        classes: int,
        gru_init: Init = "glorot",
        reset: Reset = "select",
    ) -> None:
        super().__init__()
        self.deter, self.groups, self.classes, self.reset = deter, groups, classes, reset
        self.stoch = groups * classes
        self.img_in = glorot_(nn.Linear(self.stoch + action, hidden))
        self.gru = GRUCell(hidden, deter, gru_init)
        self.img_out = dense(deter, hidden)
        self.img_dist = glorot_(nn.Linear(hidden, self.stoch))
        self.obs_out = glorot_(nn.Linear(deter + embed, hidden))
        self.obs_dist = glorot_(nn.Linear(hidden, self.stoch))

    @property
    def features(self) -> int:
        """Width of the concatenated state, S + D."""
        return self.stoch + self.deter

    def initial(self, batch: int, device: torch.device | str = "cpu") -> RSSMState:
        """All zeros; there is no learned initial state."""
        return {
            "stoch": torch.zeros(batch, self.stoch, device=device),
            "deter": torch.zeros(batch, self.deter, device=device),
        }

    def project_action(self, action: Tensor | None) -> Tensor:
        """Action's share of the recurrent input, `[*lead, A]` to `[*lead, H]`.

        Without an action it is the bias `[H]`: what a zero action would give, at no cost.
        """
        if action is None:
            return self.img_in.bias
        return F.linear(action, self.img_in.weight[:, self.stoch :], self.img_in.bias)

    def project_embed(self, embed: Tensor) -> Tensor:
        """Embedding's share of the posterior, `[*lead, E]` to `[*lead, H]`."""
        return F.linear(embed, self.obs_out.weight[:, self.deter :], self.obs_out.bias)

    def stoch_weight(self) -> Tensor:
        """Share of the input layer that reads the stochastic state; take it before a loop.

        A slice in the loop would build a gradient of the whole layer at every step.
        """
        return self.img_in.weight[:, : self.stoch]

    def deter_weight(self) -> Tensor:
        """Share of the posterior's layer that reads the deterministic state."""
        return self.obs_out.weight[:, : self.deter]

    def advance(
        self, stoch_NS: Tensor, deter_ND: Tensor, action_NH: Tensor, weight: Tensor
    ) -> Tensor:
        """One recurrent step: previous state and projected action to the next `[N, D]`."""
        x = F.elu(action_NH + F.linear(stoch_NS, weight))
        h: Tensor = self.gru(x, deter_ND)
        return h

    def posterior(self, deter: Tensor, embed_proj: Tensor, weight: Tensor) -> Tensor:
        """Posterior logits fp32 `[*lead, G, K]` from `[*lead, D]` and the projected embedding."""
        x = F.elu(embed_proj + F.linear(deter, weight))
        return self.grouped(self.obs_dist(x))

    def prior(self, deter: Tensor) -> Tensor:
        """Prior logits fp32 `[*lead, G, K]`."""
        return self.grouped(self.img_dist(self.img_out(deter)))

    def grouped(self, flat: Tensor) -> Tensor:
        """View `[*lead, S]` as fp32 `[*lead, G, K]`."""
        return flat.float().unflatten(-1, (self.groups, self.classes))

    def noise(self, *lead: int, like: Tensor, deterministic: bool) -> Tensor:
        """Noise for the samples of a rollout, `[*lead, G, K]`; zeros give the mode."""
        shape = (*lead, self.groups, self.classes)
        return like.new_zeros(shape) if deterministic else race_noise(shape, like)

    def forget(self, is_first: Tensor, state: RSSMState) -> RSSMState:
        """Zero the state of the rows `[N]` that begin an episode."""
        if self.reset == "multiply":
            keep = (~is_first).float().unsqueeze(-1)
            return {name: value * keep for name, value in state.items()}
        gone = is_first.unsqueeze(-1)
        return {name: value.masked_fill(gone, 0.0) for name, value in state.items()}

    def scan(
        self,
        embed_BTH: Tensor,
        action_BTH: Tensor,
        is_first: Tensor,
        state: RSSMState,
        *,
        deterministic: bool = False,
    ) -> RSSMScan:
        """Go through a segment with posterior steps.

        Args:
            embed_BTH: from `project_embed`.
            action_BTH: from `project_action`; `[H]` without actions.
            is_first: bool `[B, T]`.
            state: before the segment, `[B, ...]`.
            deterministic: the most likely state instead of a sample.
        """
        batch, length = is_first.shape
        first_T = is_first.unbind(1)
        noise_T = self.noise(length, batch, like=state["deter"], deterministic=deterministic)
        from_stoch, gru, from_deter, dist = self._unrolled(embed_BTH, action_BTH)
        stochs, deters, posts = [], [], []
        for t in range(length):
            state = self.forget(first_T[t], state)
            x = F.elu(from_stoch(t, state["stoch"]))
            deter = self.gru.mix(gru(t, torch.cat([x, state["deter"]], -1)), state["deter"])
            post = self.grouped(dist(t, F.elu(from_deter(t, deter))))
            state = {"stoch": sample_one_hot(post, noise_T[t]).flatten(1), "deter": deter}
            stochs.append(state["stoch"])
            deters.append(deter)
            posts.append(post)
        states = {"stoch": torch.stack(stochs, 1), "deter": torch.stack(deters, 1)}
        return RSSMScan(states, state, torch.stack(posts, 1))

    def _unrolled(self, embed_BTH: Tensor, action_BTH: Tensor) -> tuple[Unrolled, ...]:
        """Layers of a posterior step in their order, for all steps of a scan."""
        batch, length = embed_BTH.shape[:2]

        def bias(layer: nn.Linear) -> Tensor:
            return lowered(layer.bias).expand(length, batch, -1)

        actions = action_BTH.expand(batch, length, -1).transpose(0, 1)
        return (
            Unrolled(self.stoch_weight(), actions),
            Unrolled(self.gru.linear.weight, bias(self.gru.linear), is_bias=True),
            Unrolled(self.deter_weight(), embed_BTH.transpose(0, 1)),
            Unrolled(self.obs_dist.weight, bias(self.obs_dist), is_bias=True),
        )

    def step(
        self,
        embed_NH: Tensor,
        action_NH: Tensor,
        is_first: Tensor,
        state: RSSMState,
        *,
        deterministic: bool = False,
    ) -> RSSMState:
        """One posterior step for N rows; as `scan`, without the time axis."""
        state = self.forget(is_first, state)
        deter = self.advance(state["stoch"], state["deter"], action_NH, self.stoch_weight())
        post = self.posterior(deter, embed_NH, self.deter_weight())
        noise = self.noise(len(is_first), like=deter, deterministic=deterministic)
        return {"stoch": sample_one_hot(post, noise).flatten(1), "deter": deter}

    def roll(
        self,
        state: RSSMState,
        action_at: Callable[[int, RSSMState], Tensor],
        horizon: int,
        *,
        deterministic: bool = False,
    ) -> RSSMState:
        """Go on without observations, sampling the prior.

        Args:
            state: N rows to start from.
            action_at: gives the projected action `[N, H]` of step i from the state before it.
            horizon: number of steps.
            deterministic: the most likely state instead of a sample.

        Returns:
            States after each step, `[N, horizon, ...]`.
        """
        rows = len(state["deter"])
        noise_T = self.noise(horizon, rows, like=state["deter"], deterministic=deterministic)
        from_stoch = self.stoch_weight()
        stochs, deters = [], []
        for i in range(horizon):
            action_NH = action_at(i, state)
            deter = self.advance(state["stoch"], state["deter"], action_NH, from_stoch)
            stoch = sample_one_hot(self.prior(deter), noise_T[i]).flatten(1)
            state = {"stoch": stoch, "deter": deter}
            stochs.append(stoch)
            deters.append(deter)
        return {"stoch": torch.stack(stochs, 1), "deter": torch.stack(deters, 1)}
