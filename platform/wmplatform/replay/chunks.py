"""Replay on the disk: files of new records, and a manifest that names them.

Each save appends the records written since the last one, in files that are never changed again:
written aside, flushed, renamed. The manifest (a JSON value that the checkpoint keeps) lists the
files with their checksums and the positions that their rows hold. A process may be killed at any
moment: a manifest that was kept names complete files only. `prune` deletes files that no kept
manifest names.
"""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from wmplatform.files import explained_writes, sync_folder, write_durably
from wmplatform.replay.errors import UnreadableReplay

__all__ = ["Chunk", "Manifest", "Span", "prune", "read_chunk", "split", "write_chunks"]

Manifest: TypeAlias = dict[str, Any]
"""A JSON value: what `Replay.save` returns and `Replay.restore` takes."""

_SUFFIX = ".safetensors"
_ASIDE = ".writing-"


@dataclass(frozen=True)
class Span:
    """Consecutive records of one stream."""

    stream: int
    first: int
    """Position of the first record."""
    count: int


@dataclass(frozen=True)
class Chunk:
    """One file, and the records that its rows hold, span after span."""

    file: str
    size_bytes: int
    sha256: str
    spans: tuple[Span, ...]

    def to_json(self) -> dict[str, Any]:
        """Give the manifest's entry."""
        return asdict(self) | {"spans": [[s.stream, s.first, s.count] for s in self.spans]}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Chunk":
        """Read the manifest's entry."""
        spans = tuple(Span(*span) for span in entry["spans"])
        return cls(entry["file"], entry["size_bytes"], entry["sha256"], spans)


def split(spans: Iterable[Span], rows: int) -> Iterator[list[Span]]:
    """Group spans, cutting them where needed, so that no group has more than `rows` records."""
    group: list[Span] = []
    room = rows
    for span in spans:
        first, left = span.first, span.count
        while left:
            take = min(left, room)
            group.append(Span(span.stream, first, take))
            first, left, room = first + take, left - take, room - take
            if room == 0:
                yield group
                group, room = [], rows
    if group:
        yield group


def write_chunks(
    directory: Path, chunks: Iterable[tuple[list[Span], Mapping[str, Tensor]]]
) -> list[Chunk]:
    """Write new files, all or none.

    Args:
        directory: made if missing.
        chunks: spans, and the columns of their records `[rows, ...]` on the CPU.

    Raises:
        DiskFull: nothing of this call remains.
        CannotWrite: likewise.
    """
    written: list[Chunk] = []
    with explained_writes(directory, "the replay's new records"):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            for spans, columns in chunks:
                written.append(_write_chunk(directory, spans, columns))
            if written:
                sync_folder(directory)
        except BaseException:
            for chunk in written:
                (directory / chunk.file).unlink(missing_ok=True)
            raise
    return written


def _write_chunk(directory: Path, spans: list[Span], columns: Mapping[str, Tensor]) -> Chunk:
    content = safetensors.torch.save({key: column.contiguous() for key, column in columns.items()})
    # A name of its own, since a file of a save that was never kept may still lie here.
    name = f"records-{uuid.uuid4().hex}{_SUFFIX}"
    aside = directory / (_ASIDE + name)
    try:
        write_durably(aside, content)
        os.rename(aside, directory / name)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return Chunk(name, len(content), hashlib.sha256(content).hexdigest(), tuple(spans))


def read_chunk(directory: Path, chunk: Chunk) -> dict[str, Tensor]:
    """Read the columns of a file.

    Raises:
        UnreadableReplay: the file is missing or not what was written.
    """
    path = directory / chunk.file
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableReplay(path, "is missing") from None
    except OSError as error:
        raise UnreadableReplay(path, f"cannot be read: {error.strerror}") from error
    if len(content) != chunk.size_bytes or hashlib.sha256(content).hexdigest() != chunk.sha256:
        raise UnreadableReplay(path, "is damaged: its checksum differs from the manifest's")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise UnreadableReplay(path, f"cannot be read: {error}") from error


def prune(directory: Path | str, kept: Iterable[Manifest]) -> list[str]:
    """Delete files of a saved replay that none of these manifests names; return their names."""
    directory = Path(directory)
    named = {chunk["file"] for manifest in kept for chunk in manifest["chunks"]}
    gone = [path for path in directory.glob(f"*records-*{_SUFFIX}") if path.name not in named]
    for path in gone:
        path.unlink(missing_ok=True)
    return sorted(path.name for path in gone)
