"""LatentDynamics: the recurrent heart of a world model, p(z_t | z_<t, a_<t) and q(z_t | ..., o_t).

Three kinds of data are kept apart. A *latent* is per step, storable, stackable over time, and what
heads, decoders and policies read through views. A *carry* is what recurrence needs to go one step
on: opaque, never stacked over time. A *context* is constant over a segment.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from wmplatform.types import (
    Carry,
    Context,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    Policy,
    tree_map,
)

__all__ = ["Capabilities", "Imagined", "LatentDynamics", "Observed", "Starts"]


@dataclass(frozen=True)
class Capabilities:
    """What a dynamics can do; read by trainers and behaviors when an agent is assembled."""

    supports_imagination: bool = True
    """`imagine` exists."""
    differentiable_rollout: bool = True
    """Gradients flow from imagined states to the actions that led there."""
    action_free: bool = False
    """`observe` accepts `actions=None` (video without actions)."""
    max_horizon: int | None = None
    """Longest rollout without observations; None for no limit."""
    warmup_frames: int = 0
    """Observations needed before the first imagined step."""
    needs_context: bool = False
    """`observe` needs a context; what imagination and acting need of it is in the carry."""
    resets_mid_sequence: bool = True
    """`is_first` may be set inside a segment."""
    observed_only: frozenset[str] = frozenset()
    """Views that states from `starts` and `imagine` do not have, because imagination leaves out
    what they read (the action-free half of a stacked model, say)."""
    ignores_actions: frozenset[str] = frozenset()
    """Views, or parts of one such as `decode/free`, that no action reaches, by design."""
    samples: frozenset[str] = frozenset({"observe", "imagine"})
    """Which of the two draw random numbers unless `deterministic`; `observe_step` as `observe`."""
    batch_statistics: bool = False
    """In train mode rows see each other, as under batch normalisation."""


@dataclass
class Observed:
    """What `observe` returns."""

    states: Latent
    """Posterior states of the records that remain, `[B, T', ...]` each."""
    carry: Carry
    """To go on after the last record."""
    records: slice = field(default_factory=lambda: slice(None))
    """Which records of the segment remain (a model may use up the first ones)."""
    aux: dict[str, Any] = field(default_factory=dict)
    """The dynamics' own business, e.g. prior and posterior logits for `losses`."""


@dataclass
class Starts:
    """Where imagination starts: N detached rows."""

    states: Latent
    """`[N, ...]` each."""
    carry: Carry
    """Of the same N rows."""
    rows: Tensor
    """int64 `[N]`: which of the B * T' observed records, counted row after row, each one is. So
    behaviors pair starts with records (and with contexts: `rows // T'`)."""


@dataclass
class Imagined:
    """What `imagine` returns; index 0 is one step after the start."""

    states: Latent
    """`[N, H, ...]` each."""
    actions: Tensor
    """`[N, H, A]`; `actions[:, i]` led into `states[..][:, i]`."""
    carry: Carry
    """Of the same N rows, to imagine on from the last states."""


