"""Everything that a run writes down for people: numbers, pictures and videos.

`metrics.jsonl` is the record; TensorBoard shows the same numbers for convenience.

A full disk stops none of it: lines wait for space, and a checkpoint waits for the lines. Pictures,
videos and TensorBoard's events are for the eye, so those that do not fit are left out.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wmplatform.files import DiskFull
from wmplatform.forms import Named, Whole
from wmplatform.json_lines import JsonLines
from wmplatform.logging.progress import Progress
from wmplatform.logging.running_means import RunningMeans
from wmplatform.pictures import write_png, write_video

if TYPE_CHECKING:
    from wmplatform.logging.event_file import EventFile

__all__ = ["RunLogger"]


class RunLogger:
    """Writes into a run folder.

    Every line of `metrics.jsonl` holds all counters, so that a curve can have any of them as its
    x-axis. Values that are not finite are null.

    Args:
        folder: the run folder.
        axis: the counter that TensorBoard shows as its step.
        progress: told of every line, if given.
        tensorboard: False writes no event files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        axis: str = "env_frames",
        progress: Progress | None = None,
        tensorboard: bool = True,
    ) -> None:
        self.folder, self.axis, self.progress = folder, axis, progress
        self.means = RunningMeans()
        self._lines = JsonLines(folder / "metrics.jsonl")
        self._wants_events = tensorboard
        self._events: EventFile | None = None
        self._purge: int | None = None
        self._last: dict[str, int] = {}
        self._waiting: deque[dict[str, Any]] = deque()
        """Lines that did not fit on the disk yet."""
        self._told = False

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take scalars of one update into the means; never waits for the device."""
        self.means.add(metrics)

    def flush(
        self, counters: Mapping[str, int], extra: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Write one line with the means since the last call; waits for the device once.

        Where nothing has happened since the last line, none is written.

        Args:
            counters: all counters of the run.
            extra: further values of this line.

        Returns:
            The means.
        """
        means = self.means.take()
        if not means and dict(counters) == self._last:
            return means
        speeds = self.progress.rates() if self.progress else {}
        rates = {f"speed/{name}_per_s": rate for name, rate in speeds.items()}
        self.scalars(counters, {**means, **(extra or {}), **rates})
        return means

    def scalars(self, counters: Mapping[str, int], values: Mapping[str, float]) -> None:
        """Write one line with these values, now or when there is space."""
        self._last = dict(counters)
        self._waiting.append({**counters, "time_s": round(time.time(), 3), **values})
        with self._unless_full():
            self._write_waiting()
            self._told = False
        self._show(lambda events: events.scalars(values, counters[self.axis]))

    def image(self, name: str, counters: Mapping[str, int], image: NDArray[np.uint8]) -> Path:
        """Write a picture uint8 `[H, W, 3]` as `pictures/<name>-<axis>.png`."""
        path = self._target("pictures", name, counters, ".png")
        with self._unless_full():
            write_png(path, image)
        self._show(lambda events: events.image(name, image, counters[self.axis]))
        return path

    def video(
        self, name: str, counters: Mapping[str, int], frames: NDArray[np.uint8], fps: int
    ) -> Path:
        """Write a video uint8 `[T, H, W, 3]` as `videos/<name>-<axis>.mp4`.

        Returns:
            The file that was written: a GIF where PyAV is not installed.
        """
        written = target = self._target("videos", name, counters, ".mp4")
        with self._unless_full():
            written = write_video(target, frames, fps)
        return written  # noqa: RET504 - the block may not have come that far

    def state_dict(self) -> dict[str, Any]:
        """Return where the metrics end, and what is summed up; the lines are on the disk then.

        Raises:
            DiskFull: there is no space for the lines; they go on waiting.
        """
        self._write_waiting()
        self._lines.sync()
        return {
            "offset": self._lines.offset,
            "means": self.means.state_dict(),
            "counters": dict(self._last),
        }

    @staticmethod
    def state_form() -> Any:
        """Of which form `load_state_dict` takes a state."""
        counters = Named(Whole(), words=True)
        return {"offset": Whole(), "means": RunningMeans.state_form(), "counters": counters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget what was logged after a checkpoint was saved, and go on from there.

        Must come before anything is logged.
        """
        self._lines.truncate(state["offset"])
        self.means.load_state_dict(state["means"])
        self._last = dict(state["counters"])
        self._purge = self._last.get(self.axis, -1) + 1

    def start_over(self) -> None:
        """Forget everything: an earlier process logged, but was killed before it saved.

        Must come before anything is logged.
        """
        self.load_state_dict({"offset": 0, "means": [], "counters": {}})

    def close(self) -> None:
        """Close all files; a second call does nothing. Lines that still do not fit are lost."""
        if self._waiting:
            with suppress(DiskFull):
                self._write_waiting()
            self._waiting.clear()
        self._lines.close()
        if self._events is not None:
            self._events.close()
        if self.progress is not None:
            self.progress.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _target(self, place: str, name: str, counters: Mapping[str, int], suffix: str) -> Path:
        file = f"{name.replace('/', '-')}-{counters[self.axis]:09d}{suffix}"
        return self.folder / place / file

    def _write_waiting(self) -> None:
        while self._waiting:
            self._lines.append(self._waiting[0])
            self._waiting.popleft()

    @contextmanager
    def _unless_full(self) -> Iterator[None]:
        """Let a block fail on a full disk; the first time, say so."""
        try:
            yield
        except DiskFull as error:
            if self.progress is not None and not self._told:
                self.progress.say(f"the disk is full, the run goes on: {error.what} ({error.path})")
            self._told = True

    def _show(self, write: "Callable[[EventFile], None]") -> None:
        """Write to TensorBoard's file, opened when it is first needed: it is slow to import."""
        if not self._wants_events:
            return
        from wmplatform.logging.event_file import EventFile

        with self._unless_full():
            if self._events is None:
                self._events = EventFile(self.folder / "tensorboard", self._purge)
            write(self._events)
