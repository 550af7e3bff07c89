"""What stays still while something else learns: frozen modules and slow copies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["follow", "frozen"]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Build no graph towards the parameters of these modules; gradients still flow through them.

    Saves the memory of the weight gradients' inputs along an imagined rollout.
    """
    moved = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in moved:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moved:
            parameter.requires_grad_(True)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, fraction: float = 1.0) -> None:
    """Move the parameters of a slow copy towards those of the network that it follows.

    Args:
        slow: a network of the same parameters as `fast`.
        fast: is not changed.
        fraction: 1 copies, less moves by that share (an exponential average over the calls).
    """
    targets: list[Tensor] = list(slow.parameters())
    sources: list[Tensor] = list(fast.parameters())
    if fraction == 1.0:
        torch._foreach_copy_(targets, sources)
    else:
        torch._foreach_lerp_(targets, sources, fraction)
