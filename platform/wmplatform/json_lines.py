"""A file of JSON objects, one a line, that never has a broken or repeated line.

Strict JSON has no NaN and no infinity; both are written as null. This file imports no torch.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wmplatform.files import (
    CannotRead,
    append_whole,
    explained_writes,
    open_own,
    open_regular,
    parse_json,
)

__all__ = ["JsonLines", "read_json_lines"]

_LONGEST_BYTES = 1 << 24


class JsonLines:
    """An append-only file of JSON objects.

    Args:
        path: made if it is not there. A torn last line, which only a kill or a power cut in the
            middle of a write can leave, is cut off.

    Raises:
        ForeignFile: it is a link, or no file: what is behind it would be cut off and written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained_writes(path, path.name):
            self._file = open_own(path, os.O_APPEND)
        self.truncate(self.offset)

    @property
    def offset(self) -> int:
        """Size of the file in bytes: the end of its last line."""
        return os.fstat(self._file).st_size

    def append(self, values: Mapping[str, Any]) -> None:
        """Add one line, whole or not at all.

        Raises:
            DiskFull: there is no space; the file is as before.
        """
        finite = {key: _finite(value) for key, value in values.items()}
        line = json.dumps(finite, allow_nan=False) + "\n"
        with explained_writes(self.path, self.path.name):
            append_whole(self._file, line.encode())

    def truncate(self, offset: int) -> None:
        """Forget what was written beyond `offset`, and half a line before it."""
        end = min(offset, self.offset)
        while end > 0:
            start = max(0, end - 4096)
            cut = os.pread(self._file, end - start, start).rfind(b"\n")
            if cut >= 0:
                end = start + cut + 1
                break
            end = start
        with explained_writes(self.path, self.path.name):
            os.ftruncate(self._file, end)

    def sync(self) -> None:
        """Wait until the disk has every line."""
        with explained_writes(self.path, self.path.name):
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a file, a torn last line left out; nothing where there is no file.

    Raises:
        CannotRead: it is a link or no regular file, or a line is no JSON object or has more than
            16 MiB.
    """
    if not os.path.lexists(path):
        return
    with open_regular(path) as file:
        for number in itertools.count(1):
            line = file.readline(_LONGEST_BYTES + 1)
            if len(line) > _LONGEST_BYTES:
                raise CannotRead(path, f"has more than {_LONGEST_BYTES} bytes in line {number}")
            if not line.endswith(b"\n"):
                return
            try:
                value = parse_json(line)
            except ValueError as error:
                raise CannotRead(path, f"is not JSON in line {number}: {error}") from None
            if not isinstance(value, dict):
                raise CannotRead(path, f"has no JSON object in line {number}")
            yield value


def _finite(value: Any) -> Any:
    """Replace a float that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
