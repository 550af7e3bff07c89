"""The laws of `Request`, runnable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.contracts.laws import Report, fail, law, require, skip
from wmplatform.contracts.probes import (
    close,
    draw_actions,
    draw_specs,
    equal,
    generator,
    leaves,
    seeded,
)
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.interfaces.request import Request
from wmplatform.replay import Replay

__all__ = [
    "check_request",
    "law_1_equal_replays_give_equal_batches",
    "law_2_one_episode_suffices",
    "law_3_images_are_stacked_bytes",
    "law_4_segments_follow_their_episode",
    "law_5_transitions_add_up",
    "law_6_every_record_is_drawn",
]

SPEC = EnvSpec({"pixels": ArraySpec((3, 4, 4), "uint8"), "state": ArraySpec((2,))}, ActionSpec(2))
ROWS = 64
"""At least as many are drawn, so that ends of episodes are among them."""


def check_request(make: Callable[[], Request], *, seed: int = 0, collect: bool = False) -> Report:
    """Run every law of `Request`.

    Args:
        make: builds the request.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Request", collect=collect)
    request = make()
    report.run(law_1_equal_replays_give_equal_batches, request, seed=seed)
    report.run(law_2_one_episode_suffices, request, seed=seed)
    report.run(law_3_images_are_stacked_bytes, request, seed=seed)
    report.run(law_4_segments_follow_their_episode, request, seed=seed)
    report.run(law_5_transitions_add_up, request, seed=seed)
    report.run(law_6_every_record_is_drawn, request, seed=seed)
    return report


@law("Request", 1)
def law_1_equal_replays_give_equal_batches(request: Request, *, seed: int) -> None:
    """Batches follow replay's generator and nothing else, and share no memory with replay."""
    lengths = _lengths(request)
    one, other = _store(lengths, seed), _store(lengths, seed)
    for each in range(2):
        with seeded(seed + each):
            first = request.sample(one.replay)
        with seeded(seed + each + 7):
            second = request.sample(other.replay)
        require(equal(first.to_dict(), second.to_dict()), "equal replays give other batches")
        for leaf in leaves(first.to_dict()):
            leaf.zero_()
    for key in one.replay.columns:
        kept = one.replay.storage.column(key)[: len(one.records)]
        require(
            equal(kept, one.records[key]),
            f"drawing, or writing into what was drawn, changed replay's column {key}",
        )


@law("Request", 2)
def law_2_one_episode_suffices(request: Request, *, seed: int) -> None:
    """One episode of `records` records is enough for a batch."""
    request.sample(_store((request.records,), seed).replay)


@law("Request", 3)
def law_3_images_are_stacked_bytes(request: Request, *, seed: int) -> None:
    """Images are uint8, `stack` frames on the channel axis: the last ones of the episode.

    Oldest first; before the episode's start its first frame repeats, as when acting.
    """
    stored = _store(_lengths(request), seed)
    batch = _draw(request, stored)
    for part in _parts(batch, "pixels"):
        shown = stored.frames(part["pixels"], request.stack)
        newest = shown[..., -1:]
        expected = torch.maximum(newest + torch.arange(1 - request.stack, 1), stored.first[newest])
        other = (shown != expected).flatten(0, -2).any(-1)
        if bool(other.any()):
            row = int(other.nonzero()[0])
            seen, right = (x.flatten(0, -2)[row].tolist() for x in (shown, expected))
            fail(f"an image shows the records {seen} instead of {right}, oldest first")


@law("Request", 4)
def law_4_segments_follow_their_episode(request: Request, *, seed: int) -> None:
    """Each row is one record after the other, and `is_first` is true where it is not.

    That is at index 0 too, unless the request `resumes`. All other columns are those of the record.
    """
    stored = _store(_lengths(request), seed)
    for part in _segments(_draw(request, stored)):
        shown = stored.newest(part, request.stack)
        marked, starts = part["is_first"], shown == stored.first[shown]
        follows = (shown[:, 1:] == shown[:, :-1] + 1) & ~starts[:, 1:]
        begins = starts[:, :1] if request.resumes else torch.ones_like(starts[:, :1])
        expected = torch.cat([begins, ~follows], 1)
        unmarked, merely = expected & ~marked, marked & ~expected
        for wrong, what in (
            (unmarked[:, 0], "the first record of a segment is not marked `is_first`"),
            (unmarked, "a segment leaves its episode, or leaves a record out, without `is_first`"),
            (merely, "`is_first` is true where a segment merely goes on"),
        ):
            require(not bool(wrong.any()), what)
        stored.require_columns(part, shown, set(stored.records.keys()) - {"is_first", "pixels"})


