"""Whole phases of an update as CUDA graphs.

An eager update is limited by launching some ten thousand small kernels; a graph launches them at
once. Each phase is captured after a few eager updates: its losses, gradients, clipping and
optimiser steps. What depends on the clock stays outside: hooks after a phase run eagerly, and
learning rates are tensors that are filled before each replay.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.interfaces.behavior import Phase, Update
from wmplatform.types import Batch, Metrics

__all__ = ["Capturable", "CapturedPlan"]

_EAGER_UPDATES = 3
"""Updates before the capture: lazy initialisations of libraries must not be recorded."""


@runtime_checkable
class Capturable(Protocol):
    """A part that says whether it can run from a CUDA graph. One that says nothing can.

    A graph replays the numbers that the host had when it was recorded, so a part is not capturable
    where its arithmetic depends on a clock or a counter that is read on the host.
    """

    @property
    def capturable(self) -> bool:
        """Whether no number in a training pass changes with a clock."""
        ...


class CapturedPlan:
    """Runs a plan eagerly at first, then from CUDA graphs.

    Batches must keep their keys, shapes and dtypes. Random numbers come from the device's default
    generator, which graphs advance as eager kernels do, so captured and eager updates draw the
    same numbers.

    Args:
        plan: phases in order.
        run: runs one phase on an update.
        device: a CUDA device.
    """

    def __init__(
        self, plan: Sequence[Phase], run: Callable[[Phase, Update], None], device: torch.device
    ) -> None:
        self._plan, self._run, self._device = plan, run, device
        self._eager = 0
        self._stream = torch.cuda.Stream(device)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._static: Update | None = None

    def __call__(self, batch: Batch, updates: int, agent_steps: int) -> Metrics:
        """Run all phases; returns the metrics.

        They are overwritten by the next call: read or add them up before.
        """
        if self._eager < _EAGER_UPDATES:
            self._eager += 1
            return self._warm_up(Update(batch, updates=updates, agent_steps=agent_steps))
        update = self._load(batch, updates, agent_steps)
        if not self._graphs:
            self._capture(update)
        for phase, graph in zip(self._plan, self._graphs, strict=True):
            graph.replay()
            if phase.after:
                phase.after(update)
        return dict(update.metrics)

    def _warm_up(self, update: Update) -> Metrics:
        """Run eagerly on a side stream, as captures need it."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for phase in self._plan:
                self._run(phase, update)
                if phase.after:
                    phase.after(update)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return update.metrics

    def _load(self, batch: Batch, updates: int, agent_steps: int) -> Update:
        """Copy a batch into the memory that the graphs read."""
        if self._static is None:
            self._static = Update(_copy(batch))
        else:
            for key, mine in self._static.batch.items():
                _copy_into(mine, batch[key])
        self._static.updates, self._static.agent_steps = updates, agent_steps
        return self._static

    def _capture(self, update: Update) -> None:
        """Record every phase; later phases read what earlier ones left in the update's memory.

        Meanwhile threads that draw batches ahead may allocate memory, which a capture in CUDA's
        default mode refuses to every thread.
        """
        pool = torch.cuda.graph_pool_handle()
        for phase in self._plan:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                self._run(phase, update)
            self._graphs.append(graph)


def _copy(batch: Batch) -> dict[str, Tensor | TensorDict]:
    return {key: batch[key].clone() for key in batch.keys()}  # noqa: SIM118


def _copy_into(mine: Tensor | TensorDict, new: Tensor | TensorDict) -> None:
    if isinstance(mine, Tensor):
        assert isinstance(new, Tensor)
        mine.copy_(new, non_blocking=True)
    else:
        mine.update_(new)
