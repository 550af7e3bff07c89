"""Replay on the disk: files of new records, and a manifest that names them.

Each save appends the records written since the last one, in files that are never changed again:
written aside, flushed, renamed. The manifest (a JSON value that the checkpoint keeps) lists the
files with their checksums and the positions that their rows hold; a checkpoint's own checksums
tell where it was altered. A process may be killed at any
moment: a manifest that was kept names complete files only. `prune` deletes files that no kept
manifest names.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from wmplatform.files import (
    CannotRead,
    explained_writes,
    open_regular,
    read_regular,
    sync_folder,
    write_durably,
)
from wmplatform.forms import ANY, TEXT, Array, Many, Whole, check_form
from wmplatform.interfaces.env_adapter import ArraySpec
from wmplatform.replay.errors import UnreadableReplay
from wmplatform.tensor_files import read_header

__all__ = [
    "MANIFEST",
    "Chunk",
    "Manifest",
    "Span",
    "first_held",
    "prune",
    "read_chunk",
    "split",
    "write_chunks",
]

Manifest: TypeAlias = dict[str, Any]
"""A JSON value: what `Replay.save` returns and `Replay.restore` takes."""

MANIFEST = {
    "format": ANY,
    "columns": ANY,
    "heads": Many(Whole(), least=1),
    "closed": Many([Whole(), Whole()]),
    "generator": TEXT,
    "chunks": Many(
        {
            "file": TEXT,
            "size_bytes": Whole(),
            "sha256": TEXT,
            "spans": Many([Whole(), Whole(), Whole(least=1)]),
        }
    ),
}
"""Of which form a manifest is; format and columns are compared where it is restored."""

_SUFFIX = ".safetensors"
_ASIDE = ".writing-"
_NAME = re.compile(r"records-[0-9a-f]{32}\.safetensors")


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


def first_held(chunks: Iterable[Chunk], heads: Sequence[int]) -> list[int]:
    """Find the position from which on files hold every record of each stream.

    Before it there may be older records: a file that another stream still needs has them, while
    those in between were overwritten and are gone.

    Args:
        chunks: of a manifest, in its order.
        heads: records that each stream has ever written.

    Raises:
        ValueError: positions overlap, lie beyond a head, or do not reach it.
    """
    first, end = [0] * len(heads), [0] * len(heads)
    for span in (span for chunk in chunks for span in chunk.spans):
        last = span.first + span.count
        if span.stream >= len(heads) or not end[span.stream] <= span.first < last:
            raise ValueError(f"records of stream {span.stream} stand there twice, or in no stream")
        if span.first > end[span.stream]:
            first[span.stream] = span.first
        end[span.stream] = last
    if end != list(heads):
        raise ValueError(f"the files hold records up to {end}, {list(heads)} were written")
    return first


def read_chunk(
    directory: Path, chunk: Chunk, columns: Mapping[str, ArraySpec]
) -> dict[str, Tensor]:
    """Read the columns of a file, of which the header is looked at first.

    Raises:
        UnreadableReplay: the file is missing or not what was written.
    """
    path = directory / chunk.file
    if not _NAME.fullmatch(chunk.file):
        raise UnreadableReplay(path, "has a name that no file of records has")
    rows = sum(span.count for span in chunk.spans)
    form = {key: Array(each.dtype, (rows, *each.shape)) for key, each in columns.items()}
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != chunk.size_bytes:
                raise CannotRead(path, f"is damaged: {size} bytes, not {chunk.size_bytes}")
            check_form(read_header(file, size), form)
        content = read_regular(path, at_most=size)
    except CannotRead as error:
        raise UnreadableReplay(path, error.reason) from None
    except ValueError as error:
        raise UnreadableReplay(path, f"is damaged: {error}") from None
    if hashlib.sha256(content).hexdigest() != chunk.sha256:
        raise UnreadableReplay(path, "is damaged: its checksum differs from the manifest's")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise UnreadableReplay(path, f"is damaged: {error}") from error


def prune(directory: Path | str, kept: Iterable[Manifest]) -> list[str]:
    """Delete files of a saved replay that none of these manifests names; return their names."""
    directory = Path(directory)
    named = {chunk["file"] for manifest in kept for chunk in manifest["chunks"]}
    gone = [path for path in directory.glob(f"*records-*{_SUFFIX}") if path.name not in named]
    for path in gone:
        path.unlink(missing_ok=True)
    return sorted(path.name for path in gone)