@law("Request", 5)
def law_5_transitions_add_up(request: Request, *, seed: int) -> None:
    """From t to t + k of one episode: action, rewards and discount of those k steps, then `next`.

    k is the same for all, and less only where the episode ends.
    """
    stored = _store(_lengths(request), seed)
    records = stored.records
    for part in _transitions(_draw(request, stored)):
        if request.gamma is None:
            fail("it gives a `discount`, but declares no `gamma`")
        now = stored.newest(part, request.stack)
        later = stored.newest(part["next"], request.stack)
        taken = later - now
        inside = (taken > 0) & (stored.first[later] == stored.first[now])
        require(bool(inside.all()), "`next` is not a later observation of the same episode")
        short = (taken < taken.max()) & (later != stored.last[now])
        require(not bool(short.any()), "`next` is fewer steps on than elsewhere, without an end")
        stored.require_columns(part, now, set(SPEC.observations) - {"pixels"})
        stored.require_columns(part["next"], later, set(SPEC.observations) - {"pixels"})
        require(
            equal(part["action"], records["action"][now + 1]),
            "`action` is not the one that was taken at the observation (it lies beside the record "
            "that it led into)",
        )
        # gamma^i and r_{t+1+i} for i < k, [B, n]
        ahead = torch.arange(int(taken.max()))
        earned = request.gamma**ahead * (ahead < taken[:, None])
        rewards = records["reward"][(now[:, None] + 1 + ahead).clamp_max(len(records) - 1)]
        expected = (earned * rewards).sum(1)
        _require_numbers(part["reward"], expected, "reward", "the sum of gamma^i r_{t+1+i}", taken)
        ended = records["is_terminal"][later]
        discount = request.gamma**taken * (~ended).float()
        for rows, what in ((ended, "the environment terminated"), (~ended, "gamma^k")):
            _require_numbers(part["discount"][rows], discount[rows], "discount", what, taken[rows])


@law("Request", 6)
def law_6_every_record_is_drawn(request: Request, *, seed: int) -> None:
    """Each record of an episode that is long enough gets into a batch, the last one too."""
    stored = _store((request.records + 3,), seed)
    batch, seen = _draw(request, stored), torch.zeros(len(stored.records), dtype=torch.bool)
    for part in _segments(batch, required=False):
        seen[stored.newest(part, request.stack)] = True
    for part in _transitions(batch, required=False):
        now = stored.newest(part, request.stack)
        later = stored.newest(part["next"], request.stack)
        for t in range(len(seen)):
            seen[t] |= bool(((now <= t) & (t <= later)).any())
    if not bool(seen.any()):
        skip("it gives neither segments nor transitions")
    missing = (~seen).nonzero().flatten().tolist()
    require(not missing, f"of {len(seen)} records of an episode number {missing} is never drawn")


