"""Where each stream's records go, and which episodes they form.

Every stream (one environment) fills a ring of its own, so an episode's records stay adjacent.
Positions count a stream's records from its first and never wrap; a row is where a position lies.

Shape letters: K records, S streams.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torch import Tensor

from wmplatform.replay.errors import BrokenRecords
from wmplatform.replay.storage import RowStorage
from wmplatform.torchrl_parts import Writer

__all__ = ["EpisodeTable", "StreamWriter"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_EVICTED = -1
_NONE = -2


class Spans:
    """The finished episodes of one stream, oldest first, as a growing array."""

    def __init__(self) -> None:
        self._data: Ints = np.empty((2, 64), np.int64)
        self._first = self._end = 0

    def __len__(self) -> int:
        return self._end - self._first

    @property
    def array(self) -> Ints:
        """First position and number of records of each, `[2, len]`."""
        return self._data[:, self._first : self._end]

    def append(self, start: int, records: int) -> None:
        """Add the newest episode."""
        if self._end == self._data.shape[1]:
            grown = np.empty((2, 64 + 2 * len(self)), np.int64)
            grown[:, : len(self)] = self.array
            self._data, self._first, self._end = grown, 0, len(self)
        self._data[:, self._end] = start, records
        self._end += 1

    def drop_before(self, position: int) -> int:
        """Forget episodes that begin before a position; return how many."""
        gone = int(np.searchsorted(self.array[0], position))
        self._first += gone
        return gone


class EpisodeTable:
    """Which episodes are whole: an episode is forgotten once its first record is overwritten.

    Args:
        streams: number of streams.
    """

    def __init__(self, streams: int) -> None:
        self.finished = [Spans() for _ in range(streams)]
        self.running: Ints = np.full(streams, _NONE, np.int64)
        """First position of the running episode; -1 where it is overwritten, -2 where none runs."""
        self.version = 0
        """Grows whenever the finished episodes change."""

    def is_running(self) -> Bools:
        """Whether each stream is within an episode, `[S]`."""
        return self.running != _NONE

    def begin(self, stream: int, position: int) -> None:
        """Start an episode, ending the running one before it."""
        self.end(stream, position)
        self.running[stream] = position

    def end(self, stream: int, position: int) -> None:
        """End the running episode, if any, before a position."""
        start = int(self.running[stream])
        if start >= 0:
            self.finished[stream].append(start, position - start)
            self.version += 1
        self.running[stream] = _NONE

    def evict(self, tails: Ints) -> None:
        """Forget episodes that begin before each stream's oldest position `[S]`."""
        for stream, spans in enumerate(self.finished):
            self.version += spans.drop_before(int(tails[stream])) > 0
        self.running[(self.running >= 0) & (self.running < tails)] = _EVICTED

    def whole(self, heads: Ints, *, running: bool) -> Ints:
        """List whole episodes as stream, first position and records, `[3, E]`.

        Args:
            heads: number of records that each stream has written, `[S]`.
            running: running episodes count with what they have so far.
        """
        parts = [
            np.vstack([np.full(len(spans), stream), spans.array])
            for stream, spans in enumerate(self.finished)
        ]
        if running:
            streams = np.flatnonzero(self.running >= 0)
            starts = self.running[streams]
            parts.append(np.vstack([streams, starts, heads[streams] - starts]))
        return np.concatenate(parts, axis=1)


