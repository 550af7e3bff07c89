"""The worker's side of preparing: one block of videos, decoded into files that survive a kill.

A block is a fixed run of consecutive videos and owns its files, so what is written depends neither
on the number of workers nor on who was faster:

    blocks/00003.journal   one line for each video that is finished, while the block is not
    blocks/00003.json      what the block holds, once it is complete

A journal's line follows the video's frames and carries their checksum. After a kill the lines that
still agree with the file are kept, everything behind them is cut off, and the work goes on there.
This file imports no torch.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wmplatform.files import (
    CannotRead,
    open_own,
    open_regular,
    parse_json,
    read_regular,
    replace_file,
    sync_folder,
)
from wmplatform.forms import TEXT, Either, Many, Whole, check_form
from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.json_lines import read_json_lines
from wmplatform.videos.errors import UnreadableShards, UnreadableVideo
from wmplatform.videos.shards import FILE, file_sha256

__all__ = [
    "Block",
    "Layout",
    "Stopped",
    "block_size",
    "read_journal",
    "read_note",
    "read_record",
    "split",
    "write_block",
]

_MAX_VIDEOS = 512
_BLOCKS = 64
_BUFFER_BYTES = 1 << 20
_LONGEST_REASON = 200
_MOST_NOTE_BYTES = 1 << 25
_ENTRY = Either(
    {"key": TEXT, "reason": TEXT},
    {"key": TEXT, "shard": Whole(), "start": Whole(), "frames": Whole(least=1), "crc32": Whole()},
)
_RECORD = {"shards": Many(FILE), "entries": Many(_ENTRY)}


class Stopped(Exception):  # noqa: N818 - not an error: what is finished stays finished
    """The work was called off between two frames."""


@dataclass(frozen=True)
class Block:
    """Consecutive videos of a source."""

    number: int
    videos: tuple[Video, ...]


@dataclass(frozen=True)
class Layout:
    """Where blocks are written, and how."""

    folder: Path
    frame_shape: tuple[int, int, int]
    shard_bytes: int
    """A file that has this size takes no further video."""
    skip: frozenset[str] = frozenset()
    """Keys of videos that are quarantined unseen."""

    @property
    def frame_bytes(self) -> int:
        """Size of one frame."""
        channels, height, width = self.frame_shape
        return channels * height * width

    def shard(self, block: int, number: int) -> Path:
        """Name a file of frames."""
        return self.folder / f"frames-{block:05d}-{number:02d}.u8"

    def journal(self, block: int) -> Path:
        """Name the journal of a block."""
        return self.folder / "blocks" / f"{block:05d}.journal"

    def record(self, block: int) -> Path:
        """Name what is written once a block is complete."""
        return self.folder / "blocks" / f"{block:05d}.json"


def block_size(videos: int) -> int:
    """Choose how many videos a block has, whatever the number of workers."""
    return max(1, min(_MAX_VIDEOS, -(-videos // _BLOCKS)))


def split(videos: list[Video]) -> list[Block]:
    """Cut a listing into blocks."""
    size = block_size(len(videos))
    parts = [tuple(videos[first : first + size]) for first in range(0, len(videos), size)]
    return [Block(number, part) for number, part in enumerate(parts)]


def write_block(
    source: VideoSource, block: Block, layout: Layout, going: Callable[[], bool] = lambda: True
) -> None:
    """Decode what a block still lacks; a complete block is left alone.

    Args:
        source: where its videos come from.
        block: which videos.
        layout: where to.
        going: asked before each frame; False calls the work off.

    Raises:
        Stopped: `going` said so.
        OSError: the files cannot be written.
    """
    if layout.record(block.number).exists():
        return
    with os.fdopen(open_own(layout.journal(block.number), os.O_APPEND), "ab") as journal:
        # The worker of a killed process may need a moment to notice.
        fcntl.flock(journal, fcntl.LOCK_EX)
        if layout.record(block.number).exists():
            return
        state = _recover(block, layout)
        os.ftruncate(journal.fileno(), state.journal_bytes)
        for video in block.videos[len(state.entries) :]:
            entry = _append(source, video, block, layout, state, going)
            journal.write((json.dumps(entry) + "\n").encode())
            journal.flush()
            state.entries.append(entry)
        _complete(block, layout, state)


@dataclass
class _State:
    """How far a block is."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    shard: int = 0
    """Number of the file that is being filled."""
    frames: int = 0
    """Frames in it."""
    journal_bytes: int = 0


def _recover(block: Block, layout: Layout) -> _State:
    """Find the finished videos that are whole, and cut off everything behind them."""
    state = _State()
    entries = read_journal(layout.journal(block.number))
    for video, entry in zip(block.videos, entries, strict=False):
        if entry.get("key") != video.key or not _whole(entry, block, layout):
            break
        state.entries.append(entry)
        state.journal_bytes += len(json.dumps(entry)) + 1
        if "shard" in entry:
            state.shard, state.frames = entry["shard"], entry["start"] + entry["frames"]
    _cut(block, layout, state)
    return state


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Give a journal's entries up to the first that is none, which a power cut may leave."""
    try:
        for entry in read_json_lines(path):
            check_form(entry, _ENTRY)
            yield entry
    except (CannotRead, ValueError):
        return