@dataclass(frozen=True)
class _Stored:
    """A replay, and its records in order of time; each frame is another."""

    replay: Replay
    records: TensorDict
    """`[N]`."""
    first: Tensor
    """int64 `[N]`: number of the first record of each one's episode."""
    last: Tensor

    def frames(self, images: Tensor, stack: int) -> Tensor:
        """Which records images `[*lead, K * C, H, W]` show, int64 `[*lead, K]`."""
        require(images.dtype == torch.uint8, f"images are {images.dtype}")
        channels, height, width = SPEC.observations["pixels"].shape
        expected = (stack * channels, height, width)
        require(
            tuple(images.shape[-3:]) == expected,
            f"with stack {stack} images are {tuple(images.shape[-3:])} instead of {expected}",
        )
        frames = images.unflatten(-3, (stack, channels))
        known, order = _code(self.records["pixels"]).sort()
        found = order[torch.searchsorted(known, _code(frames)).clamp_max(len(known) - 1)]
        require(equal(self.records["pixels"][found], frames), "an image is none of replay's frames")
        return found

    def newest(self, part: TensorDict, stack: int) -> Tensor:
        """Which record each entry of a part is, `[B]` or `[B, T]`."""
        return self.frames(part["pixels"], stack)[..., -1]

    def require_columns(self, part: TensorDict, numbers: Tensor, keys: set[str]) -> None:
        """Break the law unless these columns are those of the records that are shown."""
        for key in sorted(keys & set(part.keys())):
            same = equal(part[key], self.records[key][numbers])
            require(same, f"{key} is not that of the record whose image lies beside it")


def _lengths(request: Request) -> tuple[int, ...]:
    """Of episodes: short ones, so that ends are drawn, and none of them the first in storage."""
    return request.records + 1, request.records, request.records + 3, 2 * request.records


def _store(lengths: Sequence[int], seed: int) -> _Stored:
    """Fill a replay with episodes of these many records; every second one is cut off."""
    ends = torch.tensor(lengths).cumsum(0)
    replay = Replay(SPEC, capacity=int(ends[-1]) + 1, seed=seed)
    episodes = [
        _episode(count, seed + 10 * number, terminal=number % 2 == 0)
        for number, count in enumerate(lengths)
    ]
    for episode in episodes:
        replay.extend(episode)
    first, last = (
        torch.cat([at.expand(n) for at, n in zip(places, lengths, strict=True)])
        for places in (ends - torch.tensor(lengths), ends - 1)
    )
    records: TensorDict = torch.cat(episodes)
    return _Stored(replay, records.exclude("stream"), first, last)


def _episode(count: int, seed: int, *, terminal: bool) -> TensorDict:
    first, last = torch.arange(count) == 0, torch.arange(count) == count - 1
    return TensorDict(
        {
            **draw_specs(SPEC.observations, (count,), seed),
            "action": draw_actions(SPEC.action, (count,), seed + 1) * ~first[:, None],
            "reward": torch.randn(count, generator=generator(seed + 2)) * ~first,
            "is_first": first,
            "is_last": last,
            "is_terminal": last & terminal,
            "stream": torch.zeros(count, dtype=torch.int64),
        },
        [count],
    )


def _draw(request: Request, stored: _Stored) -> TensorDict:
    """Draw at least `ROWS` rows."""
    batch = request.sample(stored.replay)
    while len(batch) < ROWS:
        batch = torch.cat([batch, request.sample(stored.replay)])
    return batch


def _parts(batch: TensorDict, key: str) -> Iterator[TensorDict]:
    """The batch and what is nested in it, where it holds this key."""
    if key in batch.keys():  # noqa: SIM118  a TensorDict needs it
        yield batch
    for value in batch.values():
        if isinstance(value, TensorDict):
            yield from _parts(value, key)


def _segments(batch: TensorDict, *, required: bool = True) -> list[TensorDict]:
    found = list(_parts(batch, "is_first"))
    if required and not found:
        skip("no part of a batch has `is_first`, so there are no segments")
    return found


def _transitions(batch: TensorDict, *, required: bool = True) -> list[TensorDict]:
    found = list(_parts(batch, "discount"))
    if required and not found:
        skip("no part of a batch has `discount`, so there are no transitions")
    return found


def _code(frames: Tensor) -> Tensor:
    """A number for each frame, int64 `[*lead]`: its first eight bytes."""
    return frames.flatten(-3)[..., :8].contiguous().view(torch.int64).squeeze(-1)


def _require_numbers(found: Tensor, expected: Tensor, name: str, what: str, taken: Tensor) -> None:
    if close(found, expected):
        return
    worst = int((found - expected).abs().argmax())
    fail(
        f"{name} is {float(found[worst]):.4f} instead of {float(expected[worst]):.4f} ({what}) for "
        f"a transition of k = {int(taken[worst])} steps"
    )