class LatentDynamics(nn.Module, ABC):
    """A latent state-space model behind one contract, be it an RSSM, branches or a transformer.

    A subclass is built with `(embeds, action, *, its own settings)`: the specs of the encoder's
    output and of the action.

    Laws, in every row and at every record. They hold in eval and in train mode; in train mode 1, 3
    and 6 are tried only where `deterministic=True` draws nothing there either (no dropout).

    1. `actions[:, t]` is the action that led *into* record t; where `is_first[:, t]` it is ignored.
    2. `observe` over T records equals T calls of `observe_step` (equal random numbers, or
       `deterministic=True`).
    3. `is_first[b, t]` makes everything from t on independent of everything before t, for that b
       only, even where the past holds NaN or infinity.
    4. `imagine` never sees an observation; its first output is one step after the start, reached
       by the first action. It starts equally from `starts` and from the state and carry of
       `observe_step`, and from `Imagined.carry` it goes on as if it had not stopped.
    5. Rows do not leak into each other, and neither their places nor their number matter. With
       `capabilities.batch_statistics` this is left unchecked in train mode: what the statistics
       carry from row to row cannot be told from a leak.
    6. The state of record t depends on records up to t only, and does depend on `actions[:, t]` and
       on the embedding of t; every entry of every embedding reaches a state, and so does the
       context that `needs_context` asks for. Actions reach every view in observed or imagined
       states, and in imagined ones at once, but for `capabilities.ignores_actions`, which none
       reaches.
    7. `features(state, view)` has the shape of `feature_spec(view)` for every name of `views`, is
       fp32 and finite, and treats leading dims alike, for observed and for imagined states.
    8. Gradients of the losses reach every parameter that `losses` says it trains, gradients of
       imagined features reach the actions iff `differentiable_rollout`, and none passes `detach`.
    9. With `deterministic=True` no random number is drawn. Without, those that
       `capabilities.samples` names draw anew for every row and every step, and the others draw
       nothing. (Whether the draws follow the right distribution, and whether the deterministic
       state is the likeliest, only the model itself could say.)
    10. Nothing that is passed in is written to.
    """

    capabilities: Capabilities = Capabilities()
    loss_names: tuple[str, ...] = ()
    """Names of the divergences that `losses` returns; known before it runs."""

    @property
    @abstractmethod
    def views(self) -> frozenset[str]:
        """Names `features` knows; at least `policy`, `value`, `reward`, `decode`."""

    @abstractmethod
    def feature_spec(self, view: str) -> FeatureSpec:
        """Shape and dtype of `features(state, view)`, without leading dims."""

    @abstractmethod
    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        """The carry before any observation, for `batch` rows."""

    @abstractmethod
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
        """Infer the states of a segment.

        Args:
            embeds: the encoder's output, `[B, T, ...]` each.
            actions: float32 `[B, T, A]`, the action that led into each record; None only where
                `capabilities.action_free`.
            is_first: bool `[B, T]`.
            carry: of `B` rows, or None for `initial`.
            context: `[B, ...]` each, or None.
            deterministic: take the most likely state instead of a sample.
        """

    @abstractmethod
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
        """Infer the state of one record; as `observe`, without the time axis."""

    @abstractmethod
    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        """Compute the divergences of `loss_names`, each a scalar with its own free-nats rule.

        Returns:
            Scalar losses by name (none for a model without a prior), and metrics.
        """

    @abstractmethod
    def features(self, state: Latent, view: str) -> Features:
        """Read a state through a view; fp32, any leading dims."""

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
        """Roll out without observations.

        Args:
            start: N states, `[N, ...]` each; the policy's first input.
            carry: of the same N rows (see `starts`).
            policy: called with `features(state, "policy")`, or actions `[N, H, A]`; for a video
                without actions A is 0.
            horizon: H, the number of steps.
            context: `[N, ...]` each, or None where the carry holds what is needed of it.
            deterministic: take the most likely state instead of a sample.
        """
        raise NotImplementedError(f"{type(self).__name__} does not support imagination")

    def starts(self, observed: Observed) -> Starts:
        """Gather start states and carries for imagination, detached.

        The default serves dynamics whose carry is the latent itself, and gives all B * T' rows. A
        dynamics whose carry is large or known for few records only gives a share of them.
        """
        states = tree_map(lambda x: x.detach().flatten(0, 1), observed.states)
        first: Tensor = pytree.tree_leaves(states)[0]
        return Starts(states, states, torch.arange(len(first), device=first.device))

    def select(self, carry: Carry, index: Tensor) -> Carry:
        """Take rows of a carry (gathering start states, dropping or repeating candidates)."""
        return tree_map(lambda x: x.index_select(0, index), carry)

    def detach(self, carry: Carry) -> Carry:
        """Cut the carry's gradient."""
        return tree_map(lambda x: x.detach(), carry)
