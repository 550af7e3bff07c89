"""Where records lie: one tensor a column, in memory, on a device, or in memory-mapped files.

Shape letters: R rows, K rows that are read or written.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wmplatform.files import explained_writes
from wmplatform.interfaces.env_adapter import ArraySpec
from wmplatform.records import record_bytes
from wmplatform.replay.errors import CapacityTooLarge
from wmplatform.torchrl_parts import TensorStorage

__all__ = ["RowStorage", "in_files", "in_memory"]


class RowStorage(TensorStorage):  # type: ignore[misc]
    """Allocated once; reads whole rows by index.

    TorchRL's own storage indexes with `[]`, which gathers element by element on a CPU;
    `index_select` copies row by row and takes an eighth of the time for images.
    """

    def __init__(self, columns: TensorDict, device: torch.device) -> None:
        super().__init__(columns, device=device)
        self._len = 0  # the base class takes what it is given for data

    def get(self, index: Any) -> Any:
        """Read rows `[K]`, or whatever else TorchRL's storages accept."""
        index = index[0] if isinstance(index, tuple) and len(index) == 1 else index
        if not (isinstance(index, Tensor) and index.dtype == torch.long and index.ndim == 1):
            return super().get(index)
        rows = index.to(self.device)
        return self._storage._fast_apply(
            lambda column: column.index_select(0, rows), batch_size=[len(rows)]
        )

    def set(self, cursor: Any, data: TensorDictBase, *, set_cursor: bool = True) -> None:
        """Write rows `[K]` that do not repeat."""
        del set_cursor
        rows = torch.as_tensor(cursor, device=self.device).reshape(-1)
        for key, column in self._storage.items():
            column.index_copy_(0, rows, data[key].to(self.device))

    def column(self, key: str) -> Tensor:
        """Look at a whole column, `[R, ...]`."""
        column: Tensor = self._storage[key]
        return column

    def grow_to(self, rows: int) -> None:
        """Count this many rows as written."""
        self._len = rows


def in_memory(columns: Mapping[str, ArraySpec], rows: int, device: torch.device) -> RowStorage:
    """Allocate rows in main memory (taken page by page as they are written) or on a device.

    Raises:
        CapacityTooLarge: there is no room for all of them.
    """
    if device.type == "cpu":
        _refuse_excess(columns, rows, _free_memory_bytes(), "memory")
        tensors = {
            # Not torch.empty, which touches every page under deterministic algorithms.
            key: torch.from_numpy(np.empty((rows, *column.shape), column.dtype))
            for key, column in columns.items()
        }
    else:
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            _refuse_excess(columns, rows, free, str(device))
        tensors = {
            key: torch.empty((rows, *column.shape), dtype=_dtype(column), device=device)
            for key, column in columns.items()
        }
    return RowStorage(TensorDict(tensors, [rows]), device)


def in_files(columns: Mapping[str, ArraySpec], rows: int, directory: Path) -> RowStorage:
    """Map rows to files of a directory, whose space is reserved now.

    The files are working memory: they mean nothing to the next process, which refills them from
    what `Replay.save` wrote.

    Raises:
        CapacityTooLarge: the disk has no room for all of them.
        DiskFull: nor had it the room it claimed.
    """
    with explained_writes(directory, "the replay's working files"):
        directory.mkdir(parents=True, exist_ok=True)
        for key in columns:
            (directory / f"{key}.rows").unlink(missing_ok=True)
        free = shutil.disk_usage(directory).free
        _refuse_excess(columns, rows, free, f"disk ({directory})")
        tensors = {
            key: _mapped(directory / f"{key}.rows", (rows, *column.shape), column)
            for key, column in columns.items()
        }
    return RowStorage(TensorDict(tensors, [rows]), torch.device("cpu"))


def _mapped(path: Path, shape: tuple[int, ...], column: ArraySpec) -> Tensor:
    size = int(np.prod(shape, dtype=np.int64))
    with path.open("xb") as file:
        # A sparse file would end the process with SIGBUS once the disk is full.
        os.posix_fallocate(file.fileno(), 0, size * np.dtype(column.dtype).itemsize)
    flat = torch.from_file(str(path), shared=True, size=size, dtype=_dtype(column))
    return flat.view(shape)


def _refuse_excess(
    columns: Mapping[str, ArraySpec], rows: int, free_bytes: int, place: str
) -> None:
    each = record_bytes(columns)
    if rows * each > free_bytes:
        raise CapacityTooLarge(rows, rows * each, free_bytes, place, free_bytes // each)


def _dtype(column: ArraySpec) -> torch.dtype:
    return torch.from_numpy(np.empty(0, column.dtype)).dtype


def _free_memory_bytes() -> int:
    """Memory that can be taken without swapping, within the container's limit if there is one."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    return min(free, _container_free_bytes())


def _container_free_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    unlimited = 2**62
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return unlimited
    if limit == "max":
        return unlimited
    return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