def read_record(path: Path) -> dict[str, Any]:
    """Read what is written once a block is complete.

    Raises:
        UnreadableShards: it is damaged, or no regular file.
    """
    return read_note(path, _RECORD)


def read_note(path: Path, form: Any) -> dict[str, Any]:
    """Read a JSON object of a certain form that belongs to unfinished work.

    Raises:
        UnreadableShards: it is damaged, or no regular file.
    """
    try:
        note: dict[str, Any] = parse_json(read_regular(path, at_most=_MOST_NOTE_BYTES))
        check_form(note, form)
    except CannotRead as error:
        raise UnreadableShards(path, error.what) from None
    except ValueError as error:
        raise UnreadableShards(path, f"a note of unfinished work is damaged: {error}") from None
    return note


def _whole(entry: dict[str, Any], block: Block, layout: Layout) -> bool:
    """Compare a finished video's frames with their checksum."""
    if "shard" not in entry:
        return True
    start, size = entry["start"] * layout.frame_bytes, entry["frames"] * layout.frame_bytes
    try:
        with open_regular(layout.shard(block.number, entry["shard"])) as file:
            if os.fstat(file.fileno()).st_size < start + size:
                return False
            file.seek(start)
            return zlib.crc32(file.read(size)) == entry["crc32"]
    except CannotRead:
        return False


def _cut(block: Block, layout: Layout, state: _State) -> None:
    for path in layout.folder.glob(f"frames-{block.number:05d}-*.u8"):
        number = int(path.stem.rpartition("-")[2])
        if number > state.shard or (number == state.shard and state.frames == 0):
            path.unlink()
        elif number == state.shard:
            os.truncate(path, state.frames * layout.frame_bytes)


def _append(
    source: VideoSource,
    video: Video,
    block: Block,
    layout: Layout,
    state: _State,
    going: Callable[[], bool],
) -> dict[str, Any]:
    """Decode one video to the end of a file and return the journal's entry."""
    if video.key in layout.skip:
        return {"key": video.key, "reason": "skipped: Prepare.skip names it"}
    if state.frames * layout.frame_bytes >= layout.shard_bytes:
        state.shard, state.frames = state.shard + 1, 0
    path = layout.shard(block.number, state.shard)
    with os.fdopen(open_own(path, os.O_APPEND), "ab", buffering=_BUFFER_BYTES) as file:
        try:
            count, checksum = _write_frames(file, checked_frames(source, video), going)
        except UnreadableVideo as error:
            file.flush()
            file.truncate(state.frames * layout.frame_bytes)
            return {"key": video.key, "reason": error.reason[:_LONGEST_REASON]}
    entry = {"shard": state.shard, "start": state.frames, "frames": count, "crc32": checksum}
    state.frames += count
    return {"key": video.key, **entry}


def _write_frames(
    file: BinaryIO, frames: Iterator[NDArray[np.uint8]], going: Callable[[], bool]
) -> tuple[int, int]:
    """Write frames; return how many, and the checksum of their bytes."""
    count = checksum = 0
    for frame in frames:
        if not going():
            raise Stopped
        content = frame.tobytes()
        file.write(content)
        checksum = zlib.crc32(content, checksum)
        count += 1
    return count, checksum


def checked_frames(source: VideoSource, video: Video) -> Iterator[NDArray[np.uint8]]:
    """Decode a video, holding the source to its word.

    Raises:
        UnreadableVideo: it cannot be decoded, has no frame, or one of another shape or dtype.
    """
    count = 0
    try:
        for frame in source.frames(video):
            if frame.dtype != np.uint8 or frame.shape != source.frame_shape:
                kind = f"{frame.dtype} {list(frame.shape)}"
                raise UnreadableVideo(video.key, f"a frame is {kind}, not uint8 as declared")
            yield frame
            count += 1
    except UnreadableVideo:
        raise
    # A damaged header may ask for any amount of memory.
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise UnreadableVideo(video.key, _reason(error, video.key)) from error
    if count == 0:
        raise UnreadableVideo(video.key, "it has no frames")


def _reason(error: BaseException, key: str) -> str:
    """Give an error's first line without the video's key, so that equal reasons can be counted."""
    lines = str(error).replace(f"{key}: ", "").replace(repr(key), "it").splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__


def _complete(block: Block, layout: Layout, state: _State) -> None:
    """Bring a block's files to the disk, with their checksums beside them."""
    shards = []
    for number in range(state.shard + (state.frames > 0)):
        path = layout.shard(block.number, number)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        size = path.stat().st_size
        frames = size // layout.frame_bytes
        entry = {"file": path.name, "frames": frames, "bytes": size, "sha256": file_sha256(path)}
        shards.append(entry)
    if state.frames == 0:  # the last file of a block may have been opened for bad videos only
        layout.shard(block.number, state.shard).unlink(missing_ok=True)
    sync_folder(layout.folder)
    record = {"shards": shards, "entries": state.entries}
    replace_file(layout.record(block.number), json.dumps(record) + "\n")
    layout.journal(block.number).unlink()
