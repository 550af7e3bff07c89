"""Files: written so that a reader sees all of them or none, and read as if anybody had made them.

What is read has to be a regular file of a size that was to be expected, below the folder that it
belongs to and reached through no link below that. This file imports no torch.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from wmplatform.errors import ExitCode, PlatformError

__all__ = [
    "CannotRead",
    "CannotWrite",
    "DiskFull",
    "ForeignFile",
    "append_whole",
    "explained_writes",
    "is_sealed",
    "open_own",
    "open_regular",
    "parse_json",
    "read_regular",
    "remove",
    "replace_file",
    "sealed",
    "sync_folder",
    "write_durably",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DEEPEST = 64
"""Levels of JSON; no tree that is saved has more than a few."""
_KINDS = {
    stat.S_IFLNK: "is a link, and links are not followed here",
    stat.S_IFDIR: "is a folder, not a file",
    stat.S_IFIFO: "is a pipe, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


class CannotRead(PlatformError):
    """A file is missing, or not what it would be if the platform had written it.

    Args:
        path: the file.
        reason: what is wrong with it, as the end of a sentence.
    """

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        hint = "put the file in its place that was written there, or take another folder"
        super().__init__(f"{path.name} {reason}", where=str(path), hint=hint)


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


class ForeignFile(CannotWrite):
    """Something else has the name of a file that is written where it lies; it was left alone."""

    exit_code = ExitCode.BAD_RUN
    _hint = "move it out of the way; writing to it would change what is behind it"


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


def open_regular(path: Path, inside: Path | None = None, *, links: bool = False) -> BinaryIO:
    """Open a regular file for reading; nothing that could block, or never end, is read.

    Args:
        path: the file.
        inside: the folder that it has to lie in, at any depth; its own folder unless given. That
            folder itself may be a link, what is below it may not.
        links: follow links to regular files, wherever they lead: of data that others lay out.

    Raises:
        CannotRead: it is missing, a link, a pipe, a device or a folder, or lies elsewhere.
    """
    if not links:
        _refuse_ways_out(path, path.parent if inside is None else inside)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags if links else flags | os.O_NOFOLLOW)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise CannotRead(path, _reason(path, error)) from None
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise CannotRead(path, _KINDS.get(kind, "is no regular file"))
    return os.fdopen(descriptor, "rb")


def read_regular(
    path: Path, inside: Path | None = None, *, at_most: int, links: bool = False
) -> bytes:
    """Read a regular file whose size is looked at first.

    Args:
        path: the file.
        inside: see `open_regular`, as `links`.
        at_most: bytes that it may have.
        links: follow them.

    Raises:
        CannotRead: as `open_regular` says; or it is larger, or does not fit into memory.
    """
    with open_regular(path, inside, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > at_most:
            raise CannotRead(path, f"has {size} bytes, and at most {at_most} are expected")
        try:
            return file.read(size)
        except MemoryError:
            raise CannotRead(path, f"has {size} bytes, which do not fit into memory") from None
        except OSError as error:
            raise CannotRead(path, _reason(path, error)) from None


def open_own(path: Path, flags: int = 0, mode: int = 0o644) -> int:
    """Open a file that is written where it lies, or make it; return the descriptor.

    Args:
        path: the file.
        flags: of `os.open`, beside those for reading, writing and making it.
        mode: of a file that is made.

    Raises:
        ForeignFile: it is a link of either kind, or no regular file. Nothing was changed.
        OSError: as the system says.
    """
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        reason = _reason(path, error)
        if reason in _KINDS.values():
            raise ForeignFile(path, f"it {reason}", path.name) from None
        raise
    found = os.fstat(descriptor)
    reason = _KINDS.get(stat.S_IFMT(found.st_mode), "")
    if not reason and found.st_nlink > 1:
        reason = "has another name too (a hard link), under which it would change as well"
    if reason:
        os.close(descriptor)
        raise ForeignFile(path, f"it {reason}", path.name)
    return descriptor


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it; what is missing is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _refuse_ways_out(path: Path, inside: Path) -> None:
    """Refuse a path that leads out of a folder.

    Raises:
        CannotRead: it has a `..` or lies elsewhere, or a folder on the way is a link.
    """
    if ".." in path.parts or not path.is_relative_to(inside):
        raise CannotRead(path, f"lies outside of {inside}")
    between = path.relative_to(inside).parts[:-1]
    for depth in range(len(between)):
        folder = inside.joinpath(*between[: depth + 1])
        if folder.is_symlink():
            raise CannotRead(path, f"lies in {folder.name}, which {_KINDS[stat.S_IFLNK]}")


def _reason(path: Path, error: OSError | ValueError) -> str:
    """Say why a file could not be opened, as the end of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
        with_kind = _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode))
        if with_kind:
            return with_kind
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it.

    Raises:
        OSError: as the system says; what was written so far remains. A file that is there already
            is left alone, and a link is not followed.
    """
    with path.open("xb", buffering=0) as file:
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
            aside.unlink(missing_ok=True)  # of a process that was killed
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


def parse_json(text: str | bytes) -> Any:
    """Read strict JSON: no key twice, no NaN, no infinity, and no more than 64 levels.

    Raises:
        ValueError: it is anything else.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(f"it has more than {_DEEPEST} levels") from None
    level, depth = [value], 0
    while level := [inner for each in level for inner in _inside(each)]:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"it has more than {_DEEPEST} levels")
    return value


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Give a manifest its `seal`: the SHA-256 of the rest, as compact JSON with sorted keys.

    It tells a manifest that was altered by accident; whoever means to can seal it anew.
    """
    rest = {key: each for key, each in value.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**rest, "seal": hashlib.sha256(text.encode()).hexdigest()}


def is_sealed(value: Mapping[str, Any]) -> bool:
    """Whether a manifest is as it was when it was sealed."""
    return value.get("seal") == sealed(value)["seal"]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:20])


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
