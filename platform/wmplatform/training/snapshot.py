"""What an update changes besides the parameters that it trains, so that it can be taken back."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from wmplatform.agent import Agent

__all__ = ["Snapshot"]

_Slot = tuple[dict[str, Any], str]
"""Where a module keeps a tensor: its dict of buffers or parameters, and the name there."""


class Snapshot:
    """All buffers of an agent, and the parameters of its behavior that nothing trains.

    Nothing waits for the device: whether values come back is a tensor. Shapes and dtypes have to
    stay as they are.
    """

    def __init__(self, agent: Agent) -> None:
        slots: dict[torch.dtype, list[_Slot]] = {}
        for tensors, name in _slots(agent):
            slots.setdefault(tensors[name].dtype, []).append((tensors, name))
        self._slots = list(slots.values())
        """By dtype, so that a handful of operators do for all."""
        self.take()

    @torch.no_grad()
    def take(self) -> None:
        """Remember the values."""
        self._tensors = [[owner[name] for owner, name in slots] for slots in self._slots]
        self._before = [_joined(tensors) for tensors in self._tensors]

    @torch.no_grad()
    def settle(self) -> None:
        """Put what was assigned (`self.scale = ...`) into the tensors that were there before.

        So a captured graph reads what it wrote when it runs again. Comes after the backward pass,
        which may need the values of before.
        """
        for slots, tensors in zip(self._slots, self._tensors, strict=True):
            for (owner, name), tensor in zip(slots, tensors, strict=True):
                if owner[name] is not tensor:
                    owner[name] = tensor.copy_(owner[name])

    @torch.no_grad()
    def restore(self, wanted: Tensor) -> None:
        """Bring the values back if `wanted`, a bool scalar; else leave them, bit for bit."""
        self.settle()
        for tensors, before in zip(self._tensors, self._before, strict=True):
            values = torch.where(wanted, before, _joined(tensors))
            parts = values.split([x.numel() for x in tensors])
            torch._foreach_copy_(
                tensors, [p.view_as(x) for p, x in zip(parts, tensors, strict=True)]
            )


def _slots(agent: Agent) -> Iterator[_Slot]:
    for module in agent.modules():
        for name, buffer in module._buffers.items():
            # An expanded buffer is a constant: nothing can be written into shared elements.
            if buffer is not None and 0 not in buffer.stride():
                yield module._buffers, name
    for module in agent.behavior.modules() if agent.behavior else ():
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.requires_grad:
                yield module._parameters, name


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])
