"""What replay samples, and with which probability."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from wmplatform.errors import PlatformError
from wmplatform.replay import (
    BrokenRecords,
    CapacityTooLarge,
    CapacityTooSmall,
    NotEnoughData,
    Replay,
    Segments,
    Transitions,
)
from wmplatform.replay.sampler import segment_draws, segment_start
from wmplatform.replay.storage import _container_free_bytes

from .replay_data import SPEC, ActionSpec, ArraySpec, EnvSpec, episode, equal, filled, records


def test_segments_are_consecutive_records_of_one_episode() -> None:
    replay = filled([9, 3, 20])
    batch = replay.segments(64, 5)
    assert batch.shape == (64, 5)
    assert batch["pixels"].shape == (64, 5, 1, 2, 2)
    assert batch["pixels"].dtype == torch.uint8
    numbers = batch["reward"]
    assert (numbers.diff(dim=1) == 1).all()
    starts = set(numbers[:, 0].long().tolist())
    assert starts <= {*range(6), *range(14, 31)}
    assert torch.equal(batch["action"][..., 1], numbers + 0.5)


def test_is_first_is_true_at_index_0_only() -> None:
    batch = filled([9, 3, 20]).segments(64, 4)
    assert batch["is_first"][:, 0].all()
    assert not batch["is_first"][:, 1:].any()


def test_unmarked_segments_have_is_first_where_an_episode_begins_alone() -> None:
    replay = filled([9, 3, 20])
    batch = Segments(batch=200, length=4, mark_start=False).sample(replay)
    begins = torch.isin(batch["reward"], torch.tensor([0.0, 10.0, 14.0]))
    assert torch.equal(batch["is_first"], begins)
    assert 0 < begins.sum() < 200


def test_the_store_keeps_is_first_as_it_was() -> None:
    replay = filled([9])
    replay.segments(64, 4)
    assert replay.storage.column("is_first")[:10].tolist() == [True] + [False] * 9


def test_episodes_shorter_than_a_segment_are_never_sampled() -> None:
    replay = filled([3, 4, 2])
    assert set(replay.segments(40, 5)["reward"][:, 0].tolist()) == {4.0}


def test_episodes_are_drawn_uniformly_whatever_their_length() -> None:
    replay = filled([4, 99])
    share = (replay.segments(4000, 5)["reward"][:, 0] == 0).float().mean().item()
    assert abs(share - 0.5) < 4 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize("prioritize_ends", [True, False])
def test_probability_of_the_last_start_by_enumeration(prioritize_ends: bool) -> None:
    draws = segment_draws(501, 50, prioritize_ends=prioritize_ends)
    counts = Counter(segment_start(np.arange(draws), 501, 50).tolist())
    assert set(counts) == set(range(452))
    assert draws == (502 if prioritize_ends else 452)
    assert counts.pop(451) == (51 if prioritize_ends else 1)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("prioritize_ends", [True, False])
def test_frequency_of_the_last_start(prioritize_ends: bool) -> None:
    replay = filled([500], prioritize_ends=prioritize_ends)
    count = 60_000
    rows = replay.sampler.segments(count, 50)[:, 0]
    p = 51 / 502 if prioritize_ends else 1 / 452
    assert abs((rows == 451).float().mean().item() - p) < 4 * (p * (1 - p) / count) ** 0.5
    other = (1 - p) / 451
    seen = torch.bincount(rows, minlength=452)[:451] / count
    assert (seen - other).abs().max() < 6 * (other / count) ** 0.5


def test_running_episodes_are_sampled_only_if_asked() -> None:
    replay = Replay(SPEC, capacity=100)
    eager = Replay(SPEC, capacity=100, only_finished=False)
    for each in (replay, eager):
        each.extend(episode(6, running=True))
    with pytest.raises(NotEnoughData):
        replay.segments(1, 3)
    assert set(eager.segments(50, 3)["reward"][:, 0].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    more = records([False], [True], number=7)
    for each in (replay, eager):
        each.extend(more)
        assert set(each.segments(90, 3)["reward"][:, 0].tolist()) == set(map(float, range(6)))


def test_without_a_long_enough_episode_the_error_counts_what_there_is() -> None:
    replay = filled([3, 5])
    replay.extend(episode(20, running=True))
    with pytest.raises(NotEnoughData) as caught:
        replay.segments(1, 10)
    error = caught.value
    assert (error.need, error.episodes, error.records, error.longest) == (10, 2, 31, 6)
    assert "10 records" in str(error)
    assert "31 records in 2 finished episodes, of which the longest has 6" in str(error)
    assert isinstance(error, PlatformError)
    assert not replay.can_sample(10)
    assert replay.can_sample(6)


def test_an_episode_is_forgotten_once_its_first_record_is_overwritten() -> None:
    replay = filled([4, 4, 4], capacity=15)
    assert replay.episodes == 3
    replay.extend(records([True], [False], number=15))
    assert replay.episodes == 2
    assert replay.segments(200, 2)["reward"].min() == 5
    assert len(replay) == 15
    assert replay.records_written == 16


def test_an_episode_longer_than_the_ring_is_never_sampled() -> None:
    replay = Replay(SPEC, capacity=8, only_finished=False)
    replay.extend(episode(20))
    with pytest.raises(NotEnoughData):
        replay.segments(1, 1)
    replay.extend(episode(4, number=21))
    assert replay.segments(50, 2)["reward"].min() == 21


def test_streams_do_not_mix() -> None:
    replay = Replay(SPEC, 2, capacity=40)
    a, b = episode(9), episode(9, stream=1)
    for i in range(10):  # records of both arrive in turn
        replay.extend(torch.cat([b[i : i + 1], a[i : i + 1]]))
    batch = replay.segments(200, 4)
    assert (batch["reward"].diff(dim=1) == 1).all()
    assert set(batch["success"].unique().tolist()) == {0.0, 1.0}
    assert ((batch["reward"] >= 1000) == (batch["success"] == 1)).all()


def test_a_lost_environment_ends_its_episode_as_truncated() -> None:
    replay = Replay(SPEC, capacity=50)
    replay.extend(episode(3, running=True, terminal=True))
    assert replay.close_stream(0)
    assert not replay.close_stream(0)
    batch = replay.segments(1, 4)
    assert batch["is_last"].tolist() == [[False, False, False, True]]
    assert not batch["is_terminal"].any()


def test_is_first_ends_the_running_episode_as_truncated() -> None:
    replay = Replay(SPEC, capacity=50)
    replay.extend(episode(3, running=True))
    replay.extend(torch.cat([episode(2, running=True, number=4), episode(1, number=7)]))
    assert replay.episodes == 3
    assert replay.storage.column("is_last")[:9].nonzero().flatten().tolist() == [3, 6, 8]


def test_records_that_continue_no_episode_are_refused_before_anything_is_written() -> None:
    replay = filled([2])
    for wrong in (
        records([False], [False]),
        torch.cat([episode(1), records([False], [False])]),
    ):
        with pytest.raises(BrokenRecords, match="none is running"):
            replay.extend(wrong)
    assert len(replay) == 3


def test_records_of_another_layout_are_refused() -> None:
    replay = filled([2])
    with pytest.raises(BrokenRecords, match="lack the columns reward"):
        replay.extend(episode(2).exclude("reward"))
    with pytest.raises(BrokenRecords, match="pixels is float32"):
        replay.extend(episode(2).apply(lambda x: x.float()))
    with pytest.raises(BrokenRecords, match="stream 1 of 1"):
        replay.extend(episode(2, stream=1))


def test_more_records_at_once_than_a_ring_holds() -> None:
    replay = Replay(SPEC, capacity=7)
    everything = torch.cat([episode(2, number=3 * i) for i in range(10)])
    replay.extend(everything)
    assert len(replay) == 7
    assert set(replay.segments(60, 3)["reward"][:, 0].tolist()) == {24.0, 27.0}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("terminal", [True, False])
def test_transitions_by_hand(n: int, terminal: bool) -> None:
    replay = Replay(SPEC, capacity=50)
    replay.extend(episode(6, terminal=terminal))
    batch = replay.transitions(300, n, 0.9)
    start = batch["pixels"][:, 0, 0, 0].long()
    assert set(start.tolist()) == set(range(7 - n))  # records 0..6; the last n - 1 never start
    for i in range(20):
        s = int(start[i])
        rewards = [float(s + 1 + j) for j in range(n)]
        assert batch["reward"][i].item() == pytest.approx(
            sum(0.9**j * r for j, r in enumerate(rewards))
        )
        assert batch["action"][i, 0].item() == s + 1
        assert batch["next", "pixels"][i, 0, 0, 0].item() == s + n
        ended = terminal and s + n == 6
        assert batch["discount"][i].item() == pytest.approx(0.0 if ended else 0.9**n)


def test_n_step_return_of_known_numbers() -> None:
    replay = Replay(SPEC, capacity=50)
    data = episode(4)
    data["reward"] = torch.tensor([0.0, 1, 2, 3, 4])
    replay.extend(data)
    batch = replay.transitions(50, 3, 0.99)
    second = batch[batch["pixels"][:, 0, 0, 0] == 1]
    assert second["reward"][0].item() == pytest.approx(8.8904)
    assert second["discount"][0].item() == pytest.approx(0.970299)
    assert batch["reward"].min().item() == pytest.approx(5.9203)


def test_every_start_of_a_transition_is_equally_likely() -> None:
    replay = filled([500])
    rows = replay.sampler.transitions(50_000, 3, 1).observation[:, 0]
    counts = torch.bincount(rows, minlength=498)
    assert len(counts) == 498
    assert (counts / 50_000 - 1 / 498).abs().max() < 6 * (1 / 498 / 50_000) ** 0.5


@pytest.mark.parametrize("terminal", [True, False])
def test_transitions_at_an_episodes_end_have_the_steps_that_remain(terminal: bool) -> None:
    replay = Replay(SPEC, capacity=50)
    replay.extend(episode(6, terminal=terminal))
    batch = replay.transitions(300, 3, 0.9, short_ends=True)
    start = batch["pixels"][:, 0, 0, 0].long()
    assert set(start.tolist()) == set(range(6))
    for s, row in zip(start.tolist(), batch, strict=True):
        taken = min(3, 6 - s)
        expected = sum(0.9**j * (s + 1 + j) for j in range(taken))
        assert row["reward"].item() == pytest.approx(expected)
        assert row["next", "pixels"][0, 0, 0].item() == s + taken
        ended = terminal and s + taken == 6
        assert row["discount"].item() == pytest.approx(0.0 if ended else 0.9**taken)


@pytest.mark.parametrize("short_ends", [True, False])
def test_starts_drawn_by_length_are_equally_likely_over_episodes(short_ends: bool) -> None:
    replay, draws = filled([3, 30, 10]), 60_000  # records 0..3, 4..34, 35..45
    kept = 0 if short_ends else 1
    starts = [*range(3 - kept), *range(4, 34 - kept), *range(35, 45 - kept)]
    rows = replay.sampler.transitions(draws, 2, 1, short_ends=short_ends, by_length=True)
    counts = torch.bincount(rows.observation[:, 0], minlength=46)
    assert counts.nonzero().flatten().tolist() == starts
    share = 1 / len(starts)
    assert (counts[starts] / draws - share).abs().max() < 6 * (share / draws) ** 0.5


def test_stacked_frames_are_oldest_first_and_repeat_an_episodes_first_frame() -> None:
    replay = filled([2, 6])
    batch = replay.transitions(200, 1, 1.0, 3)
    assert batch["pixels"].shape == (200, 3, 2, 2)
    assert batch["next", "pixels"].shape == (200, 3, 2, 2)
    newest = batch["pixels"][:, 2, 0, 0].long()
    first = torch.where(newest >= 3, 3, 0)
    for age in range(3):
        expected = torch.maximum(newest - age, first)
        assert torch.equal(batch["pixels"][:, 2 - age, 0, 0].long(), expected)
        expected = torch.maximum(newest + 1 - age, first)
        assert torch.equal(batch["next", "pixels"][:, 2 - age, 0, 0].long(), expected)


def test_only_images_are_stacked() -> None:
    spec = EnvSpec({**SPEC.observations, "speed": ArraySpec((2,))}, ActionSpec(2))
    replay = Replay(spec, capacity=50)
    records = episode(6).exclude("success")
    numbers = torch.arange(7.0)[:, None] + torch.tensor([0.0, 0.5])
    replay.extend(records.set("speed", numbers))
    batch = replay.transitions(50, 2, 0.9, 3)
    newest = batch["pixels"][:, -1, 0, 0].long()
    assert torch.equal(batch["speed"], numbers[newest])
    assert torch.equal(batch["next", "speed"], numbers[newest + 2])


def test_requests_ask_for_themselves() -> None:
    replay, twin = filled([20, 30]), filled([20, 30])
    assert equal(Segments(batch=4, length=7).sample(replay), twin.segments(4, 7))
    request = Transitions(batch=5, n=2, gamma=0.5, stack=2, short_ends=False, by_length=False)
    assert equal(request.sample(replay), twin.transitions(5, 2, 0.5, 2))
    whole = Transitions(batch=5, n=2, gamma=0.5, stack=2)
    drawn = twin.transitions(5, 2, 0.5, 2, short_ends=True, by_length=True)
    assert equal(whole.sample(replay), drawn)
    assert Segments(batch=4, length=7).records == 7
    assert (request.records, whole.records) == (3, 2)


def test_sampling_follows_its_seed_and_nothing_else() -> None:
    a, b, c = filled([30], seed=1), filled([30], seed=1), filled([30], seed=2)
    torch.rand(3)
    first = a.segments(8, 4)
    torch.manual_seed(123)
    assert equal(first, b.segments(8, 4))
    assert not equal(first, c.segments(8, 4))


def test_a_ring_that_cannot_hold_an_episode_is_refused() -> None:
    spec = EnvSpec(SPEC.observations, SPEC.action, time_limit=500)
    with pytest.raises(CapacityTooSmall, match="can have 501") as caught:
        Replay(spec, 2, capacity=1000)
    assert "1002" in str(caught.value)


def test_a_capacity_beyond_the_memory_is_refused() -> None:
    with pytest.raises(CapacityTooLarge, match="GB of memory") as caught:
        Replay(SPEC, capacity=10**15)
    assert 0 < caught.value.fits < 10**15
    assert str(caught.value.fits) in str(caught.value)


def test_a_capacity_beyond_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapacityTooLarge, match="GB of disk"):
        Replay(SPEC, capacity=10**15, storage="memmap", directory=tmp_path)


def test_a_containers_memory_limit_counts(tmp_path: Path) -> None:
    assert _container_free_bytes(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 100\n")
    assert _container_free_bytes(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_free_bytes(tmp_path) > 2**60


def test_memory_mapped_replay_samples_the_same(tmp_path: Path) -> None:
    plain = filled([9, 30], capacity=32)
    mapped = filled([9, 30], capacity=32, storage="memmap", directory=tmp_path)
    assert equal(plain.segments(8, 5), mapped.segments(8, 5))
    assert equal(plain.transitions(8, 2, 0.9, 3), mapped.transitions(8, 2, 0.9, 3))
    assert (tmp_path / "pixels.rows").stat().st_size == 32 * 4


def test_memory_mapping_needs_a_directory() -> None:
    with pytest.raises(ValueError, match="directory"):
        Replay(SPEC, capacity=10, storage="memmap")


@pytest.mark.gpu
def test_replay_on_a_device_samples_the_same(tmp_path: Path) -> None:
    plain, device = filled([9, 30]), filled([9, 30], device="cuda")
    batch = device.segments(8, 5)
    assert batch.device.type == "cuda"
    assert equal(plain.segments(8, 5), batch.cpu())
    assert equal(plain.transitions(8, 2, 0.9, 3), device.transitions(8, 2, 0.9, 3).cpu())
    device.extend(episode(3, number=41, running=True))
    device.close_stream(0)
    again = Replay(SPEC, capacity=1000, device="cuda")
    again.restore(tmp_path, device.save(tmp_path))
    assert equal(device.segments(8, 4), again.segments(8, 4))
    with pytest.raises(CapacityTooLarge, match="GB of cuda"):
        Replay(SPEC, capacity=10**12, device="cuda")
