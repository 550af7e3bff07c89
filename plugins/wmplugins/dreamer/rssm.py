"""Recurrent state-space model with categorical latents (DreamerV2 eq. 1).

Shape letters: B batch, T time, N rows, A action, S stochastic (groups x classes, flattened), D
deterministic, E embedding. The recurrence works on plain tensors; what is not recurrent is taken
out of the loop: actions and embeddings are projected for all T at once, prior logits are computed
from the stacked deterministic states, and the noise of all samples is drawn in one call.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.nn import functional as F

from wmplatform.distributions import race_noise, sample_one_hot
from wmplatform.interfaces import Imagined, LatentDynamics, Observed
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
)
from wmplugins.dreamer.nets import dense, glorot_

__all__ = ["RSSM", "GRUCell", "RSSMCell", "balanced_kl", "categorical_kl"]

GruInit = Literal["glorot", "torch"]


def categorical_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) summed over the groups, `[..., G, K]` to `[...]`.

    In log-softmax arithmetic, so a probability of q that underflows does not give infinity.
    """
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


def balanced_kl(
    post: Tensor, prior: Tensor, balance: float, free_nats: float
) -> tuple[Tensor, Tensor]:
    """KL loss with balancing (DreamerV2 algorithm 2) and free nats on the batch mean.

    `balance` is the share that trains the prior: the mean over all records is clipped at
    `free_nats` first, so below it the gradient is exactly zero.

    Args:
        post: posterior logits fp32 `[B, T, G, K]`.
        prior: prior logits fp32 `[B, T, G, K]`.
        balance: weight of the divergence that trains the prior.
        free_nats: nats below which the mean is not pushed.

    Returns:
        The loss, a scalar, and the plain KL of each record `[B, T]`, detached.
    """
    to_post = categorical_kl(post, prior.detach())
    to_prior = categorical_kl(post.detach(), prior)
    loss = (1 - balance) * to_post.mean().clamp_min(free_nats)
    loss = loss + balance * to_prior.mean().clamp_min(free_nats)
    return loss, to_post.detach()


def entropy(logits: Tensor) -> Tensor:
    """Entropy summed over the groups, `[..., G, K]` to `[...]`."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum((-2, -1))


class GRUCell(nn.Module):
    """GRU with one LayerNorm (eps 1e-3) over all three gates (DreamerV2 appendix).

    Gates in the order reset, candidate, update. The reset gate scales the candidate's whole
    pre-activation, and the update gate is biased by -1.
    """

    def __init__(self, inputs: int, units: int, init: GruInit = "glorot") -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + units, 3 * units)
        if init == "glorot":
            glorot_(self.linear)
        self.norm = nn.LayerNorm(3 * units, eps=1e-3)

    def forward(self, x_NI: Tensor, h_ND: Tensor) -> Tensor:
        """Go one step: `[N, inputs]`, `[N, units]` to `[N, units]`."""
        gates = self.norm(self.linear(torch.cat([x_NI, h_ND], -1)).float())
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(h_ND, candidate, torch.sigmoid(update - 1))


class RSSMCell(nn.Module):
    """The networks of one RSSM, split so that callers hoist what is not recurrent.

    Args:
        action: width of the action input; 0 for a model without one.
        embed: width of the posterior's embedding input.
    """

    img_in: nn.Linear
    obs_out: nn.Linear

    def __init__(
        self,
        action: int,
        embed: int,
        *,
        deter: int,
        hidden: int,
        groups: int,
        classes: int,
        gru_init: GruInit = "glorot",
    ) -> None:
        super().__init__()
        self.deter, self.groups, self.classes = deter, groups, classes
        self.stoch = groups * classes
        self.img_in = glorot_(nn.Linear(self.stoch + action, hidden))
        self.gru = GRUCell(hidden, deter, gru_init)
        self.img_out = dense(deter, hidden)
        self.img_dist = glorot_(nn.Linear(hidden, self.stoch))
        self.obs_out = glorot_(nn.Linear(deter + embed, hidden))
        self.obs_dist = glorot_(nn.Linear(hidden, self.stoch))

    def project_action(self, action: Tensor) -> Tensor:
        """Action's share of the recurrent input, `[*lead, A]` to `[*lead, hidden]`."""
        return F.linear(action, self.img_in.weight[:, self.stoch :], self.img_in.bias)

    def project_embed(self, embed: Tensor) -> Tensor:
        """Embedding's share of the posterior, `[*lead, E]` to `[*lead, hidden]`."""
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


