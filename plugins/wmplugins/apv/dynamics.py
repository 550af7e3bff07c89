"""Action-free dynamics for pre-training, and the stacked dynamics of fine-tuning (APV section 3).

Shape letters: B batch, T time, N rows, A action. `z` is the action-free latent, `s` the
action-conditional one on top of it.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Interval
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
from wmplugins.dreamer.rssm import SingleRSSM, action_input

__all__ = ["ActionFreeRSSM", "StackedRSSM"]

_VIEWS = frozenset({"policy", "value", "reward", "continue", "decode", "intrinsic"})


def _vector(state: RSSMState) -> Tensor:
    """Stochastic part first, `[*lead, S + D]`."""
    return torch.cat([state["stoch"], state["deter"]], -1)


class ActionFreeRSSM(SingleRSSM):
    """An RSSM without actions, learned from videos (APV eq. 1).

    Its cell is named `action_free`, as in `StackedRSSM`, so that pre-trained weights fit by name.
    The input layer keeps `pad_action` dead columns for the sake of checkpoints; they are not
    computed. Parameters at the defaults with an embedding of 3072: 14,745,600.
    """

    capabilities = Capabilities(
        action_free=True, differentiable_rollout=False, ignores_actions=_VIEWS
    )

    def __init__(
        self,
        embeds: Mapping[str, ArraySpec],
        action: ActionSpec,
        *,
        deter: Annotated[int, Ge(1)] = 1024,
        hidden: Annotated[int, Ge(1)] = 1024,
        groups: Annotated[int, Ge(1)] = 32,
        classes: Annotated[int, Ge(2)] = 32,
        pad_action: Annotated[int, Ge(0)] = 50,
        kl_balance: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.8,
        free_nats: Annotated[float, Ge(0.0)] = 0.0,
        gru_init: Init = "glorot",
        reset: Reset = "select",
        embed: str = "embed",
    ) -> None:
        """Build the networks; the settings are those of `dynamics.rssm`.

        Args:
            embeds: the encoder's output specs; `embed` is the one that is read.
            action: not used.
            deter: units of the GRU.
            hidden: units of the dense layers.
            groups: number of categoricals.
            classes: classes of each.
            pad_action: dead columns of the input layer.
            kl_balance: share of the KL that trains the prior.
            free_nats: the mean KL is not pushed below this.
            gru_init: initialisation of the GRU.
            reset: how an episode's start forgets.
            embed: name of the embedding to read.
        """
        super().__init__()
        self.embed, self.kl_balance, self.free_nats = embed, kl_balance, free_nats
        del action
        self.action_free = RSSMCell(
            pad_action,
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
        return self.action_free

    def led_into(self, actions: Tensor | None, is_first: Tensor) -> Tensor | None:
        """Look at no action."""
        del actions, is_first
        return None

    def project(self, actions: Tensor | None) -> Tensor:
        """What no action gives, `[H]`."""
        del actions
        return self.action_free.project_action(None)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"deter": 8, "hidden": 8, "groups": 4, "classes": 4, "pad_action": 6}


class StackedRSSM(LatentDynamics):
    """An action-conditional RSSM on the features of an action-free one (APV eq. 4).

    State `{"z": ..., "s": ...}`. Policies, heads and the decoder read s; the view `intrinsic`
    reads z. Imagination uses s alone, so imagined states hold no z. Both divergences are given:
    `kl` of s, and `af_kl` of z, which APV leaves out of the loss.

    Parameters at the defaults with an embedding of 3072: `action_free` 14,745,600 and
    `conditional` 13,697,024 (16,842,752 with `concat_embed`).
    """

    capabilities = Capabilities(
        observed_only=frozenset({"intrinsic"}), ignores_actions=frozenset({"intrinsic"})
    )
    loss_names = ("kl", "af_kl")

    def __init__(
        self,
        embeds: Mapping[str, ArraySpec],
        action: ActionSpec,
        *,
        deter: Annotated[int, Ge(1)] = 1024,
        hidden: Annotated[int, Ge(1)] = 1024,
        groups: Annotated[int, Ge(1)] = 32,
        classes: Annotated[int, Ge(2)] = 32,
        pad_action: Annotated[int, Ge(0)] = 50,
        concat_embed: bool = False,
        kl_balance: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.8,
        free_nats: Annotated[float, Ge(0.0)] = 0.0,
        gru_init: Init = "glorot",
        reset: Reset = "select",
        embed: str = "embed",
    ) -> None:
        """Build both RSSMs, of equal sizes.

        Args:
            embeds: the encoder's output specs; `embed` is the one that is read.
            action: the action's spec.
            deter: units of each GRU.
            hidden: units of the dense layers.
            groups: number of categoricals.
            classes: classes of each.
            pad_action: width of the action input of both, zeros on the right.
            concat_embed: the posterior of s reads the image embedding too, before z (used for
                DMControl and CARLA, not for Meta-World).
            kl_balance: share of the KL that trains the prior.
            free_nats: the mean KL is not pushed below this.
            gru_init: initialisation of the GRUs.
            reset: how an episode's start forgets.
            embed: name of the embedding to read.
        """
        super().__init__()
        if pad_action < action.size:
            raise ValueError(f"pad_action = {pad_action} is less than the action's {action.size}")
        self.embed, self.kl_balance, self.free_nats = embed, kl_balance, free_nats
        self.concat_embed, self._pad = concat_embed, pad_action - action.size
        width = embed_size(embeds, embed)

        def cell(inputs: int) -> RSSMCell:
            return RSSMCell(
                pad_action,
                inputs,
                deter=deter,
                hidden=hidden,
                groups=groups,
                classes=classes,
                gru_init=gru_init,
                reset=reset,
            )

        self.action_free = cell(width)
        self.conditional = cell(self.action_free.features + (width if concat_embed else 0))

    @property
    def views(self) -> frozenset[str]:
        """`intrinsic` is z, everything else s."""
        return _VIEWS

    def feature_spec(self, view: str) -> FeatureSpec:
        """One vector of `groups * classes + deter` entries."""
        del view
        return ArraySpec((self.conditional.features,))

    def features(self, state: Latent, view: str) -> Features:
        """Read z for `intrinsic`, else s."""
        return _vector(state["z"] if view == "intrinsic" else state["s"])

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        """All zeros."""
        return {
            "z": self.action_free.initial(batch, device),
            "s": self.conditional.initial(batch, device),
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
        """Scan z, project its features for all records at once, scan s."""
        del context
        low, high, embed = self.action_free, self.conditional, embeds[self.embed]
        start = self.initial(len(embed), embed.device) if carry is None else carry
        z = low.scan(
            low.project_embed(embed),
            low.project_action(None),
            is_first,
            start["z"],
            deterministic=deterministic,
        )
        s = high.scan(
            high.project_embed(self._evidence(embed, z.states)),
            high.project_action(self._action(actions, is_first)),
            is_first,
            start["s"],
            deterministic=deterministic,
        )
        aux = {
            "post": s.post,
            "prior": high.prior(s.states["deter"]),
            "af_post": z.post,
            "af_prior": low.prior(z.states["deter"]),
        }
        return Observed({"z": z.states, "s": s.states}, {"z": z.last, "s": s.last}, aux=aux)

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
        """One posterior step of z, then of s."""
        del context
        low, high, embed = self.action_free, self.conditional, embeds[self.embed]
        z = low.step(
            low.project_embed(embed),
            low.project_action(None),
            is_first,
            carry["z"],
            deterministic=deterministic,
        )
        s = high.step(
            high.project_embed(self._evidence(embed, z)),
            high.project_action(self._action(action, is_first)),
            is_first,
            carry["s"],
            deterministic=deterministic,
        )
        return {"z": z, "s": s}, {"z": z, "s": s}

    def starts(self, observed: Observed) -> Starts:
        """Every record's s, detached; z takes no part in imagination."""
        s = {key: x.detach().flatten(0, 1) for key, x in observed.states["s"].items()}
        rows = torch.arange(len(s["deter"]), device=s["deter"].device)
        return Starts({"s": s}, {"s": s}, rows)

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
        """Scan prior steps of s alone."""
        del start, context
        high, actions = self.conditional, []

        def action_at(i: int, state: RSSMState) -> Tensor:
            if isinstance(policy, Tensor):
                actions.append(policy[:, i])
            else:
                actions.append(policy(_vector(state)))
            return high.project_action(action_input(actions[-1], self._pad))

        states = high.roll(carry["s"], action_at, horizon, deterministic=deterministic)
        last = {name: x[:, -1] for name, x in states.items()}
        return Imagined({"s": states}, torch.stack(actions, 1), {"s": last})

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        """`kl` of s and `af_kl` of z, both balanced and clipped alike."""
        found: dict[str, Tensor] = {}
        metrics: Metrics = {}
        for prefix in ("", "af_"):
            post, prior = observed.aux[f"{prefix}post"], observed.aux[f"{prefix}prior"]
            found[f"{prefix}kl"], kl = balanced_kl(
                post, prior, self.kl_balance, self.free_nats, categorical_kl
            )
            metrics |= kl_metrics(kl, post, prior, prefix)
        return found, metrics

    def _evidence(self, embed: Tensor, z: RSSMState) -> Tensor:
        """What the posterior of s reads, the image embedding first."""
        return torch.cat([embed, _vector(z)], -1) if self.concat_embed else _vector(z)

    def _action(self, actions: Tensor | None, is_first: Tensor) -> Tensor:
        if actions is None:
            raise ValueError("dynamics.stacked is action-conditional; this batch has no actions")
        return action_input(torch.where(is_first.unsqueeze(-1), 0.0, actions), self._pad)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"deter": 8, "hidden": 8, "groups": 4, "classes": 4, "pad_action": 6}
