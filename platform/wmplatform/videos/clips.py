"""Batches of clips for pre-training, drawn ahead as uint8.

Shape letters: B clips, T frames of a clip, C H W image.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from tensordict import TensorDict

from wmplatform.clip_source import ClipSource
from wmplatform.factory import Factory
from wmplatform.forms import Holding, Whole
from wmplatform.interfaces.env_adapter import ArraySpec
from wmplatform.interfaces.video_source import VideoSource
from wmplatform.videos.datasets import Cut, Dataset, LiveVideos, PreparedVideos, TooShort
from wmplatform.videos.errors import BadSource, ClipsMismatch, NoClips, UnreadableVideo
from wmplatform.videos.sampling import Drawer, HeldOut, Selection, strata_of

__all__ = ["Clips"]

_ATTEMPTS = 100
"""Draws for one clip, where videos turn out to be unusable only when they are decoded."""


class Clips(ClipSource):
    """A stream of batches of consecutive frames, the same for the same seed.

    A dataset is drawn by weight, then a video uniformly (not by length), then a start uniformly
    (but see `prioritize_ends`), as APV and ContextWM do. Batch number n is a function of the seed
    and n alone, so the position is a counter, and prefetching and threads change nothing.

    Several processes share one stream: `batch` is the number of clips over all of them, and the
    process `rank` of `world_size` gets its equal part of the rows. Joined in the order of ranks,
    the parts are the batch of a single process.

    Args:
        seed: of the stream.
        rank: number of this process.
        world_size: how many processes share the stream.
        device: where batches go; for an accelerator through pinned memory.
        data: folders that `wmplatform prepare` wrote.
        live: sources to decode as one goes, after those of `data`; slow, but needs no preparation.
        weights: how often each dataset is drawn, relative to the others; equally often by default.
        batch: clips in a batch, over all processes.
        length: frames of a clip.
        stride: 2 takes every second frame.
        min_frames: shorter videos are left out, as are those shorter than a clip.
        prioritize_ends: draw the last clip of a video more often, as `Replay.prioritize_ends` does
            the last segment of an episode. APV's code does so with RLBench's episodes.
        labels: only videos with one of these labels, if any is given.
        held_out: share of the videos (at least one) that is kept for validation.
        held_out_by: hold out single videos, or all videos of a label (a task, a class).
        part: draw from the videos that are not held out, or from those that are.
        prefetch: batches made ahead.
        threads: that make them.

    Raises:
        BadSource: no data, or data that does not go together.
        NoClips: no video is long enough.
        UnreadableShards: as `Shards` says.
    """

    def __init__(
        self,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        *,
        data: str | tuple[str, ...] = (),
        live: tuple[Factory[VideoSource], ...] = (),
        weights: tuple[Annotated[float, Gt(0)], ...] | None = None,
        batch: Annotated[int, Ge(1)] = 16,
        length: Annotated[int, Ge(1)] = 25,
        stride: Annotated[int, Ge(1)] = 1,
        min_frames: Annotated[int, Ge(1)] = 1,
        prioritize_ends: bool = False,
        labels: tuple[str, ...] = (),
        held_out: Annotated[float, Ge(0), Lt(1)] = 0.0,
        held_out_by: HeldOut = "video",
        part: Literal["train", "held_out"] = "train",
        prefetch: Annotated[int, Ge(0)] = 2,
        threads: Annotated[int, Ge(1)] = 1,
    ) -> None:
        if batch % world_size:
            raise BadSource(
                f"a batch of {batch} clips cannot be parted among {world_size} processes",
                hint=f"set Clips.batch to a multiple of {world_size}",
            )
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.device = torch.device(device)
        self.batch, self.cut = batch, Cut(length, stride, min_frames, prioritize_ends)
        self.datasets = _datasets(data, live)
        self.frame_shape = self.datasets[0].frame_shape
        selection = Selection(labels, held_out, held_out_by, part)
        self.strata = strata_of(self.datasets, weights, self.cut, selection)
        self.batches = 0
        """Batches handed out so far."""
        self.rejected: dict[str, str] = {}
        """Videos of `live` sources that could not be used so far, and why."""
        self._drawer = Drawer(self.strata, seed)
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clips")
        self._ahead: deque[Future[TensorDict]] = deque()

    @property
    def observations(self) -> dict[str, ArraySpec]:
        """What a model will see: `pixels`."""
        return {"pixels": ArraySpec(self.frame_shape, "uint8")}

    @property
    def videos(self) -> int:
        """Number of videos that clips are drawn from."""
        return sum(len(stratum.videos) for stratum in self.strata)

    def sample(self) -> TensorDict:
        """Hand out the next batch: `pixels` uint8 `[B, T, C, H, W]`, `is_first` bool `[B, T]`.

        B is this process's part of the batch. `is_first` is true at t = 0 only.

        Raises:
            NoClips: the videos of a `live` source turn out to be unusable.
        """
        if not self._prefetch:
            batch = self.batch_at(self.batches)
        else:
            self._submit()
            batch = self._ahead.popleft().result()
        self.batches += 1
        if self._prefetch:
            self._submit()
        return batch

    def batch_at(self, number: int) -> TensorDict:
        """Make this process's part of batch `number` of the stream; changes nothing."""
        rows = self.batch // self.world_size
        pixels = np.empty((rows, self.cut.length, *self.frame_shape), np.uint8)
        for row in range(rows):
            self._fill(pixels[row], number, self.rank * rows + row)
        is_first = torch.zeros(rows, self.cut.length, dtype=torch.bool)
        is_first[:, 0] = True
        batch = TensorDict(
            {"pixels": torch.from_numpy(pixels), "is_first": is_first},
            batch_size=[rows, self.cut.length],
        )
        if self.device.type == "cpu":
            return batch
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        return batch.to(self.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream, and what the stream depends on."""
        return {"batches": self.batches, "stream": self._stream()}

    def state_form(self) -> Any:
        """A position, and what the stream depends on, which `load_state_dict` compares."""
        return {"batches": Whole(), "stream": Holding({})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; the number of processes may have changed.

        Raises:
            ClipsMismatch: data or settings are not those of the saved stream.
        """
        saved, own = state["stream"], self._stream()
        different = [key for key in own if saved.get(key) != own[key]]
        if different:
            raise ClipsMismatch(f"{key}: was {saved.get(key)}, is {own[key]}" for key in different)
        self._ahead.clear()
        self.batches = state["batches"]

    def close(self) -> None:
        """Stop the threads; batches made ahead are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def _submit(self) -> None:
        while len(self._ahead) < self._prefetch:
            number = self.batches + len(self._ahead)
            self._ahead.append(self._pool.submit(self.batch_at, number))

    def _fill(self, out: NDArray[np.uint8], number: int, row: int) -> None:
        """Write a row of a batch; another video is drawn where one cannot be used."""
        generator = self._drawer.row(number, row)
        longest = 0
        for _ in range(_ATTEMPTS):
            chosen, video, place = self._drawer.draw(generator)
            dataset = self.datasets[chosen]
            try:
                out[:] = dataset.clip(video, place, self.cut)
            except TooShort as error:
                longest = max(longest, error.frames)
                self.rejected[dataset.keys[video]] = str(error)
            except UnreadableVideo as error:
                self.rejected[error.key] = error.reason
            else:
                return
        names = ", ".join(dataset.name for dataset in self.datasets)
        raise NoClips(names, self.cut.need, self.videos, longest)

    def _stream(self) -> dict[str, Any]:
        strata = [
            [self.datasets[s.dataset].fingerprint, s.group, s.weight, _digest(s.videos)]
            for s in self.strata
        ]
        cut = [self.cut.length, self.cut.stride, self.cut.need, self.cut.prioritize_ends]
        return {"seed": self.seed, "batch": self.batch, "cut": cut, "videos": strata}


def _digest(numbers: NDArray[np.int64]) -> str:
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]


def _datasets(data: str | tuple[str, ...], live: tuple[Factory[VideoSource], ...]) -> list[Dataset]:
    folders = (data,) if isinstance(data, str | Path) else tuple(data)
    found: list[Dataset] = [PreparedVideos(folder) for folder in folders]
    found += [LiveVideos(make()) for make in live]
    if not found:
        raise BadSource(
            "there is nothing to draw clips from",
            hint="set Clips.data to a folder made by `wmplatform prepare`, or Clips.live",
        )
    shapes = {dataset.name: dataset.frame_shape for dataset in found}
    if len(set(shapes.values())) > 1:
        raise BadSource(
            "the datasets have frames of different shapes",
            where=[f"{name}: {list(shape)}" for name, shape in shapes.items()],
            hint="prepare them with the same size",
        )
    return found
