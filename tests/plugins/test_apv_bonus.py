"""The video-based bonus against a float64 NumPy loop and published numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wmplatform.types import ActionSpec, ArraySpec
from wmplugins.apv.explorers import VideoBonus
from wmplugins.dreamer.heads import RewardMLP

from . import video_reference as ref

FEATURES = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [3.0, 2.0]]])
REWARD = torch.tensor([[0.0, 1.0, 0.5, 2.0]])
RAW = [0.83662747, 0.60838026, 0.70601133]
WITHOUT_SELF = [1.66996081, 1.20930547, 1.30693654]


def bonus(width: int = 2, **settings: Any) -> VideoBonus:
    view = ArraySpec((width,))
    return VideoBonus(ActionSpec(2), {"policy": view, "intrinsic": view}, **settings)


def known(scale: float = 1.0) -> VideoBonus:
    """Projection diag(1, 0.5) and an older clip at (2, 2)."""
    made = bonus(scale=scale, neighbours=3, window=2, projection=2, queue=16)
    made.random.copy_(torch.diag(torch.tensor([1.0, 0.5])))
    made.queue[0] = 2.0
    made.pushed.fill_(1)
    return made


def reference(made: VideoBonus, **settings: Any) -> ref.Bonus:
    return ref.Bonus(
        made.random,
        queue=len(made.queue),
        neighbours=made.neighbours,
        window=made.window,
        **settings,
    )


def values_of(made: VideoBonus, features: Tensor) -> Tensor:
    found = made.intrinsic(features)
    assert found is not None
    return found.values


# Known numbers


def test_distances_of_known_features() -> None:
    made = known()
    clips = made.clips(FEATURES)
    assert_allclose(clips, [[[0.5, 0], [1, 0.5], [2, 1]]], atol=1e-6)
    raw = made.distance(clips[0])
    assert_allclose(raw, RAW, atol=1e-6)
    assert_allclose(made.normalise(raw), [0.83900179, 0.61010681, 0.70801496], atol=1e-6)
    assert_allclose(made.magnitude, 0.99717006, atol=1e-8)
    made.normalise(raw)
    assert_allclose(made.magnitude, 0.99436843, atol=1e-8)


def test_a_clip_counts_itself_among_its_neighbours() -> None:
    raw = known().distance(known().clips(FEATURES)[0])
    assert float((raw - torch.tensor(WITHOUT_SELF)).abs().min()) > 0.5
    alone = reference(known(), count_self=False)
    alone.queue = [np.array([2.0, 2.0])]
    assert_allclose(alone.raw(alone.clips(FEATURES)), WITHOUT_SELF, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, [0.83900179, 1.61010681, 1.20801496]),
        (0.1, [0.08390018, 1.06101068, 0.57080150]),
    ],
)
def test_reward_target_of_known_features(scale: float, expected: list[float]) -> None:
    values = values_of(known(scale), FEATURES)
    target = RewardMLP(ArraySpec((2,)), layers=0).target({"reward": REWARD, "intrinsic": values})
    assert target.records == slice(0, 3)
    assert_allclose(target.values, [expected], atol=1e-6)


# The queue


@given(
    st.integers(0, 2**16),
    st.lists(st.integers(1, 3), min_size=1, max_size=6),
    st.integers(12, 40),
    st.integers(1, 20),
)
def test_a_stream_of_batches_against_numpy(
    seed: int, batches: list[int], queue: int, neighbours: int
) -> None:
    """Partly filled at first, then full, then the oldest clips make room for new ones."""
    draw = torch.Generator().manual_seed(seed)
    made = bonus(5, queue=queue, neighbours=neighbours, window=3, projection=4)
    numpy = reference(made)
    for rows in batches:
        features = torch.randn(rows, 6, 5, generator=draw)
        assert_allclose(values_of(made, features), numpy(features), rtol=1e-4, atol=1e-6)
        assert_allclose(made.queue[: len(numpy.queue)], np.array(numpy.queue), atol=1e-5)
        assert len(numpy.queue) == min(queue, int(made.pushed))
    assert int(made.pushed) == 4 * sum(batches)
    assert_allclose(made.magnitude, numpy.magnitude, rtol=1e-6)


def test_new_clips_come_first_and_the_oldest_leave() -> None:
    made = bonus(1, queue=6, neighbours=1, window=1, projection=1)
    made.random.fill_(1.0)
    for start in (0.0, 10.0, 20.0):
        made.distance(torch.arange(start, start + 2)[:, None])
    assert made.queue[:, 0].tolist() == [20, 21, 10, 11, 0, 1]
    made.distance(torch.tensor([[30.0], [31.0]]))
    assert made.queue[:, 0].tolist() == [30, 31, 20, 21, 10, 11]


def test_places_that_were_never_filled_are_no_neighbours() -> None:
    """The queue starts with zeros, which would be the nearest clips of all."""
    made = bonus(1, queue=8, neighbours=8, window=1, projection=1)
    raw = made.distance(torch.tensor([[1.0], [3.0]]))
    assert raw.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_bonus_of_a_clip_that_is_not_finite_is_nan(bad: float) -> None:
    """So that the update is skipped, whoever reads the bonus."""
    made, features = bonus(5, queue=30, neighbours=3, window=2, projection=4), torch.randn(2, 4, 5)
    values_of(made, features)
    features[0, 1, 2] = bad
    assert values_of(made, features)[0, :2].isnan().all()


def test_too_many_clips_or_too_short_segments_are_refused() -> None:
    made = bonus(5, queue=8, neighbours=3, window=3, projection=4)
    with pytest.raises(ValueError, match="queue holds 8; raise explorers"):
        made.intrinsic(torch.zeros(3, 5, 5))
    with pytest.raises(ValueError, match="segments of 2 records"):
        made.intrinsic(torch.zeros(3, 2, 5))


# Scale, precision, memory


def test_entries_of_the_projection_have_the_published_spread() -> None:
    made = bonus(2048)
    assert made.random.shape == (2048, 128)
    assert made.random.numel() == 262_144
    assert_allclose(made.random.std(), 1 / 128, rtol=0.02)
    assert_allclose(made.random.mean(), 0, atol=1e-4)
    assert made.queue.shape == (4096, 128)
    assert not list(made.parameters())


def test_the_bonus_approaches_a_mean_of_one() -> None:
    """Only after some hundred batches: the running magnitude starts at one."""
    made = bonus(6, queue=64, neighbours=4, window=2, projection=8)
    means = [float(values_of(made, torch.randn(8, 5, 6)).mean()) for _ in range(600)]
    assert means[10] < 0.7
    assert np.mean(means[-50:]) == pytest.approx(1.0, abs=0.1)


def test_autocast_does_not_reach_the_bonus() -> None:
    torch.manual_seed(0)
    made = bonus(6, queue=64, neighbours=4, window=2, projection=8)
    other = bonus(6, queue=64, neighbours=4, window=2, projection=8)
    other.load_state_dict(made.state_dict())
    features = torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = values_of(made, features)
    assert torch.equal(inside, values_of(other, features))
    assert inside.dtype == torch.float32


class Largest(TorchDispatchMode):
    """Notes the largest tensor that an operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(found) if isinstance(x, Tensor)]
        self.entries = max([self.entries, *sizes])
        return found


def test_no_temporary_holds_every_difference() -> None:
    """With 2300 clips, a queue of 4096 and 128 dims, that would be 4.8 GB."""
    made = bonus(6, queue=256, neighbours=4, window=2, projection=32)
    clips = 8 * 15
    with Largest() as largest:
        values_of(made, torch.randn(8, 16, 6))
    assert largest.entries == clips * 256
