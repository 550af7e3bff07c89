"""Clips: which ones are drawn, and that nothing but the seed and the counter decides it."""

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tensordict import TensorDict

from wmplatform.config import load
from wmplatform.interfaces import Video, VideoSource
from wmplatform.tree_json import from_plain, to_plain
from wmplatform.videos import BadSource, Clips, ClipsMismatch, NoClips, Prepare
from wmplatform.videos.datasets import Cut
from wmplatform.videos.sampling import Drawer, Stratum, held_out

from .counting_videos import CountingVideos, read_back

Make = Callable[..., Clips]
EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def prepared(folder: Path, source: VideoSource) -> str:
    job = Prepare(source=lambda: source, processes=0, max_bad_share=0.9)
    job.run(folder, console=Console(file=io.StringIO()))
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Videos of 3 to 300 frames."""
    return prepared(tmp_path_factory.mktemp("data"), CountingVideos([3, 10, 11, 40, 300]))


def seen(batch: TensorDict) -> tuple[np.ndarray, np.ndarray]:
    """Videos and frame numbers `[B, T]` of a batch."""
    return read_back(batch["pixels"].numpy())


def equal(a: TensorDict, b: TensorDict) -> bool:
    return bool((a == b).all())


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 40),
    stride=st.integers(1, 8),
    min_frames=st.integers(1, 60),
)
def test_clips_are_consecutive_frames_of_one_video(
    folder: str, seed: int, length: int, stride: int, min_frames: int
) -> None:
    made = Clips(
        seed, data=folder, batch=8, length=length, stride=stride, min_frames=min_frames, prefetch=0
    )
    batch = made.sample()
    videos, times = seen(batch)
    assert batch["pixels"].shape == (8, length, 3, 2, 4)
    assert batch["pixels"].dtype == torch.uint8
    assert batch.batch_size == (8, length)
    assert set(batch.keys()) == {"pixels", "is_first"}
    assert batch["is_first"][:, 0].all()
    assert not batch["is_first"][:, 1:].any()
    assert (videos == videos[:, :1]).all()
    assert (np.diff(times, axis=1) == stride).all()
    lengths = np.array([3, 10, 11, 40, 300])[videos[:, 0]]
    assert (times[:, -1] < lengths).all()
    assert (lengths >= min_frames).all()


def is_uniform(counts: Sequence[int]) -> bool:
    """Whether no count is 7 standard deviations away from the mean."""
    total, share = sum(counts), 1 / len(counts)
    spread = math.sqrt(total * share * (1 - share))
    return all(abs(count - total * share) <= 7 * spread for count in counts)


@given(
    seed=st.integers(0, 2**32),
    frames=st.lists(st.integers(4, 12), min_size=1, max_size=6),
    length=st.integers(1, 4),
)
def test_videos_are_uniform_and_then_starts(seed: int, frames: list[int], length: int) -> None:
    drawer = Drawer([Stratum(0, "", 1.0, np.arange(len(frames)))], seed)
    cut = Cut(length, 1, 1)
    drawn = [drawer.draw(drawer.row(batch, row)) for batch in range(30) for row in range(10)]
    assert is_uniform([sum(video == v for _, video, _ in drawn) for v in range(len(frames))])
    starts = Counter((video, cut.start(place, frames[video])) for _, video, place in drawn)
    for video, count in enumerate(frames):
        possible = [starts.pop((video, start), 0) for start in range(count - length + 1)]
        assert is_uniform(possible)
    assert not starts


def test_the_place_one_is_the_last_start() -> None:
    cut = Cut(5, 2, 1)
    assert [cut.start(place, 11) for place in (0.0, 0.34, 0.67, 1.0)] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("frames", "stride", "last", "draws"), [(40, 1, 26, 41), (30, 2, 10, 31), (25, 1, 1, 1)]
)
def test_ends_of_videos_are_drawn_more_often_where_that_is_asked_for(
    tmp_path: Path, frames: int, stride: int, last: int, draws: int
) -> None:
    """Every start once, and the last one as often again as a clip spans frames.

    So the chance of it is (span + 1) / (frames - span + 1 + span), of the others 1 by the same.
    """
    length = 25 if stride == 1 else 5
    data = prepared(tmp_path, CountingVideos([frames]))
    made = Clips(
        3, data=data, batch=2000, length=length, stride=stride, prefetch=0, prioritize_ends=True
    )
    _, times = seen(made.sample())
    counts = Counter(times[:, 0].tolist())
    share = last / draws
    end = counts.pop(frames - (length - 1) * stride - 1)
    assert abs(end - 2000 * share) <= 5 * math.sqrt(2000 * share * (1 - share))
    assert len(counts) == draws - last
    assert not counts or is_uniform(list(counts.values()))


@pytest.mark.parametrize("agent", ["apv", "contextwm"])
def test_the_published_clips_of_rlbench_favour_the_ends(agent: str) -> None:
    config = load([EXPERIMENTS / f"{agent}_pretrain_rlbench.gin"])
    assert config.parameter("Clips.prioritize_ends")
    config = load([EXPERIMENTS / f"{agent}_pretrain_ssv2.gin"])
    assert not config.parameter("Clips.prioritize_ends")


def test_weights_choose_the_dataset_first(tmp_path: Path) -> None:
    one = prepared(tmp_path / "one", CountingVideos([30]))
    many = prepared(tmp_path / "many", CountingVideos([0] + [30] * 9))
    made = Clips(0, data=(one, many), weights=(3.0, 1.0), batch=600, length=1, prefetch=0)
    videos, _ = seen(made.sample())
    first = int((videos == 0).sum())
    assert abs(first - 450) < 5 * math.sqrt(600 * 0.75 * 0.25)
    counts = [int((videos == number).sum()) for number in range(1, 10)]
    assert is_uniform(counts)


def test_a_mixture_keeps_its_weights_in_shards(tmp_path: Path) -> None:
    groups = ["rare"] * 8 + ["often"]
    source = CountingVideos([5] * 9, groups=groups, weights={"rare": 1.0, "often": 4.0})
    made = Clips(1, data=prepared(tmp_path, source), batch=500, length=2, prefetch=0)
    videos, _ = seen(made.sample())
    assert abs(int((videos[:, 0] == 8).sum()) - 400) < 5 * math.sqrt(500 * 0.8 * 0.2)
    assert [stratum.weight for stratum in made.strata] == pytest.approx([0.2, 0.8])


@given(
    seed=st.integers(0, 2**32),
    world=st.sampled_from([1, 2, 3, 6]),
    prefetch=st.integers(0, 3),
    threads=st.integers(1, 3),
)
def test_ranks_together_draw_the_batch_of_one_process(
    folder: str, seed: int, world: int, prefetch: int, threads: int
) -> None:
    settings = {"data": folder, "batch": 6, "length": 3}
    alone = Clips(seed, **settings, prefetch=0)
    ranks = [
        Clips(seed, rank, world, **settings, prefetch=prefetch, threads=threads)
        for rank in range(world)
    ]
    for _ in range(3):
        joined = torch.cat([each.sample() for each in ranks])
        assert equal(joined, alone.sample())
    assert all(each.state_dict() == alone.state_dict() for each in ranks)
    for each in ranks:
        each.close()


@given(before=st.integers(0, 5), prefetch=st.integers(0, 3), later=st.integers(0, 3))
def test_a_resumed_stream_goes_on_exactly(
    folder: str, before: int, prefetch: int, later: int
) -> None:
    def make(ahead: int) -> Clips:
        return Clips(7, data=folder, batch=4, length=3, prefetch=ahead)

    first, second = make(prefetch), make(later)
    for _ in range(before):
        first.sample()
    plain, tensors = to_plain(first.state_dict())
    expected = [first.sample() for _ in range(3)]
    second.sample()
    second.load_state_dict(from_plain(plain, tensors))
    assert all(equal(second.sample(), batch) for batch in expected)
    assert first.state_dict() == second.state_dict()
    first.close()
    second.close()
    second.close()


def test_seeds_and_batches_differ(folder: str) -> None:
    a, b = (Clips(seed, data=folder, prefetch=0) for seed in (0, 1))
    assert not equal(a.batch_at(0), b.batch_at(0))
    assert not equal(a.batch_at(0), a.batch_at(1))
    assert equal(a.batch_at(3), a.batch_at(3))


def test_another_stream_is_not_resumed(folder: str, tmp_path: Path) -> None:
    state = Clips(0, data=folder, batch=4, length=3).state_dict()
    other = prepared(tmp_path, CountingVideos([3, 10, 11, 40, 301]))
    for settings, named in [
        ({"data": other, "batch": 4, "length": 3}, "videos"),
        ({"data": folder, "batch": 8, "length": 3}, "batch"),
        ({"data": folder, "batch": 4, "length": 4}, "cut"),
        ({"data": folder, "batch": 4, "length": 3, "prioritize_ends": True}, "cut"),
        ({"data": folder, "batch": 4, "length": 3, "held_out": 0.2}, "videos"),
    ]:
        with pytest.raises(ClipsMismatch) as caught:
            Clips(0, **settings).load_state_dict(state)
        assert any(line.startswith(named) for line in caught.value.differences)


def test_batches_are_the_callers_own(folder: str) -> None:
    made = Clips(0, data=folder, batch=2, length=3, prefetch=2)
    first = made.sample()
    copy = first.clone()
    made.sample()["pixels"].zero_()
    assert equal(first, copy)
    assert equal(first, made.batch_at(0))
    made.close()


@given(names=st.lists(st.text(max_size=3), min_size=1, max_size=30), share=st.floats(0.01, 0.99))
def test_held_out_videos_are_a_share_and_stay_held_out(names: list[str], share: float) -> None:
    chosen = {name for name, out in zip(names, held_out(names, share), strict=True) if out}
    kept = set(names) - chosen
    assert len(chosen) == max(1, round(share * len(set(names))))
    more = [*names, "another"]
    again = {name for name, out in zip(more, held_out(more, share), strict=True) if out}
    assert len(chosen - again) + len(again & kept) <= 1
    assert not held_out(names, 0.0).any()


@pytest.mark.parametrize("by", ["video", "label"])
def test_training_and_held_out_clips_share_no_video(tmp_path: Path, by: str) -> None:
    labels = [f"task {number // 4}" for number in range(20)]
    data = prepared(tmp_path, CountingVideos([6] * 20, labels=labels))
    drawn = {}
    for part in ("train", "held_out"):
        made = Clips(0, data=data, held_out=0.4, held_out_by=by, part=part, batch=200, length=2)
        drawn[part] = set(np.unique(seen(made.sample())[0]).tolist())
        made.close()
    assert drawn["train"] | drawn["held_out"] == set(range(20))
    assert not drawn["train"] & drawn["held_out"]
    assert len(drawn["held_out"]) == 8
    if by == "label":
        assert not {labels[v] for v in drawn["train"]} & {labels[v] for v in drawn["held_out"]}


def test_labels_select_videos(tmp_path: Path) -> None:
    data = prepared(tmp_path, CountingVideos([4] * 4, labels=["a", "b", "a", "c"]))
    made = Clips(0, data=data, labels=("a", "c"), batch=60, length=2, prefetch=0)
    assert set(np.unique(seen(made.sample())[0]).tolist()) == {0, 2, 3}
    assert made.videos == 3
    with pytest.raises(BadSource, match="label d") as caught:
        Clips(0, data=data, labels=("d",))
    assert "a, b, c" in caught.value.hint


def test_too_short_videos_are_an_error_that_says_how_short(folder: str) -> None:
    with pytest.raises(NoClips, match="the longest has 300") as caught:
        Clips(0, data=folder, length=301)
    assert (caught.value.need, caught.value.videos) == (301, 5)


def test_a_part_of_a_mixture_is_not_lost_in_silence(tmp_path: Path) -> None:
    source = CountingVideos([9, 3], groups=["a", "b"], weights={"a": 1.0, "b": 1.0})
    with pytest.raises(NoClips, match="the longest has 3") as caught:
        Clips(0, data=prepared(tmp_path, source), length=5)
    assert "group 'b'" in caught.value.where[0]


def test_data_that_does_not_go_together_is_refused(folder: str, tmp_path: Path) -> None:
    class Wider(CountingVideos):
        frame_shape = (3, 2, 6)

    wider = prepared(tmp_path, Wider([9]))
    with pytest.raises(BadSource, match="different shapes"):
        Clips(0, data=(folder, wider), length=2)
    with pytest.raises(BadSource, match="weights"):
        Clips(0, data=(folder,), weights=(1.0, 2.0), length=2)
    with pytest.raises(BadSource, match="nothing to draw"):
        Clips(0)
    with pytest.raises(BadSource, match="3 processes"):
        Clips(0, 0, 3, data=folder, batch=16)


# Without preparation.


@given(seed=st.integers(0, 2**32), stride=st.integers(1, 3))
def test_live_clips_equal_prepared_ones(
    tmp_path_factory: pytest.TempPathFactory, seed: int, stride: int
) -> None:
    lengths = [9, 30, 12]
    data = prepared(tmp_path_factory.mktemp("same"), CountingVideos(lengths))
    settings = {"batch": 5, "length": 3, "stride": stride}
    ready = Clips(seed, data=data, **settings, prefetch=0)
    live = Clips(seed, live=(lambda: CountingVideos(lengths),), **settings, threads=2)
    for _ in range(2):
        assert equal(live.sample(), ready.sample())
    live.close()


def test_live_clips_come_from_usable_videos_only() -> None:
    source = CountingVideos([9, 2, 9, 9], bad={2: "cut off"})
    made = Clips(0, live=(lambda: source,), batch=40, length=3, prefetch=0)
    assert set(np.unique(seen(made.sample())[0]).tolist()) == {0, 3}
    assert made.rejected == {"v001": "has 2 frames", "v002": "cut off"}
    again = Clips(0, live=(lambda: source,), batch=40, length=3)
    assert equal(made.batch_at(0), again.sample())
    again.close()


def test_live_videos_that_are_all_unusable_are_an_error() -> None:
    made = Clips(0, live=(lambda: CountingVideos([2, 4]),), batch=2, length=5, prefetch=0)
    with pytest.raises(NoClips, match="the longest has 4"):
        made.sample()


def test_a_source_that_knows_lengths_is_not_counted() -> None:
    class Knows(CountingVideos):
        def frame_count(self, video: Video) -> int:
            return self.lengths[int(video.key[1:])]

    source = Knows([1000])
    made = Clips(0, live=(lambda: source,), batch=1, length=5, prefetch=0)
    made.sample()
    assert source.decoded == ["v000"]


def test_a_gin_file_configures_clips(folder: str, tmp_path: Path) -> None:
    gin = tmp_path / "clips.gin"
    gin.write_text(f"Clips.data = '{folder}'\nClips.length = 4\nClips.weights = (2,)\n")
    config = load([gin], ["Clips.batch = 2"], roots=["Clips"])
    made = config.build("Clips", 3)
    assert made.sample()["pixels"].shape == (2, 4, 3, 2, 4)
    assert made.observations["pixels"].shape == (3, 2, 4)
    made.close()
