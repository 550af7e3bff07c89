"""Replay against a plain list of records, under random pieces, evictions, saves and restores."""

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tensordict import TensorDict

from wmplatform.replay import NotEnoughData, Replay

from .replay_data import SPEC, equal, records

STREAMS = 2


class Model:
    """Every record of every stream, in plain lists."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.first: list[list[bool]] = [[] for _ in range(STREAMS)]
        self.last: list[list[bool]] = [[] for _ in range(STREAMS)]

    def running(self, stream: int) -> bool:
        return bool(self.last[stream]) and not self.last[stream][-1]

    def episodes(self, *, only_finished: bool) -> list[list[tuple[int, int]]]:
        """Whole episodes as lists of (stream, number)."""
        found = []
        for stream in range(STREAMS):
            tail = max(0, len(self.first[stream]) - self.rows)
            current: list[tuple[int, int]] = []
            for number, (first, last) in enumerate(
                zip(self.first[stream], self.last[stream], strict=True)
            ):
                if first:
                    current = []
                current.append((stream, number))
                if last and current[0][1] >= tail:
                    found.append(current)
            if self.running(stream) and current[0][1] >= tail and not only_finished:
                found.append(current)
        return found


class ReplayMachine(RuleBasedStateMachine):
    """Two streams of small episodes in small rings."""

    @initialize(rows=st.integers(4, 17), only_finished=st.booleans(), ends=st.booleans())
    def make(self, rows: int, only_finished: bool, ends: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.settings = {
            "capacity": rows * STREAMS + 1,
            "only_finished": only_finished,
            "prioritize_ends": ends,
        }
        self.only_finished = only_finished
        self.replay = Replay(SPEC, STREAMS, **self.settings)
        self.model = Model(rows)
        self.saved: list[tuple[Any, Model, dict[str, Any]]] = []

    def piece(self, stream: int, lengths: list[int], ends: bool, cut: bool) -> TensorDict:
        """Go on with a stream: records of several episodes, of which the last may go on."""
        first: list[bool] = []
        last: list[bool] = []
        goes_on = self.model.running(stream) and not cut
        for i, length in enumerate(lengths):
            first += [not (goes_on and i == 0)] + [False] * (length - 1)
            last += [False] * (length - 1) + [i + 1 < len(lengths) or ends]
        number = len(self.model.first[stream])
        if first[0] and self.model.running(stream):
            self.model.last[stream][-1] = True
        self.model.first[stream] += first
        self.model.last[stream] += last
        return records(first, last, stream=stream, number=number)

    @rule(
        stream=st.integers(0, STREAMS - 1),
        lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
        ends=st.booleans(),
        cut=st.booleans(),
    )
    def extend(self, stream: int, lengths: list[int], ends: bool, cut: bool) -> None:
        self.replay.extend(self.piece(stream, lengths, ends, cut))

    @rule(lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)), ends=st.booleans())
    def extend_both_in_turn(self, lengths: tuple[int, int], ends: bool) -> None:
        parts = [self.piece(s, [lengths[s]], ends, cut=False) for s in range(STREAMS)]
        order = sorted(
            (i / len(part), s, i) for s, part in enumerate(parts) for i in range(len(part))
        )
        self.replay.extend(torch.stack([parts[s][i] for _, s, i in order]))

    @rule(stream=st.integers(0, STREAMS - 1))
    def close(self, stream: int) -> None:
        assert self.replay.close_stream(stream) == self.model.running(stream)
        if self.model.last[stream]:
            self.model.last[stream][-1] = True

    @rule(length=st.integers(1, 6))
    def segments(self, length: int) -> None:
        episodes = self.model.episodes(only_finished=self.only_finished)
        windows = {
            tuple(episode[i : i + length])
            for episode in episodes
            for i in range(len(episode) - length + 1)
        }
        assert self.replay.can_sample(length) == bool(windows)
        try:
            batch = self.replay.segments(7, length)
        except NotEnoughData:
            assert not windows
            return
        for row in range(7):
            assert self.names(batch[row]) in windows

    @rule(n=st.integers(1, 4), stack=st.integers(1, 3))
    def transitions(self, n: int, stack: int) -> None:
        episodes = self.model.episodes(only_finished=self.only_finished)
        starts = {
            episode[i]: (episode[max(0, i - stack + 1) : i + 1], episode[i + 1 : i + n + 1])
            for episode in episodes
            for i in range(len(episode) - n)
        }
        if not starts:
            return
        batch = self.replay.transitions(7, n, 0.5, stack)
        for row in range(7):
            number = int(batch["action"][row, 0]) - 1
            reward = batch["reward"][row].item()
            found = [
                (s, k) for s, k in starts if k == number and self.sum(starts[s, k][1]) == reward
            ]
            assert len(found) == 1
            frames, _ = starts[found[0]]
            shown = [number % 256 for _, number in frames]
            shown = [shown[0]] * (stack - len(shown)) + shown
            assert batch["pixels"][row, :, 0, 0].tolist() == shown

    @rule()
    def save(self) -> None:
        if len(self.saved) < 4:
            manifest = self.replay.save(self.folder)
            self.saved.append((manifest, copy.deepcopy(self.model), self.state()))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Go back to any save, in a new object; later saves are no longer reachable."""
        kept = data.draw(st.integers(0, len(self.saved) - 1))
        manifest, model, state = self.saved[kept]
        self.saved = self.saved[: kept + 1]
        self.replay.prune(self.folder, [each[0] for each in self.saved])
        self.replay = Replay(SPEC, STREAMS, seed=99, **self.settings)
        self.replay.restore(self.folder, manifest)
        self.model = copy.deepcopy(model)
        again = self.state()
        for key, value in state.items():
            assert torch.equal(value, again[key]), key
        twin = Replay(SPEC, STREAMS, seed=98, **self.settings)
        twin.restore(self.folder, manifest)
        if self.replay.can_sample(2):
            assert equal(self.replay.segments(5, 2), twin.segments(5, 2))
            assert equal(self.replay.transitions(5, 1, 0.9), twin.transitions(5, 1, 0.9))

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        held = sum(min(len(first), self.model.rows) for first in self.model.first)
        assert len(self.replay) == held
        assert self.replay.episodes == len(self.model.episodes(only_finished=self.only_finished))

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def names(self, segment: TensorDict) -> tuple[tuple[int, int], ...]:
        streams = segment["success"].long().tolist()
        numbers = (segment["reward"] - 1000 * segment["success"]).long().tolist()
        return tuple(zip(streams, numbers, strict=True))

    def sum(self, steps: list[tuple[int, int]]) -> float:
        return sum(0.5**i * (number + 1000 * s) for i, (s, number) in enumerate(steps))

    def state(self) -> dict[str, torch.Tensor]:
        """Every record that is held, in order, and the generator."""
        replay, found = self.replay, {}
        for stream in range(STREAMS):
            head, tail = replay.writer.heads[stream], replay.writer.tails[stream]
            rows = torch.from_numpy(replay.writer.rows_of(stream, torch.arange(tail, head).numpy()))
            for key in replay.columns:
                found[f"{stream} {key}"] = replay.storage.column(key)[rows].clone()
        return {**found, "generator": replay.sampler.generator.get_state()}


TestReplay = ReplayMachine.TestCase
TestReplay.settings = settings(max_examples=40, stateful_step_count=30)
