"""`wmplatform prepare`: decode a source once, in parallel, into shards.

The same command on the same folder goes on where a killed one stopped; finished videos are not
decoded again. This file imports no torch, nor do its workers.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from rich.console import Console

from wmplatform import __version__
from wmplatform.errors import PlatformError
from wmplatform.factory import Factory
from wmplatform.files import explained_writes, open_own, replace_file, sealed, to_json
from wmplatform.forms import ANY, Holding, Named
from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.videos.blocks import (
    Block,
    Layout,
    Stopped,
    block_size,
    read_journal,
    read_note,
    read_record,
    split,
    write_block,
)
from wmplatform.videos.errors import (
    BadSource,
    FolderBusy,
    OtherVideos,
    PrepareFailed,
    TooManyBad,
    UnreadableShards,
)
from wmplatform.videos.progress import PrepareProgress
from wmplatform.videos.shards import FORMAT, MANIFEST, QUARANTINE, VIDEOS, Shards

__all__ = ["Prepare"]

_PLAN = "plan.json"
_POLL_S = 0.25


class Prepare:
    """Decodes every video of a source into a folder that `Clips` reads.

    Args:
        source: the videos.
        processes: workers; as many as there are cores by default, 0 decodes in this process.
        max_bad_share: share of videos that may be unusable; beyond it preparing fails.
        shard_bytes: a file that has this size takes no further video.
        skip: keys of videos to quarantine unseen, such as one that crashes its decoder.
    """

    def __init__(
        self,
        *,
        source: Factory[VideoSource],
        processes: Annotated[int, Ge(0)] | None = None,
        max_bad_share: Annotated[float, Ge(0), Le(1)] = 0.05,
        shard_bytes: Annotated[int, Ge(1)] = 1 << 30,
        skip: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        self.processes, self.max_bad_share = processes, max_bad_share
        self.shard_bytes, self.skip = shard_bytes, skip

    def run(self, out: Path | str, *, console: Console | None = None) -> Shards:
        """Prepare into a folder, or finish what was begun there; a finished folder is returned.

        Args:
            out: the folder; made if missing.
            console: for progress; stderr unless given.

        Raises:
            BadSource: the source has no videos.
            OtherVideos: the folder was begun with another source or other settings.
            TooManyBad: more videos than `max_bad_share` allows cannot be used.
            DiskFull: what is finished stays.
        """
        out = Path(out)
        source = self.source()
        videos = source.videos()
        if not videos:
            raise BadSource("the source has no videos", hint="look at its settings")
        layout = Layout(out, source.frame_shape, self.shard_bytes, frozenset(self.skip))
        with explained_writes(out, "prepared videos"), _lock(out):
            work = _Work(layout, split(videos), _plan(source, videos, self))
            if work.begin():
                self._decode(source, work, console)
                work.finish()
        return Shards(out)

    def _decode(self, source: VideoSource, work: "_Work", console: Console | None) -> None:
        tally = work.tally()
        with PrepareProgress(work.total, tally.videos, console=console) as progress:
            with closing(self._working(source, work)) as turns:
                for _ in turns:
                    tally = work.tally()
                    progress.update(tally.videos, tally.frames, len(tally.bad))
                    self._refuse_too_many(tally, work)
            tally = work.tally()
            self._refuse_too_many(tally, work)
            progress.say(progress.line(tally.videos, tally.frames, len(tally.bad)))

    def _refuse_too_many(self, tally: "_Tally", work: "_Work") -> None:
        # The total is known, so too many early on are too many in the end.
        bad, limit = len(tally.bad), self.max_bad_share
        if bad > limit * work.total or bad == work.total:
            raise TooManyBad(tally.bad, work.total, limit, work.layout.folder)

    def _working(self, source: VideoSource, work: "_Work") -> Generator[None, None, None]:
        """Write the blocks, yielding now and then."""
        todo = work.todo()
        cores = len(os.sched_getaffinity(0))
        processes = min(cores if self.processes is None else self.processes, len(todo))
        if processes == 0:
            for block in todo:
                write_block(source, block, work.layout)
                yield
            return
        yield from _in_parallel(source, work, todo, processes)


@dataclass(frozen=True)
class _Tally:
    videos: int
    frames: int
    bad: dict[str, str]
    """Reasons by key."""


class _Work:
    """What is to be done in a folder, and what is done already."""

    def __init__(self, layout: Layout, blocks: list[Block], plan: dict[str, Any]) -> None:
        self.layout, self.blocks, self.plan = layout, blocks, plan
        self.total = sum(len(block.videos) for block in blocks)
        self._finished: dict[int, _Tally] = {}

    def begin(self) -> bool:
        """Note the plan, or compare it with that of the folder; False where nothing is left."""
        folder = self.layout.folder
        if os.path.lexists(folder / MANIFEST):
            _compare(Shards(folder).manifest["plan"], self.plan, folder)
            shutil.rmtree(folder / "blocks", ignore_errors=True)
            return False
        (folder / "blocks").mkdir(exist_ok=True)
        plan = folder / "blocks" / _PLAN
        if os.path.lexists(plan):
            _compare(read_note(plan, Holding({"source": Named(ANY)})), self.plan, folder)
        else:
            replace_file(plan, to_json(self.plan))
        return True

    def todo(self) -> list[Block]:
        """List the blocks that are not complete."""
        return [b for b in self.blocks if not self.layout.record(b.number).exists()]

    def tally(self) -> _Tally:
        """Count what is finished, in complete blocks and in journals."""
        parts = [self._tally_of(block) for block in self.blocks]
        bad = {key: reason for part in parts for key, reason in part.bad.items()}
        return _Tally(sum(p.videos for p in parts), sum(p.frames for p in parts), bad)

    def unfinished(self) -> list[str]:
        """Name the videos that workers may be at: the first that each begun block lacks."""
        found = []
        for block in self.todo():
            done = self._tally_of(block).videos
            if self.layout.journal(block.number).exists() and done < len(block.videos):
                found.append(block.videos[done].key)
        return found

    def finish(self) -> None:
        """Write the lists and, last, the manifest."""
        rows: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        shards: list[dict[str, Any]] = []
        for block in self.blocks:
            record = read_record(self.layout.record(block.number))
            if len(record["entries"]) != len(block.videos):
                where = self.layout.record(block.number)
                raise UnreadableShards(where, f"{len(block.videos)} videos are in this block")
            for video, entry in zip(block.videos, record["entries"], strict=True):
                if "reason" in entry:
                    bad.append({"key": video.key, "reason": entry["reason"]})
                    continue
                place = {"shard": entry["shard"] + len(shards), "start": entry["start"]}
                about = {"key": video.key, "label": video.label, "group": video.group}
                rows.append({**about, **place, "frames": entry["frames"]})
            shards += record["shards"]
        folder = self.layout.folder
        content = _lines(rows)
        replace_file(folder / VIDEOS, content)
        replace_file(folder / QUARANTINE, _lines(bad))
        replace_file(folder / MANIFEST, to_json(sealed(self._manifest(rows, bad, shards, content))))
        shutil.rmtree(folder / "blocks")

    def _manifest(
        self,
        rows: list[dict[str, Any]],
        bad: list[dict[str, Any]],
        shards: list[dict[str, Any]],
        content: str,
    ) -> dict[str, Any]:
        listing = hashlib.sha256(content.encode()).hexdigest()
        parts = [str(self.layout.frame_shape), listing, *(shard["sha256"] for shard in shards)]
        return {
            "format": FORMAT,
            "fingerprint": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            "frame_shape": list(self.layout.frame_shape),
            "group_weights": self.plan["group_weights"],
            "videos": {
                "count": len(rows),
                "frames": sum(row["frames"] for row in rows),
                "quarantined": len(bad),
                "sha256": listing,
            },
            "quarantine_sha256": hashlib.sha256(_lines(bad).encode()).hexdigest(),
            "shards": shards,
            "made_with": {"wmplatform": __version__},
            "plan": self.plan,
        }

    def _tally_of(self, block: Block) -> _Tally:
        if block.number in self._finished:
            return self._finished[block.number]
        record = self.layout.record(block.number)
        complete = record.exists()
        if complete:
            entries = read_record(record)["entries"]
        else:  # a worker may be writing, finishing or mending it
            entries = list(read_journal(self.layout.journal(block.number)))
        bad = {entry["key"]: entry["reason"] for entry in entries if "reason" in entry}
        tally = _Tally(len(entries), sum(e.get("frames", 0) for e in entries), bad)
        if complete:
            self._finished[block.number] = tally
        return tally


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _plan(source: VideoSource, videos: list[Video], settings: Prepare) -> dict[str, Any]:
    """What decides every byte that will be written."""
    listing = hashlib.sha256()
    for video in videos:
        about = [video.key, video.label, video.group, dict(sorted(video.meta.items()))]
        listing.update(json.dumps(about).encode())
    plan = {
        "format": 1,  # of the frames, which all formats of the manifest have had
        "source": source.settings(),
        "videos": len(videos),
        "listing_sha256": listing.hexdigest(),
        "frame_shape": source.frame_shape,
        "group_weights": dict(source.group_weights()),
        "block_videos": block_size(len(videos)),
        "shard_bytes": settings.shard_bytes,
        "skip": settings.skip,
    }
    normal: dict[str, Any] = json.loads(json.dumps(plan, allow_nan=False))
    return normal


def _compare(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    old, new = _flat(before), _flat(now)
    differences = [
        f"{key}: was {old.get(key)}, is {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differences:
        raise OtherVideos(folder, differences)


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in plan.items() if key != "source"}
    return rest | {f"source.{key}": value for key, value in plan["source"].items()}


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; a killed one's lock is free at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_own(folder / ".lock"), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderBusy(folder) from None
        yield


# The parallel part. Workers report by what they write; a kill of either side leaves no lock behind.


@dataclass
class _Worker:
    """What a worker process knows."""

    source: VideoSource
    layout: Layout
    stop: Any
    """Shared byte; not 0 calls the work off."""

    def going(self) -> bool:
        return bool(self.stop.value == 0)


_worker: _Worker | None = None


def _start_worker(worker: _Worker) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent calls the work off
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _worker = worker


def _end_with_the_parent() -> None:
    """Leave when the parent was killed: nobody else would ever say that there is no more work."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)  # at any moment: what is begun is cut off by the next run


