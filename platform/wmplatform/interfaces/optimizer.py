"""Optimizer: gradients to parameter steps, for one group of parameters."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["Optimizer"]


class Optimizer(ABC):
    """Clips gradients and steps parameters.

    A subclass is built with `(parameters, *, its own settings)`; parameters that need no gradient
    are left out. It calls `Optimizer.__init__` with them.

    Laws:

    1. `clip` changes gradients in place, returns their global norm before that as a scalar, and
       leaves gradients within its limit as they are.
    2. `step` with `skip` 1 changes nothing, bit for bit, NaN in the gradients included; skipped
       steps are as if they had not been.
    3. `load_state_dict(state_dict())` continues bit for bit, and a state of other shapes is
       refused.
    4. A step against the gradient lowers a smooth loss, where the rate is small and not 0.
    5. Nothing waits for the device; on an accelerator the learning rate is a tensor that
       `set_rate` fills, so that a captured graph sees it change.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters: list[Tensor] = [p for p in parameters if p.requires_grad]

    @abstractmethod
    def set_rate(self, updates: int) -> None:
        """Set the learning rate for the update with this index, counted from 0."""

    @abstractmethod
    def clip(self, grads: list[Tensor]) -> Tensor:
        """Clip gradients, one for each parameter, in place; returns their norm before."""

    @abstractmethod
    def step(self, grads: list[Tensor], skip: Tensor) -> None:
        """Go one step.

        Args:
            grads: clipped, one for each parameter.
            skip: float scalar; 1 leaves parameters and state as they are.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes over time: a tree of tensors, lists and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state belongs to other parameters.
        """
