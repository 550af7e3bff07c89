"""Replay: one store of records, two views of it.

Shape letters: B batch, T segment length, C H W image, A action, K stacked frames.
"""

import base64
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from tensordict import TensorDict
from torch import Tensor

from wmplatform.forms import check_form
from wmplatform.images import is_image
from wmplatform.interfaces.env_adapter import ArraySpec, EnvSpec
from wmplatform.records import record_bytes, record_columns
from wmplatform.replay.chunks import (
    MANIFEST,
    Chunk,
    Manifest,
    Span,
    first_held,
    prune,
    read_chunk,
    split,
    write_chunks,
)
from wmplatform.replay.errors import BrokenRecords, CapacityTooSmall, ReplayMismatch
from wmplatform.replay.sampler import EpisodeSampler
from wmplatform.replay.storage import RowStorage, in_files, in_memory
from wmplatform.replay.streams import StreamWriter
from wmplatform.torchrl_parts import TensorDictReplayBuffer

__all__ = ["Replay"]

_FORMAT = 1
_CHUNK_BYTES = 128 * 2**20

IN_PREFETCH = threading.local()
"""`active` is set in threads that draw batches ahead."""


class Replay:
    """Records of one or more streams in rings, sampled as segments or as transitions.

    Only whole episodes are sampled: an episode is forgotten once its first record is overwritten.
    A batch is on the device that stores the records; images stay uint8.

    Args:
        spec: of the environment; says what a record holds.
        streams: environments that write, each into its own ring of `capacity // streams` records.
        device: where `storage = "memory"` lies.
        directory: where the working files of `storage = "memmap"` lie.
        seed: of the sampling.
        capacity: records.
        storage: `memory`, or `memmap` for working files on the disk.
        prioritize_ends: draws the last segment of an episode `length + 1` times as often as any
            other, as DreamerV2 does.
        only_finished: running episodes are not sampled.

    Raises:
        CapacityTooLarge: there is no room for the records.
        CapacityTooSmall: a ring could not hold one episode.
    """

    def __init__(
        self,
        spec: EnvSpec,
        streams: int = 1,
        device: torch.device | str = "cpu",
        directory: Path | str | None = None,
        seed: int = 0,
        *,
        capacity: Annotated[int, Ge(1)] = 1_000_000,
        storage: Literal["memory", "memmap"] = "memory",
        prioritize_ends: bool = False,
        only_finished: bool = True,
    ) -> None:
        self.columns = record_columns(spec)
        self._observations = tuple(spec.observations)
        rows = capacity // streams
        episode = 1 if spec.time_limit is None else spec.time_limit + 1
        if rows < episode:
            raise CapacityTooSmall(rows, episode, streams)
        self.storage = self._allocate(storage, rows * streams, torch.device(device), directory)
        self.writer = StreamWriter(streams, rows)
        self.sampler = EpisodeSampler(
            self.writer,
            prioritize_ends=prioritize_ends,
            only_finished=only_finished,
            generator=torch.Generator().manual_seed(seed),
        )
        self._buffer = TensorDictReplayBuffer(
            storage=self.storage, writer=self.writer, sampler=self.sampler
        )
        self._lock = threading.RLock()
        self._ahead: set[Future[Any]] = set()
        self._saved_in: Path | None = None
        self._chunks: list[Chunk] = []
        self._saved_heads = np.zeros(streams, np.int64)

    def _allocate(
        self, kind: str, rows: int, device: torch.device, directory: Path | str | None
    ) -> RowStorage:
        if kind == "memory":
            return in_memory(self.columns, rows, device)
        if directory is None:
            raise ValueError("storage = 'memmap' needs a directory")
        return in_files(self.columns, rows, Path(directory))

    def __len__(self) -> int:
        """Count the records in storage."""
        return self.writer.held

    @property
    def records_written(self) -> int:
        """Records that were ever written."""
        return int(self.writer.heads.sum())

    @property
    def episodes(self) -> int:
        """Episodes that may be sampled, of any length."""
        return self.sampler.count(1)

    def can_sample(self, records: int) -> bool:
        """Whether some episode has this many records (`Segments.records`, ...)."""
        return self.sampler.count(records) > 0

    def extend(self, records: TensorDict) -> None:
        """Write records `[K]` with an int64 column `stream`, those of one stream in order of time.

        Where `is_first` comes while an episode runs, that episode ends as truncated.

        Raises:
            BrokenRecords: a column is missing or does not fit, or a record continues no episode.
        """
        self._conform(records)
        self.settle()
        with self._lock:
            # A piece that is longer than a ring would overwrite itself.
            for piece in records.split(self.writer.rows):
                self._buffer.extend(piece.copy())

    def close_stream(self, stream: int) -> bool:
        """End a stream's running episode as truncated, e.g. after its environment was lost.

        Returns:
            Whether an episode was running.
        """
        self.settle()
        with self._lock:
            return self.writer.close(stream)

    def segments(self, batch: int, length: int, *, mark_start: bool = True) -> TensorDict:
        """Draw segments of consecutive records of one episode each, `[B, T]`.

        Args:
            batch: segments B.
            length: records T.
            mark_start: `is_first` is true at index 0 of every segment; without it, only where an
                episode begins.

        Raises:
            NotEnoughData: no episode has `length` records.
        """
        self.settle()
        with self._lock:
            self.sampler.length = length
            flat = self._buffer.sample(batch * length)
        drawn = {key: flat[key].unflatten(0, (batch, length)) for key in self.columns}
        if mark_start:
            drawn["is_first"][:, 0] = True
        return TensorDict(drawn, [batch, length], device=self.storage.device)

    def transitions(
        self,
        batch: int,
        n: int,
        gamma: float,
        stack: int = 1,
        *,
        short_ends: bool = False,
        by_length: bool = False,
    ) -> TensorDict:
        """Draw n-step transitions, `[B]`.

        Holds the observations, images stacked over `stack` frames along their first axis (`pixels`
        is `[B, K*C, H, W]`, oldest first), `action` `[B, A]` taken there, `reward` `[B]` =
        sum over i < n of gamma^i r_{t+1+i}, `discount` `[B]` = gamma^n, or 0 where the environment
        terminated, and `next` with the observations n steps later. A truncation keeps its
        bootstrap.

        Args:
            batch: transitions B.
            n: steps of reward.
            gamma: discount of one step.
            stack: frames of an observation.
            short_ends: the last n - 1 steps of an episode start transitions too, of the steps that
                remain; without it they never do (DrQ-v2).
            by_length: every start is equally likely; without it every episode is (DrQ-v2), which
                differs where lengths do.

        Raises:
            NotEnoughData: no episode has n + 1 records, or 2 with short ends.
        """
        self.settle()
        with self._lock:
            rows = self.sampler.transitions(
                batch, n, stack, short_ends=short_ends, by_length=by_length
            )
            now = {key: self._stacked(key, rows.observation) for key in self._observations}
            later = {key: self._stacked(key, rows.following) for key in self._observations}
            action = self._take("action", rows.steps[:, 0])
            rewards = self._take("reward", rows.steps)
            terminal = self._take("is_terminal", rows.steps[:, -1])
        powers = gamma ** torch.arange(n + 1, dtype=torch.float32)
        earned = powers[:n] * (torch.arange(n) < rows.taken[:, None])
        drawn: dict[str, Any] = {
            **now,
            "action": action,
            "reward": (rewards * earned.to(rewards.device)).sum(1),
            "discount": powers[rows.taken].to(rewards.device) * (~terminal).float(),
            "next": TensorDict(later, [batch]),
        }
        return TensorDict(drawn, [batch], device=self.storage.device)

    def save(self, directory: Path | str) -> Manifest:
        """Write the records that are not in `directory` yet.

        Returns:
            What `restore` needs beside the directory: a JSON value to be kept in a checkpoint.
            Records that are overwritten by then stay on the disk until `prune`.

        Raises:
            DiskFull: nothing of this call remains; manifests returned before stay valid.
            CannotWrite: likewise.
        """
        directory = Path(directory)
        self.settle()
        with self._lock:
            fresh = directory != self._saved_in
            saved = np.zeros_like(self._saved_heads) if fresh else self._saved_heads
            chunks = [] if fresh else self._chunks
            new = write_chunks(directory, self._unsaved(saved))
            tails = self.writer.tails
            self._chunks = [chunk for chunk in chunks if _needed(chunk, tails)] + new
            self._saved_in, self._saved_heads = directory, self.writer.heads.copy()
            self.writer.closed = [
                (stream, at) for stream, at in self.writer.closed if at >= tails[stream]
            ]
            return self._manifest()

    def restore(self, directory: Path | str, manifest: Manifest) -> None:
        """Become the replay that gave this manifest, the next random draws included.

        With another capacity the newest records are kept.

        Raises:
            ReplayMismatch: columns, streams or format differ.
            UnreadableReplay: a file is missing or damaged; this replay is empty then.
            ValueError: the manifest is none that `save` returned.
        """
        directory = Path(directory)
        check_form(manifest, MANIFEST)
        self._refuse_other(manifest, directory)
        chunks = [Chunk.from_json(entry) for entry in manifest["chunks"]]
        heads = np.asarray(manifest["heads"], np.int64)
        closed = [(stream, at) for stream, at in manifest["closed"]]
        if any(stream >= len(heads) or at >= heads[stream] for stream, at in closed):
            raise ValueError("an episode was closed that nobody has written")
        oldest = np.maximum(heads - self.writer.rows, first_held(chunks, manifest["heads"]))
        generator = _generator(manifest["generator"])
        self.settle()
        with self._lock:
            self.writer._empty()
            self._saved_in = None
            for key in ("is_first", "is_last"):  # where nothing is read, no episode begins or ends
                self.storage.column(key).fill_(False)
            for chunk in chunks:
                self._refill(chunk, read_chunk(directory, chunk, self.columns), oldest)
            for stream, at in closed:
                if at >= oldest[stream]:
                    self.writer.mark_last(stream, at)
            self.writer.rebuild(heads)
            self.writer.closed = closed
            self.sampler.generator.set_state(generator.get_state())
            self._saved_in, self._chunks, self._saved_heads = directory, chunks, heads

    prune = staticmethod(prune)

    def settle(self) -> None:
        """Wait for batches that are being drawn ahead, so that they see what was there before."""
        if getattr(IN_PREFETCH, "active", False):
            return
        while self._ahead:
            self._ahead.pop().exception()  # whoever asked for the batch gets the exception

    def note_ahead(self, drawing: "Future[Any]") -> None:
        """Make later calls wait for a batch that is being drawn in another thread."""
        self._ahead = {other for other in self._ahead if not other.done()} | {drawing}

    def _conform(self, records: TensorDict) -> None:
        if missing := sorted(({*self.columns, "stream"}) - set(records.keys())):
            raise BrokenRecords(f"records lack the columns {', '.join(missing)}")
        for key, column in self.columns.items():
            given = records[key]
            dtype = str(given.dtype).removeprefix("torch.")
            if tuple(given.shape[1:]) != column.shape or dtype != column.dtype:
                raise BrokenRecords(
                    f"column {key} is {dtype} {tuple(given.shape[1:])} instead of "
                    f"{column.dtype} {column.shape}"
                )

    def _take(self, key: str, rows: Tensor) -> Tensor:
        column = self.storage.column(key)
        flat = column.index_select(0, rows.reshape(-1).to(column.device))
        return flat.unflatten(0, rows.shape)

    def _stacked(self, key: str, rows: Tensor) -> Tensor:
        """Observations of rows `[B, K]`: all frames of images, the newest entry of others."""
        if not is_image(self.columns[key]):
            return self._take(key, rows[:, -1])
        return self._take(key, rows).flatten(1, 2)

    def _unsaved(self, saved: Any) -> Any:
        """Give spans and columns of what is not on the disk, chunk by chunk."""
        firsts = np.maximum(saved, self.writer.tails)
        spans = [
            Span(stream, int(firsts[stream]), int(head - firsts[stream]))
            for stream, head in enumerate(self.writer.heads)
        ]
        for group in split(spans, max(1, _CHUNK_BYTES // record_bytes(self.columns))):
            rows = torch.from_numpy(np.concatenate([self._rows(span) for span in group]))
            yield group, {key: self._take(key, rows).cpu() for key in self.columns}

    def _rows(self, span: Span) -> Any:
        positions = np.arange(span.first, span.first + span.count)
        return self.writer.rows_of(span.stream, positions)

    def _refill(self, chunk: Chunk, columns: Mapping[str, Tensor], oldest: Any) -> None:
        """Store the records of a file from each stream's `oldest` position on."""
        rows = np.concatenate([self._rows(span) for span in chunk.spans])
        kept = np.concatenate(
            [
                np.arange(span.first, span.first + span.count) >= oldest[span.stream]
                for span in chunk.spans
            ]
        )
        if kept.any():
            mask = torch.from_numpy(kept)
            records = TensorDict({key: columns[key][mask] for key in self.columns}, [kept.sum()])
            self.storage.set(torch.from_numpy(rows[kept]), records)

    def _manifest(self) -> Manifest:
        state = self.sampler.generator.get_state().numpy().tobytes()
        return {
            "format": _FORMAT,
            "columns": _columns_json(self.columns),
            "heads": self.writer.heads.tolist(),
            "closed": [list(item) for item in self.writer.closed],
            "generator": base64.b64encode(state).decode(),
            "chunks": [chunk.to_json() for chunk in self._chunks],
        }

    def _refuse_other(self, manifest: Manifest, directory: Path) -> None:
        here = {
            "format": _FORMAT,
            "columns": _columns_json(self.columns),
            "streams": self.writer.streams,
        }
        there = {
            "format": manifest.get("format"),
            "columns": manifest.get("columns"),
            "streams": len(manifest.get("heads", [])),
        }
        for name, value in here.items():
            if there[name] != value:
                raise ReplayMismatch(
                    f"the saved replay has {name} {there[name]!s:.400}, this run has {value}",
                    where=str(directory),
                    hint="use the configuration that the run was started with",
                )


def _generator(text: str) -> torch.Generator:
    """Make a generator of a state that a manifest holds.

    Raises:
        ValueError: it is none.
    """
    generator = torch.Generator()
    state = np.frombuffer(base64.b64decode(text, validate=True), np.uint8).copy()
    try:
        return generator.set_state(torch.from_numpy(state))
    except RuntimeError as error:
        raise ValueError(f"torch does not take the generator's state: {error}") from error


def _needed(chunk: Chunk, tails: Any) -> bool:
    return any(span.first + span.count > tails[span.stream] for span in chunk.spans)


def _columns_json(columns: Mapping[str, ArraySpec]) -> dict[str, list[Any]]:
    return {key: [column.dtype, list(column.shape)] for key, column in columns.items()}
