"""Writing files so that a reader sees all of them or none, and a full disk says so.

This file imports no torch.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wmplatform.errors import ExitCode, PlatformError

__all__ = [
    "CannotWrite",
    "DiskFull",
    "append_whole",
    "explained_writes",
    "replace_file",
    "sync_folder",
    "write_durably",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CannotWrite(PlatformError):
    """A file of a run cannot be written.

    Args:
        path: the file or folder.
        reason: the system's word for it.
        what: what was being written, e.g. `checkpoint 12`.
    """

    exit_code = ExitCode.ENVIRONMENT
    _hint = "check that the folder exists, is not read-only and belongs to you"

    def __init__(self, path: Path, reason: str, what: str = "a file") -> None:
        self.path, self.reason = path, reason
        super().__init__(f"cannot write {what}: {reason}", where=str(path), hint=self._hint)


class DiskFull(CannotWrite):
    """The disk (or the quota, or the largest file allowed) is used up; older files are whole."""

    _hint = (
        "free some space and start the same command again; "
        "it goes on from the last checkpoint, which was not touched"
    )


@contextmanager
def explained_writes(path: Path, what: str = "a file") -> Iterator[None]:
    """Turn an `OSError` of the block into `DiskFull` or `CannotWrite`.

    Args:
        path: the file or folder that is being written.
        what: readable name of it.
    """
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else CannotWrite
        raise kind(path, error.strerror or str(error), what) from error


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it.

    Raises:
        OSError: as the system says; what was written so far remains.
    """
    with path.open("wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def replace_file(path: Path, content: str | bytes) -> None:
    """Put a file in the place of another, whole or not at all.

    Raises:
        DiskFull: there is no space; the old file remains.
        CannotWrite: for any other reason; the old file remains.
    """
    aside = path.with_name(f".writing-{path.name}")
    with explained_writes(path, path.name):
        try:
            write_durably(aside, content.encode() if isinstance(content, str) else content)
            os.replace(aside, path)
            sync_folder(path.parent)
        except OSError:
            aside.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_whole(descriptor: int, line: bytes) -> None:
    """Append bytes to a file: all of them, or none.

    Args:
        descriptor: opened for writing with `O_APPEND`; no other process appends.
        line: what is written in one call.

    Raises:
        OSError: as the system says; the file is as before.
    """
    before = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, line)
        if written != len(line):  # the disk filled up halfway: the next write names the reason
            os.write(descriptor, line[written:])
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def to_json(value: Mapping[str, Any]) -> str:
    """Format a mapping as readable strict JSON with a final newline."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