def _write(block: Block) -> tuple[str, list[str], str, int] | None:
    """Write a block; an error of the platform is returned in parts, to survive the journey."""
    assert _worker is not None
    try:
        write_block(_worker.source, block, _worker.layout, _worker.going)
    except Stopped:
        return None
    except PlatformError as error:
        return f"{type(error).__name__}: {error.what}", error.where, error.hint, error.exit_code
    return None


def _in_parallel(
    source: VideoSource, work: _Work, todo: list[Block], processes: int
) -> Generator[None, None, None]:
    context = get_context("spawn")  # a fork would inherit decoders' and simulators' threads
    worker = _Worker(source, work.layout, context.RawValue("b", 0))
    with ProcessPoolExecutor(processes, context, _start_worker, (worker,)) as pool:
        try:
            pending = {pool.submit(_write, block) for block in todo}
            while pending:
                done, pending = wait(pending, _POLL_S, FIRST_COMPLETED)
                for future in done:
                    _raise_failure(future, work)
                yield
        finally:
            worker.stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)


def _raise_failure(future: "Future[tuple[str, list[str], str, int] | None]", work: _Work) -> None:
    try:
        failure = future.result()
    except BrokenProcessPool:
        raise PrepareFailed(
            "a worker process died while it decoded one of these videos",
            work.unfinished(),
            "start the same command again; if it dies at the same video once more, leave that out:"
            "\n--bind \"Prepare.skip = ('<key>',)\"",
            1,
        ) from None
    if failure is not None:
        raise PrepareFailed(*failure)
