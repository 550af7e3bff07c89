"""Small types shared by the interfaces.

Shape letters used across the package: B batch, T time, N any product of leading dims, A action,
C H W image. Everything that has both is batch first: `[B, T, ...]`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec

__all__ = [
    "ActionSpec",
    "ArraySpec",
    "Batch",
    "Carry",
    "Context",
    "Distribution",
    "EnvSpec",
    "FeatureSpec",
    "Features",
    "Latent",
    "Metrics",
    "Mode",
    "Policy",
    "Target",
    "TensorTree",
    "select_where",
    "tree_map",
]

TensorTree: TypeAlias = Any
"""A tensor or a nested dict, tuple or list of tensors (a pytree)."""

Latent: TypeAlias = dict[str, Any]
"""Per-step state: a nested dict of tensors with equal leading dims. Storable, stackable."""

Carry: TypeAlias = Any
"""What recurrence needs to go one step on: an opaque pytree of tensors, never stacked over time."""

Context: TypeAlias = dict[str, Tensor]
"""What is constant over a segment: named tensors `[B, ...]`."""

Features: TypeAlias = Tensor | dict[str, "Features"]
"""One view of a latent: a tensor `[*lead, F]`, or several by name, nested where that helps."""

FeatureSpec: TypeAlias = ArraySpec | Mapping[str, "FeatureSpec"]
"""Shape and dtype of `Features`, without leading dims."""

Batch: TypeAlias = Mapping[str, Any]
"""Records by key, `[B, T, ...]` each, as replay gives them (a TensorDict or a dict)."""

Metrics: TypeAlias = dict[str, Tensor]
"""Scalars by name, detached, on the device until the logger asks."""

Mode: TypeAlias = Literal["train", "eval"]
"""`train` collects with exploration; `eval` is quiet."""

Policy: TypeAlias = Callable[[Features], Tensor]
"""Maps the view `policy` of N states to actions `[N, A]`; used inside imagination."""


class Distribution(Protocol):
    """What heads, decoders and actors return. `[*lead]` are the batch dims, event dims are summed.

    Every method is differentiable where that makes sense and never waits for the device.
    """

    @property
    def mean(self) -> Tensor:
        """Expectation, `[*lead, *event]`."""
        ...

    @property
    def mode(self) -> Tensor:
        """Most likely value, `[*lead, *event]`."""
        ...

    def sample(self) -> Tensor:
        """Draw once, `[*lead, *event]`, with pathwise or straight-through gradient."""
        ...

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood summed over event dims, `[*lead]`, fp32."""
        ...

    def entropy(self) -> Tensor:
        """Entropy summed over event dims, `[*lead]`, fp32."""
        ...


@dataclass(frozen=True)
class Target:
    """What a head should predict, and for which records of the segment."""

    values: Tensor
    """`[B, T']`, fp32; `[B, T', *event]` where a vector is predicted."""
    records: slice = field(default_factory=lambda: slice(None))
    """The records of the time axis that `values` belongs to; T' of them."""


def tree_map(function: Callable[..., Any], tree: TensorTree, *rest: TensorTree) -> TensorTree:
    """Apply `function` to every tensor of `tree` (and to its fellows in `rest`); None stays."""

    def apply(leaf: Any, *fellows: Any) -> Any:
        return None if leaf is None else function(leaf, *fellows)

    return pytree.tree_map(apply, tree, *rest)


def select_where(mask: Tensor, yes: TensorTree, no: TensorTree) -> TensorTree:
    """Take `yes` where `mask` `[N]` is true and `no` elsewhere, for every tensor `[N, ...]`.

    A select, not a product: what is not taken may hold NaN or infinity without harm.
    """

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)

    return tree_map(pick, yes, no)
