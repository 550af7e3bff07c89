"""Which records a batch is made of.

Both views draw an episode uniformly (not by length) among those that are long enough, then a start
within it, as DreamerV2 and DrQ-v2 do; transitions may be drawn by length instead. Only row numbers
are computed here.

Shape letters: B batch, L segment length, n steps of return, K stacked frames, E episodes.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wmplatform.replay.errors import NotEnoughData
from wmplatform.replay.streams import EpisodeTable, StreamWriter
from wmplatform.torchrl_parts import Sampler

__all__ = ["EpisodeSampler", "TransitionRows", "segment_draws", "segment_start"]

Ints = NDArray[np.int64]


def segment_draws(records: Any, length: int, *, prioritize_ends: bool) -> Any:
    """Count the equally likely draws for a segment's start in an episode.

    Args:
        records: of the episode; a number or an array, at least `length`.
        length: records of the segment.
        prioritize_ends: with it, `length` more draws fall on the last start, as in DreamerV2.
    """
    return records - length + 1 + (length if prioritize_ends else 0)


def segment_start(draw: Any, records: Any, length: int) -> Any:
    """Turn a draw in `0 .. segment_draws - 1` into the start of a segment.

    501 records and length 50 with prioritised ends: 502 draws, of which 51 give the last start.
    """
    return np.minimum(draw, records - length)


class TransitionRows:
    """Rows in storage of n-step transitions.

    Attributes:
        observation: `[B, K]`, oldest first; before the episode's start its first frame repeats.
        following: `[B, K]`, the same `taken` steps later.
        steps: `[B, n]`, the records that carry the rewards; the first also carries the action,
            the last whether the environment terminated. Past an episode's end the last repeats.
        taken: `[B]`, steps between the two observations: n, or fewer at the end of an episode.
    """

    def __init__(
        self, observation: Tensor, following: Tensor, steps: Tensor, taken: Tensor
    ) -> None:
        self.observation, self.following = observation, following
        self.steps, self.taken = steps, taken


class EpisodeSampler(Sampler):  # type: ignore[misc]
    """Draws rows of whole episodes; no draw crosses an episode's border or a write position.

    Args:
        writer: knows the episodes.
        prioritize_ends: see `segment_draws`.
        only_finished: running episodes are not sampled.
        generator: all randomness.
    """

    def __init__(
        self,
        writer: StreamWriter,
        *,
        prioritize_ends: bool,
        only_finished: bool,
        generator: torch.Generator,
    ) -> None:
        self.writer = writer
        self.prioritize_ends, self.only_finished = prioritize_ends, only_finished
        self.generator = generator
        self.length = 1
        """Records of each segment that TorchRL's `sample` draws."""
        self._table: EpisodeTable | None = None
        self._key = (-1, -1)
        self._candidates: Ints = np.empty((3, 0), np.int64)

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Draw rows `[batch_size]` of segments of `length` records, one after the other."""
        del storage
        return self.segments(batch_size // self.length, self.length).reshape(-1), {}

    def segments(self, batch: int, length: int) -> Tensor:
        """Draw rows `[B, L]` of consecutive records."""
        stream, first, records = self._draw_episodes(batch, length)
        draws = segment_draws(records, length, prioritize_ends=self.prioritize_ends)
        start = segment_start(self._draw_below(draws), records, length)
        positions = (first + start)[:, None] + np.arange(length)
        return torch.from_numpy(self.writer.rows_of(stream[:, None], positions))

    def transitions(
        self, batch: int, n: int, stack: int, *, short_ends: bool = False, by_length: bool = False
    ) -> TransitionRows:
        """Draw rows of transitions.

        Args:
            batch: rows.
            n: steps of each.
            stack: frames of an observation.
            short_ends: the last n - 1 steps of an episode start transitions too, of fewer steps.
            by_length: every start is equally likely, instead of every episode.
        """
        last = 1 if short_ends else n
        draw = self._draw_episodes_by_length if by_length else self._draw_episodes
        stream, first, records = draw(batch, last + 1)
        offset = self._draw_below(records - last)
        start, taken = first + offset, np.minimum(n, records - 1 - offset)

        def rows(offsets: Ints) -> Tensor:
            positions = np.maximum(start[:, None] + offsets, first[:, None])
            return torch.from_numpy(self.writer.rows_of(stream[:, None], positions))

        frames = np.arange(1 - stack, 1)
        steps = np.minimum(np.arange(1, n + 1), taken[:, None])
        following = rows(frames + taken[:, None])
        return TransitionRows(rows(frames), following, rows(steps), torch.from_numpy(taken))

    def count(self, need: int) -> int:
        """Count the episodes with at least this many records."""
        return self._long_enough(need).shape[1]

    def _draw_episodes(self, batch: int, need: int) -> Ints:
        """Draw stream, first position and records of episodes, `[3, B]`."""
        candidates = self._candidates_of(need)
        pick = torch.randint(candidates.shape[1], (batch,), generator=self.generator)
        return candidates[:, pick.numpy()]

    def _draw_episodes_by_length(self, batch: int, need: int) -> Ints:
        """As `_draw_episodes`, an episode as often as it has stretches of `need` records."""
        candidates = self._candidates_of(need)
        ends = np.cumsum(candidates[2] - need + 1)
        pick = torch.randint(int(ends[-1]), (batch,), generator=self.generator)
        return candidates[:, np.searchsorted(ends, pick.numpy(), side="right")]

    def _candidates_of(self, need: int) -> Ints:
        """Episodes with at least this many records, `[3, E]`.

        Raises:
            NotEnoughData: there is none.
        """
        candidates = self._long_enough(need)
        if candidates.shape[1] == 0:
            every = self._long_enough(1)
            longest = int(every[2].max(initial=0))
            raise NotEnoughData(need, every.shape[1], self.writer.held, longest, self.only_finished)
        return candidates

    def _draw_below(self, limits: Ints) -> Ints:
        """Draw an integer in 0 .. limit - 1 for each limit `[B]`."""
        uniform = torch.rand(len(limits), dtype=torch.float64, generator=self.generator)
        return np.minimum((uniform.numpy() * limits).astype(np.int64), limits - 1)

    def _long_enough(self, need: int) -> Ints:
        table = self.writer.table
        if not self.only_finished:
            return _at_least(table.whole(self.writer.heads, running=True), need)
        if self._table is not table or self._key != (table.version, need):
            self._candidates = _at_least(table.whole(self.writer.heads, running=False), need)
            self._table, self._key = table, (table.version, need)
        return self._candidates

    # What TorchRL's base class asks for beside.

    def _empty(self) -> None:
        """Forget nothing: the writer knows what there is."""

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the generator's state."""
        self.generator.set_state(state_dict["generator"])

    def dumps(self, path: Any) -> None:
        """Refuse: `Replay.save` keeps the generator's state."""
        raise NotImplementedError("use Replay.save")

    def loads(self, path: Any) -> None:
        """Refuse: `Replay.restore` sets the generator's state."""
        raise NotImplementedError("use Replay.restore")


def _at_least(episodes: Ints, need: int) -> Ints:
    return episodes[:, episodes[2] >= need]
