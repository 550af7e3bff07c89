"""DreamerV2's latent dynamics (Hafner et al. 2021, eq. 1) behind the LatentDynamics contract."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.nn import functional as F

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
from wmplugins.blocks import (
    Init,
    Reset,
    RSSMCell,
    RSSMState,
    balanced_kl,
    categorical_kl,
    embed_size,
    kl_metrics,
)

__all__ = ["RSSM", "SingleRSSM", "action_input"]


def action_input(action: Tensor, pad: int) -> Tensor:
    """Pad an action `[*lead, A]` with zeros on the right."""
    return F.pad(action, (0, pad)) if pad else action


class SingleRSSM(LatentDynamics):
    """Dynamics of one RSSM cell, whatever the cell is called and reads of actions.

    State: `stoch` one-hot fp32 `[*lead, groups * classes]`, `deter` fp32 `[*lead, deter]`. Every
    view is the same vector, stochastic part first. The carry is the state.
    """

    loss_names = ("kl",)

    embed: str
    """Name of the embedding that is read."""
    kl_balance: float
    free_nats: float

    @property
    @abstractmethod
    def core(self) -> RSSMCell:
        """The cell; a subclass registers it under a name of its own."""

    @abstractmethod
    def led_into(self, actions: Tensor | None, is_first: Tensor) -> Tensor | None:
        """Recorded actions `[*lead, A]` without those at an episode's start; None for no actions.

        Raises:
            ValueError: the cell needs actions, and there are none.
        """

    @abstractmethod
    def project(self, actions: Tensor | None) -> Tensor:
        """Actions' share of the recurrent input, `[*lead, H]`, or `[H]` without actions."""

    @property
    def views(self) -> frozenset[str]:
        """All views are the same vector."""
        return frozenset({"policy", "value", "reward", "continue", "decode", "intrinsic"})

    def feature_spec(self, view: str) -> FeatureSpec:
        """One vector of `groups * classes + deter` entries."""
        del view
        return ArraySpec((self.core.features,))

    def features(self, state: Latent, view: str) -> Features:
        """Concatenate stochastic and deterministic part, `[*lead, S + D]`."""
        del view
        return torch.cat([state["stoch"], state["deter"]], -1)

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        """All zeros; there is no learned initial state."""
        return self.core.initial(batch, device)

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
        embed, cell = embeds[self.embed], self.core
        start = cell.initial(len(embed), embed.device) if carry is None else carry
        action_BTH = self.project(self.led_into(actions, is_first))
        scan = cell.scan(
            cell.project_embed(embed), action_BTH, is_first, start, deterministic=deterministic
        )
        aux = {"post": scan.post, "prior": cell.prior(scan.states["deter"])}
        return Observed(scan.states, scan.last, aux=aux)

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
        state = self.core.step(
            self.core.project_embed(embeds[self.embed]),
            self.project(self.led_into(action, is_first)),
            is_first,
            carry,
            deterministic=deterministic,
        )
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
        del context, start
        actions: list[Tensor] = []

        def action_at(i: int, state: RSSMState) -> Tensor:
            if isinstance(policy, Tensor):
                actions.append(policy[:, i])
            else:
                actions.append(policy(self.features(state, "policy")))
            return self.project(actions[-1])

        states = self.core.roll(carry, action_at, horizon, deterministic=deterministic)
        last = {name: x[:, -1] for name, x in states.items()}
        return Imagined(states, torch.stack(actions, 1), last)

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        """One divergence, `kl`, balanced and clipped at the free nats."""
        post, prior = observed.aux["post"], observed.aux["prior"]
        loss, kl = balanced_kl(post, prior, self.kl_balance, self.free_nats, categorical_kl)
        return {"kl": loss}, kl_metrics(kl, post, prior)


class RSSM(SingleRSSM):
    """DreamerV2's latent dynamics: GRU memory and `groups` categoricals of `classes` classes.

    State: `stoch` one-hot fp32 `[*lead, groups * classes]`, `deter` fp32 `[*lead, deter]`. Every
    view is the same vector, stochastic part first. The carry is the state.

    Parameters at the defaults with an action of 4 and an embedding of 1536: 13,125,632.
    """

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
        gru_init: Init = "glorot",
        reset: Reset = "select",
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
        if pad_action and pad_action < action.size:
            raise ValueError(f"pad_action = {pad_action} is less than the action's {action.size}")
        self.embed, self.kl_balance, self.free_nats = embed, kl_balance, free_nats
        self._pad = max(pad_action - action.size, 0)
        self.cell = RSSMCell(
            action.size + self._pad,
            embed_size(embeds, embed),
            deter=deter,
            hidden=hidden,
            groups=groups,
            classes=classes,
            gru_init=gru_init,
            reset=reset,
        )

    @property
    def core(self) -> RSSMCell:
        """The cell."""
        return self.cell

    def led_into(self, actions: Tensor | None, is_first: Tensor) -> Tensor | None:
        """Zero the actions at an episode's start."""
        if actions is None:
            raise ValueError("dynamics.rssm is action-conditional; this batch has no actions")
        return torch.where(is_first.unsqueeze(-1), 0.0, actions)

    def project(self, actions: Tensor | None) -> Tensor:
        """Pad and project actions."""
        assert actions is not None
        return self.cell.project_action(action_input(actions, self._pad))

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"deter": 8, "hidden": 8, "groups": 4, "classes": 4}