class StreamWriter(Writer):  # type: ignore[misc]
    """Writes each stream's records into its own ring and keeps the table of episodes.

    An episode begins at `is_first` and ends at `is_last`. A record with `is_first` that comes while
    an episode runs (its environment was lost) ends that episode as truncated: the record before it
    gets `is_last`.

    Args:
        streams: number of streams.
        rows: records that each stream can hold.
    """

    _storage: RowStorage

    def __init__(self, streams: int, rows: int) -> None:
        super().__init__()
        self.streams, self.rows = streams, rows
        self.heads: Ints = np.zeros(streams, np.int64)
        """Records that each stream has ever written."""
        self.table = EpisodeTable(streams)
        self.closed: list[tuple[int, int]] = []
        """Stream and position of records in storage that got `is_last` after they were written."""

    @property
    def _write_count(self) -> int:
        """Records ever written, as TorchRL's buffers report it."""
        return int(self.heads.sum())

    @property
    def tails(self) -> Ints:
        """Oldest position that each stream still holds, `[S]`."""
        return np.maximum(self.heads - self.rows, 0)

    @property
    def held(self) -> int:
        """Records in storage."""
        return int((self.heads - self.tails).sum())

    def rows_of(self, streams: Ints | int, positions: Ints) -> Ints:
        """Rows in storage of positions; shapes broadcast."""
        return streams * self.rows + positions % self.rows

    def mark_last(self, stream: int, position: int) -> None:
        """Set `is_last` of a record in storage."""
        self._storage.column("is_last")[stream * self.rows + position % self.rows] = True

    def extend(self, data: TensorDictBase) -> Tensor:
        """Write records `[K]` with a column `stream`; those of one stream in order of time.

        Returns:
            Their rows, `[K]`.

        Raises:
            BrokenRecords: a record continues no episode, or a stream does not exist.
        """
        stream = data["stream"].cpu().numpy()
        if len(stream) == 0:
            return torch.zeros(0, dtype=torch.long)
        if stream.min() < 0 or stream.max() >= self.streams:
            raise BrokenRecords(f"stream {stream.max()} of {self.streams}")
        order = np.argsort(stream, kind="stable")
        sorted_stream = stream[order]
        first = data["is_first"].cpu().numpy()[order]
        last = data["is_last"].cpu().numpy()[order].copy()
        self._close_lost(sorted_stream, first, last)
        count = np.bincount(stream, minlength=self.streams)
        if count.max() > self.rows:
            raise BrokenRecords(f"{count.max()} records at once for a ring of {self.rows}")
        rank = np.arange(len(stream)) - (count.cumsum() - count)[sorted_stream]
        position = self.heads[sorted_stream] + rank
        rows = np.empty_like(order)
        rows[order] = self.rows_of(sorted_stream, position)
        is_last = np.empty_like(last)
        is_last[order] = last
        index = torch.from_numpy(rows)
        self._storage.set(index, data.copy().set("is_last", torch.from_numpy(is_last)))
        self.heads += count
        self._record_episodes(sorted_stream, position, first, last)
        self._storage.grow_to(self.held)
        return index

    def close(self, stream: int) -> bool:
        """End a stream's running episode as truncated; return whether one was running."""
        running = bool(self.table.is_running()[stream])
        if running:
            self._end_before_head(stream)
            self.table.end(stream, int(self.heads[stream]))
        return running

    def rebuild(self, heads: Ints) -> None:
        """Take over refilled storage: find the episodes by their flags.

        Args:
            heads: records that each stream has ever written, `[S]`.
        """
        self.heads = heads.copy()
        self.table = EpisodeTable(self.streams)
        self.closed = []
        first, last = (self._storage.column(key).cpu().numpy() for key in ("is_first", "is_last"))
        for stream in range(self.streams):
            position = np.arange(self.tails[stream], heads[stream])
            rows = self.rows_of(stream, position)
            if len(position) and not first[rows[0]]:
                self.table.running[stream] = _EVICTED
            on = np.full(len(position), stream)
            self._record_episodes(on, position, first[rows], last[rows])
        self._storage.grow_to(self.held)

    def _close_lost(self, stream: Ints, first: Bools, last: Bools) -> None:
        """End episodes that `is_first` cuts short; refuse records that continue none.

        All are sorted by stream; `last` is changed.
        """
        opens = np.r_[True, stream[1:] != stream[:-1]]
        over = np.where(opens, ~self.table.is_running()[stream], np.r_[True, last[:-1]])
        if (orphans := ~first & over).any():
            which = int(stream[orphans][0])
            raise BrokenRecords(
                f"a record of stream {which} is not the first of an episode, and none is running",
                hint="an episode's first record has is_first; after is_last comes is_first",
            )
        cut = np.flatnonzero(first & ~over)
        last[cut[~opens[cut]] - 1] = True
        for i in cut[opens[cut]]:
            self._end_before_head(int(stream[i]))

    def _end_before_head(self, stream: int) -> None:
        position = int(self.heads[stream]) - 1
        self.mark_last(stream, position)
        self.closed.append((stream, position))

    def _record_episodes(self, stream: Ints, position: Ints, first: Bools, last: Bools) -> None:
        for i in np.flatnonzero(first | last):
            if first[i]:
                self.table.begin(int(stream[i]), int(position[i]))
            if last[i]:
                self.table.end(int(stream[i]), int(position[i]) + 1)
        self.table.evict(self.tails)

    # What TorchRL's base class asks for beside.

    def add(self, data: TensorDictBase) -> int:
        """Write one record `[]`; return its row."""
        return int(self.extend(data.unsqueeze(0))[0])

    def state_dict(self) -> dict[str, Any]:
        """Return the write positions; everything else follows from the records."""
        return {"heads": self.heads.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over write positions; storage must hold the records already."""
        self.rebuild(np.asarray(state_dict["heads"], np.int64))

    def dumps(self, path: Any) -> None:
        """Refuse: `Replay.save` writes records and positions together."""
        raise NotImplementedError("use Replay.save")

    def loads(self, path: Any) -> None:
        """Refuse: `Replay.restore` reads records and positions together."""
        raise NotImplementedError("use Replay.restore")

    def _empty(self, empty_write_count: bool = True) -> None:
        del empty_write_count
        self.rebuild(np.zeros(self.streams, np.int64))
