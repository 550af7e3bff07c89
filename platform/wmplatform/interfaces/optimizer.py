"""Optimizer: gradients to parameter steps, for one group of parameters."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wmplatform.forms import ANY

__all__ = ["Optimizer", "in_layout_of"]


def in_layout_of(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The same values, each in the memory layout of its parameter; copied only where it differs.

    Fused kernels walk the memory of a parameter and of its gradient side by side, so an element
    of one must lie where it lies in the other. `autograd.grad` does not promise that: a
    convolution's weight gradient takes the layout of its input.
    """
    return [
        tensor if tensor.stride() == p.stride() else torch.empty_like(p).copy_(tensor)
        for tensor, p in zip(tensors, parameters, strict=True)
    ]


class Optimizer(ABC):
    """Clips gradients and steps parameters.

    A subclass is built with `(parameters, *, its own settings)`; parameters that need no gradient
    are left out. It calls `Optimizer.__init__` with them.

    Laws:

    1. `clip` changes gradients in place, returns their global norm before that as a scalar, and
       leaves gradients within its limit as they are. It may put other tensors into the list, in
       the layout of the parameters.
    2. `step` with `skip` 1 changes nothing, bit for bit, NaN in the gradients included; skipped
       steps are as if they had not been.
    3. `load_state_dict(state_dict())` continues bit for bit, and a state of other shapes is
       refused with a ValueError.
    4. A step against the gradient lowers a smooth loss, where the rate is small and not 0.
    5. What `clip` and `step` do depends on values alone, not on how gradients or parameters lie in
       memory (`in_layout_of`), but for rounding. The learner hands gradients over in their
       parameters' layout.
    6. Nothing waits for the device; on an accelerator the learning rate is a tensor that
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

    def state_form(self) -> Any:
        """Of which form a state has to be (`wmplatform.forms`), compared before it is read.

        Anything unless a subclass knows better; `load_state_dict` refuses it then.
        """
        return ANY

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state belongs to other parameters.
        """