class RSSM(LatentDynamics):
    """DreamerV2's latent dynamics: GRU memory and `groups` categoricals of `classes` classes.

    State: `stoch` one-hot fp32 `[*lead, groups * classes]`, `deter` fp32 `[*lead, deter]`. Every
    view is the same vector, stochastic part first. The carry is the state.

    Parameters at the defaults with an action of 4 and an embedding of 1536: 13,125,632.
    """

    loss_names = ("kl",)

    def __init__(
        self,
        embeds: Mapping[str, ArraySpec],
        action: ActionSpec,
        *,
        deter: Annotated[int, Ge(1)] = 1024,
        hidden: Annotated[int, Ge(1)] = 1024,
        groups: Annotated[int, Ge(1)] = 32,
        classes: Annotated[int, Ge(2)] = 32,
        pad_action: Annotated[int, Ge(0)] = 0,
        kl_balance: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.8,
        free_nats: Annotated[float, Ge(0.0)] = 0.0,
        gru_init: GruInit = "glorot",
        reset: Literal["select", "multiply"] = "select",
        embed: str = "embed",
    ) -> None:
        """Build the networks.

        Args:
            embeds: the encoder's output specs; `embed` is the one that is read.
            action: the action's spec.
            deter: units of the GRU.
            hidden: units of the dense layers.
            groups: number of categoricals.
            classes: classes of each.
            pad_action: pad actions with zeros to this width (0: as they are), so that a model
                keeps its shape over action spaces (APV pads to 50).
            kl_balance: share of the KL that trains the prior.
            free_nats: the mean KL is not pushed below this.
            gru_init: `glorot` as the original, `torch` as the ContextWM authors' code.
            reset: `multiply` reproduces codes that reset by multiplying with zero, where NaN
                survives; `select` does not let it.
            embed: name of the embedding to read.
        """
        super().__init__()
        if embed not in embeds:
            raise ValueError(f"no embedding {embed!r}; the encoder gives {sorted(embeds)}")
        if pad_action and pad_action < action.size:
            raise ValueError(f"pad_action = {pad_action} is less than the action's {action.size}")
        if len(embeds[embed].shape) != 1:
            raise ValueError(f"embedding {embed!r} is no vector: {embeds[embed].shape}")
        self.embed, self.kl_balance, self.free_nats, self.reset = (
            embed,
            kl_balance,
            free_nats,
            reset,
        )
        self._pad = max(pad_action - action.size, 0)
        self.cell = RSSMCell(
            action.size + self._pad,
            embeds[embed].shape[0],
            deter=deter,
            hidden=hidden,
            groups=groups,
            classes=classes,
            gru_init=gru_init,
        )

    @property
    def views(self) -> frozenset[str]:
        """All views are the same vector."""
        return frozenset({"policy", "value", "reward", "continue", "decode", "intrinsic"})

    def feature_spec(self, view: str) -> FeatureSpec:
        """One vector of `groups * classes + deter` entries."""
        del view
        return ArraySpec((self.cell.stoch + self.cell.deter,))

    def features(self, state: Latent, view: str) -> Features:
        """Concatenate stochastic and deterministic part, `[*lead, S + D]`."""
        del view
        return torch.cat([state["stoch"], state["deter"]], -1)

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        """All zeros; there is no learned initial state."""
        return {
            "stoch": torch.zeros(batch, self.cell.stoch, device=device),
            "deter": torch.zeros(batch, self.cell.deter, device=device),
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
        """Scan a segment with posterior steps; the prior is computed after the loop, unsampled."""
        del context
        embed, cell = embeds[self.embed], self.cell
        batch, length = is_first.shape
        carry = self.initial(batch, embed.device) if carry is None else carry
        embed_T = cell.project_embed(embed).unbind(1)
        action_T = cell.project_action(self._actions(actions, is_first)).unbind(1)
        first_T = is_first.unbind(1)
        noise_T = cell.noise(length, batch, like=carry["deter"], deterministic=deterministic)
        stoch, deter = carry["stoch"], carry["deter"]
        from_stoch, from_deter = cell.stoch_weight(), cell.deter_weight()
        stochs, deters, posts = [], [], []
        for t in range(length):
            stoch, deter = self._reset(first_T[t], stoch, deter)
            deter = cell.advance(stoch, deter, action_T[t], from_stoch)
            post = cell.posterior(deter, embed_T[t], from_deter)
            stoch = sample_one_hot(post, noise_T[t]).flatten(1)
            stochs.append(stoch)
            deters.append(deter)
            posts.append(post)
        states = {"stoch": torch.stack(stochs, 1), "deter": torch.stack(deters, 1)}
        aux = {"post": torch.stack(posts, 1), "prior": cell.prior(states["deter"])}
        return Observed(states, {"stoch": stoch, "deter": deter}, aux=aux)

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
        """One posterior step for N rows, while acting."""
        del context
        cell = self.cell
        stoch, deter = self._reset(is_first, carry["stoch"], carry["deter"])
        action_NH = cell.project_action(self._actions(action, is_first))
        deter = cell.advance(stoch, deter, action_NH, cell.stoch_weight())
        post = cell.posterior(deter, cell.project_embed(embeds[self.embed]), cell.deter_weight())
        noise = cell.noise(len(is_first), like=deter, deterministic=deterministic)
        state = {"stoch": sample_one_hot(post, noise).flatten(1), "deter": deter}
        return state, state

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
        """Scan prior steps, each sampled, under a policy or given actions."""
        del context
        cell = self.cell
        state = {"stoch": carry["stoch"], "deter": carry["deter"]}
        rows = len(state["deter"])
        noise_H = cell.noise(horizon, rows, like=state["deter"], deterministic=deterministic)
        from_stoch = cell.stoch_weight()
        stochs, deters, actions = [], [], []
        features = self.features(start, "policy")
        for i in range(horizon):
            action = policy[:, i] if isinstance(policy, Tensor) else policy(features)
            padded = F.pad(action, (0, self._pad)) if self._pad else action
            action_NH = cell.project_action(padded)
            deter = cell.advance(state["stoch"], state["deter"], action_NH, from_stoch)
            stoch = sample_one_hot(cell.prior(deter), noise_H[i]).flatten(1)
            state = {"stoch": stoch, "deter": deter}
            features = self.features(state, "policy")
            stochs.append(stoch)
            deters.append(deter)
            actions.append(action)
        states = {"stoch": torch.stack(stochs, 1), "deter": torch.stack(deters, 1)}
        return Imagined(states, torch.stack(actions, 1))

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        """One divergence, `kl`, balanced and clipped at the free nats."""
        post, prior = observed.aux["post"], observed.aux["prior"]
        loss, kl = balanced_kl(post, prior, self.kl_balance, self.free_nats)
        metrics = {
            "model_kl": kl.mean(),
            "post_entropy": entropy(post.detach()).mean(),
            "prior_entropy": entropy(prior.detach()).mean(),
        }
        return {"kl": loss}, metrics

    def _reset(self, first: Tensor, stoch: Tensor, deter: Tensor) -> tuple[Tensor, Tensor]:
        if self.reset == "multiply":
            keep = (~first).to(deter.dtype).unsqueeze(-1)
            return stoch * keep, deter * keep
        gone = first.unsqueeze(-1)
        return stoch.masked_fill(gone, 0.0), deter.masked_fill(gone, 0.0)

    def _actions(self, actions: Tensor | None, is_first: Tensor) -> Tensor:
        if actions is None:
            raise ValueError("dynamics.rssm is action-conditional; this batch has no actions")
        actions = torch.where(is_first.unsqueeze(-1), 0.0, actions)
        return F.pad(actions, (0, self._pad)) if self._pad else actions

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"deter": 8, "hidden": 8, "groups": 4, "classes": 4}
