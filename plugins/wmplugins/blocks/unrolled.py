"""Linear layers inside of loops over time: one weight gradient for all steps together.

Shape letters: T steps, N rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["Unrolled"]


class _WeightAside(torch.autograd.Function):
    """Passes what is added to a layer's products on; going back, adds the weight's gradient.

    Autograd runs this when all steps of the loop have sent their share of `[T, N, O]`.
    """

    @staticmethod
    def forward(ctx: Any, base_TNO: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        """Return `base_TNO`; `inputs` is filled by the loop, later."""
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return base_TNO.view_as(base_TNO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Multiply all steps' gradients by all steps' inputs at once."""
        (grad_TNO,) = grads
        inputs_XI = torch.cat(ctx.inputs).to(grad_TNO.dtype)
        weight = grad_TNO.flatten(0, 1).t() @ inputs_XI
        return grad_TNO, weight.to(ctx.dtype), None


class Unrolled:
    """A linear layer that a loop applies once at each of T steps.

    Autograd would make a gradient of the whole weight at every step and add them all up. Here
    the weight is left out of the steps' graphs, and its gradient is one product over all steps:
    equal up to rounding, for a fraction of the operators and of the memory traffic. Outputs are
    those of the plain layer, bit for bit.

    Args:
        weight: `[O, I]`, a parameter or a part of one.
        base_TNO: what step t adds to its product: a share of the input that was projected for all
            steps at once, or the bias, expanded.
        is_bias: `base_TNO` is an expanded bias, which then joins the product.
    """

    def __init__(self, weight: Tensor, base_TNO: Tensor, *, is_bias: bool = False) -> None:
        self._inputs: list[Tensor] | None = None
        if torch.is_grad_enabled() and weight.requires_grad:
            self._inputs = []
            traced: Tensor = _WeightAside.apply(base_TNO, weight, self._inputs)  # type: ignore[no-untyped-call]
            weight, base_TNO = weight.detach(), traced
        self._weight, self._base_T, self._is_bias = lowered(weight), base_TNO.unbind(0), is_bias

    def __call__(self, t: int, x_NI: Tensor) -> Tensor:
        """Apply the layer at step t, `[N, O]`; each step once."""
        if self._inputs is not None:
            self._inputs.append(x_NI.detach())
        if self._is_bias:
            return torch.addmm(self._base_T[t], x_NI, self._weight.t())
        return self._base_T[t] + F.linear(x_NI, self._weight)


def lowered(x: Tensor) -> Tensor:
    """Cast to the dtype of the autocast region, if in one: once here, not at every step."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))
