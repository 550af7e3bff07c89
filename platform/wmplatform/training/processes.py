"""Several processes that train one agent: `torchrun` starts them, each on its share of a batch.

Every process draws a batch of its own and computes its gradients; the gradients are averaged, so
each makes the same step. All decisions about what comes next are taken together, and the first
process alone writes. What is exchanged is tensors and JSON; nothing is pickled.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import safetensors.torch
import torch
from torch import Tensor, distributed, nn

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.tree_json import from_plain, to_plain

__all__ = [
    "ALONE",
    "GradientExchange",
    "LeaderFailed",
    "Processes",
    "TooFewAccelerators",
    "joined",
]

_T = TypeVar("_T")


class LeaderFailed(PlatformError):
    """The first process of a run could not do what the others wait for."""

    exit_code = ExitCode.FAILED

    def __init__(self, rank: int) -> None:
        super().__init__(f"process {rank} stops: process 0 failed, and its message says why")


class TooFewAccelerators(PlatformError):
    """A machine was given more processes than it has accelerators."""

    exit_code = ExitCode.ENVIRONMENT

    def __init__(self, index: int, count: int) -> None:
        super().__init__(
            f"process {index} of this machine has no accelerator of its own: there are {count}",
            hint=f"torchrun --nproc-per-node={count}, or --device cpu",
        )


class GradientExchange(Protocol):
    """Makes one gradient of those that several processes have computed."""

    def average(self, grads: Sequence[Tensor]) -> None:
        """Put the mean over all processes into `grads`."""
        ...


@dataclass(frozen=True)
class Processes:
    """This process among those of a run. Every method but `leads` is called by all of them."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def average(self, grads: Sequence[Tensor]) -> None:
        """Put the mean over all processes into `grads`: one message for all of them."""
        if self.size == 1 or not grads:
            return
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        distributed.all_reduce(flat)
        flat /= self.size
        parts = flat.split([grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))

    def align(self, module: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.size == 1:
            return
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def gather(self, tree: Any) -> list[Any]:
        """Collect a tree of tensors and JSON values from each process, in the order of ranks."""
        if self.size == 1:
            return [tree]
        mine = _packed(tree)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(sizes, torch.tensor([len(mine)]))
        longest = max(int(size) for size in sizes)
        padded = torch.nn.functional.pad(mine, (0, longest - len(mine)))
        found = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(found, padded)
        return [_unpacked(x[: int(n)]) for x, n in zip(found, sizes, strict=True)]

    def first(self, action: Callable[[], _T]) -> _T:
        """Let the first process do something and tell the others what came of it, a JSON value.

        Raises:
            LeaderFailed: in the others, where it raised an error.
        """
        if self.size == 1:
            return action()
        result, failed = None, self.leads
        try:
            if self.leads:
                result = action()
            failed = False
        finally:  # the others wait for this, whatever happens
            stopped = self.any(failed)
        if stopped:
            raise LeaderFailed(self.rank)
        found: _T = self.gather(result)[0]
        return found


ALONE = Processes()
"""A run of one process."""


@contextmanager
def joined(device: str | None) -> Iterator[tuple[Processes, str | None]]:
    """Join the processes that `torchrun` started with this one, if it did.

    Args:
        device: where to train; unless it is a certain one, each process of a machine gets an
            accelerator of its own.

    Yields:
        The processes, and this one's device.

    Raises:
        TooFewAccelerators: the machine has more processes than accelerators.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    backend = "gloo"
    if device in (None, "auto", "cuda") and torch.cuda.is_available():
        index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if index >= count:
            raise TooFewAccelerators(index, count)
        torch.cuda.set_device(index)
        device, backend = f"cuda:{index}", "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend)
    try:
        yield Processes(distributed.get_rank(), size), device
    finally:
        distributed.destroy_process_group()


def _packed(tree: Any) -> Tensor:
    """Turn a tree into bytes, uint8 `[n]`: the length of the JSON, the JSON, the tensors."""
    plain, tensors = to_plain(tree)
    header = json.dumps(plain, allow_nan=False).encode()
    plain_layout = torch.contiguous_format  # the only one that safetensors takes
    copies = {k: v.detach().cpu().clone(memory_format=plain_layout) for k, v in tensors.items()}
    body = safetensors.torch.save(copies)
    content = len(header).to_bytes(8, "big") + header + body
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> Any:
    content = packed.numpy().tobytes()
    end = 8 + int.from_bytes(content[:8], "big")
    return from_plain(json.loads(content[8:end]), safetensors.torch.load(content[end:]))
