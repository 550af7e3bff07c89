"""Which frame is the context, and what augmentations do to it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from torch import Tensor

from wmplatform.images import to_centred
from wmplatform.types import ArraySpec
from wmplugins.contextwm.augmentations import Erasing, Flip, ResizedCrop, erased_size
from wmplugins.contextwm.context import ResNetContext, frame_index
from wmplugins.dreamer.encoders import ResNetEncoder

from . import video_reference as ref
from .tiny_contextwm import contextwm_agent

CPU = torch.device("cpu")
SIZE = 16
PIXELS = {"pixels": ArraySpec((3, SIZE, SIZE), "uint8")}


def encoder(**settings: object) -> ResNetContext:
    return ResNetContext(PIXELS, **({"depth": 2} | settings))  # type: ignore[arg-type]


def labelled(batch: int, length: int) -> Tensor:
    """Every frame has one grey value, which says where it is from: 10 * row + record."""
    value = 10 * torch.arange(batch)[:, None] + torch.arange(length)
    return value[..., None, None, None].expand(-1, -1, 3, SIZE, SIZE).to(torch.uint8)


def records(frames: Tensor) -> list[list[int]]:
    """Record of each chosen frame; checks that it is of the row's own segment."""
    value = ((frames + 0.5) * 255).round().long()
    assert (value == value[..., :1, :1, :1]).all()
    found = value[:, :, 0, 0, 0]
    assert (found // 10 == torch.arange(len(frames))[:, None]).all()
    return (found % 10).tolist()


# Which frame


def test_frames_are_drawn_uniformly_for_each_row() -> None:
    index = frame_index("random", 7_000, 1, 7, CPU).flatten()
    assert stats.chisquare(index.bincount(minlength=7).double()).pvalue > 1e-3
    pairs = (7 * index[0::2] + index[1::2]).bincount(minlength=49).double()
    assert stats.chisquare(pairs).pvalue > 1e-3  # rows are independent


def test_selection_takes_a_frame_of_the_own_segment() -> None:
    made = encoder().train()
    chosen = records(made.select(labelled(20, 6)))
    assert {each[0] for each in chosen} == set(range(6))
    assert all(len(each) == 1 for each in chosen)


@pytest.mark.parametrize(
    ("settings", "observed", "expected"),
    [
        ({}, 4, [3]),  # the last observed one: a random frame could lie in the future
        ({}, 99, [5]),
        ({"choice": "first"}, None, [0]),
        ({"choice": "last"}, None, [5]),
        ({"reports": "first"}, 4, [0]),
        ({"choice": "last", "frames": 2}, None, [4, 5]),
        ({"choice": "first", "frames": 2}, None, [0, 1]),
    ],
)
def test_which_frame_is_chosen(
    settings: dict[str, object], observed: int | None, expected: list[int]
) -> None:
    made = encoder(**settings)
    assert records(made.select(labelled(3, 6), observed)) == [expected] * 3


def test_a_random_context_of_reports_is_an_observed_one() -> None:
    made = encoder(reports="random").eval()
    chosen = {each[0] for _ in range(20) for each in records(made.select(labelled(5, 6), 3))}
    assert chosen == {0, 1, 2}


@pytest.mark.parametrize(("reports", "expected"), [("first", [0, 1, 1]), ("last", [0, 0, 1])])
def test_more_frames_than_observed_records_do_not_reach_into_the_future(
    reports: str, expected: list[int]
) -> None:
    made = encoder(frames=3, reports=reports)
    assert records(made.select(labelled(2, 6), observed=2)) == [expected] * 2


def test_predictions_take_the_last_observed_frame() -> None:
    """In the whole model: what comes after the observed records has no influence."""
    model = contextwm_agent().world_model.eval()
    pixels = torch.randint(0, 256, (2, 6, 3, 64, 64), dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, 4:] = 0
    changed[:, :3] = 0
    a, b = (model.context({"pixels": each}, 4) for each in (pixels, changed))
    assert a is not None
    assert b is not None
    assert all(torch.equal(a[name], b[name]) for name in a)


# What it becomes


def test_the_context_is_the_pyramid_of_an_encoder_of_its_own() -> None:
    made = encoder(frames=2).eval()
    frames = torch.rand(3, 2, 3, SIZE, SIZE) - 0.5
    context = made(frames)
    specs = {name: spec.shape for name, spec in made.context_specs.items()}
    assert specs == {"scale_16": (2, 4, 4, 4), "scale_8": (2, 8, 2, 2)}
    twin = ResNetEncoder(PIXELS, depth=2).eval()
    twin.load_state_dict(made.net.state_dict())
    for row in range(3):
        for k in range(2):
            _, middle, small, _ = twin.pyramid(frames[row, k][None])
            assert_allclose(context["scale_16"][row, k].detach(), middle[0].detach(), atol=1e-5)
            assert_allclose(context["scale_8"][row, k].detach(), small[0].detach(), atol=1e-5)


def test_published_count_and_shapes() -> None:
    with torch.device("meta"):
        made = ResNetContext({"pixels": ArraySpec((3, 64, 64), "uint8")})
    assert sum(p.numel() for p in made.parameters()) == 1_562_112
    specs = {name: spec.shape for name, spec in made.context_specs.items()}
    assert specs == {"scale_16": (1, 96, 16, 16), "scale_8": (1, 192, 8, 8)}


def erased(made: ResNetContext) -> bool:
    pixels = torch.full((50, 2, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    return bool((made.select(pixels) != 0.5).any())


def test_frames_are_augmented_in_training_only_unless_told() -> None:
    made = encoder(augmentation=Erasing)
    assert erased(made.train())
    assert not erased(made.eval())
    assert erased(encoder(augmentation=Erasing, augment_in_eval=True).eval())
    assert not erased(encoder().train())


def test_selection_is_outside_of_the_graph() -> None:
    pixels = torch.rand(2, 3, 3, SIZE, SIZE, requires_grad=True)
    assert not encoder(augmentation=Erasing).train().select(pixels).requires_grad


# Erasing


def test_size_of_a_known_rectangle() -> None:
    tall, wide = erased_size(torch.tensor([0.175 * 4096]), torch.tensor([0.5]), 64, 64)
    assert (tall.item(), wide.item()) == (19, 38)


@given(st.floats(0.02, 0.33), st.floats(0.3, 3.3), st.integers(8, 64), st.integers(8, 64))
def test_size_of_any_rectangle(area: float, ratio: float, height: int, width: int) -> None:
    px = area * height * width
    tall, wide = erased_size(torch.tensor([px]), torch.tensor([ratio]), height, width)
    expected = (np.sqrt(px * ratio), np.sqrt(px / ratio))
    for ours, exact, limit in ((tall, expected[0], height), (wide, expected[1], width)):
        assert 1 <= ours.item() <= limit
        assert abs(ours.item() - np.clip(exact, 1, limit)) <= 0.5 + 1e-3


def rectangles(count: int = 4_000) -> tuple[int, np.ndarray]:
    """Number of frames that were left alone; top, left, height and width of the others' holes."""
    frames = torch.full((count, 1, 64, 64), 0.25)
    holes = (Erasing()(frames) != 0.25).squeeze(1).numpy()
    found = [ref.rectangle(hole) for hole in holes]
    return sum(each is None for each in found), np.array([each for each in found if each])


def test_statistics_of_erasing() -> None:
    """Each draw against its distribution, by the published ranges."""
    alone, found = rectangles()
    assert stats.binomtest(alone, 4_000, 0.5).pvalue > 1e-3
    top, left, height, width = found.T
    free = (height < 64) & (width < 64)  # those that were not cut
    area = (height * width / 64**2)[free]
    assert 0.015 < area.min() < 0.03
    assert 0.3 < area.max() < 0.35
    assert area.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
    ratio = (height / width)[free]
    assert 0.25 < ratio.min() < 0.35
    assert 3.0 < ratio.max() < 3.8
    steep = int((height > width).sum())
    assert stats.binomtest(steep, steep + int((height < width).sum()), 0.5).pvalue > 1e-3
    flat = ratio[ratio < 0.98]
    assert flat.mean() == pytest.approx(0.65, abs=0.02)  # uniform from 0.3 to 1
    for start, size in ((top, height), (left, width)):
        place = start / np.maximum(64 - size, 1)
        assert place.min() == 0
        assert place.max() == 1
        assert place.mean() == pytest.approx(0.5, abs=0.03)


def test_erased_pixels_are_mid_grey_in_all_channels() -> None:
    frames = torch.full((200, 3, SIZE, SIZE), 0.25)
    out = Erasing(probability=1.0)(frames)
    assert set(out.unique().tolist()) == {0.0, 0.25}
    assert (out == out[:, :1]).all()
    assert (frames == 0.25).all()
    assert torch.equal(Erasing(probability=0.0)(frames), frames)
    grey = Erasing(probability=1.0)(torch.zeros(20, 3, SIZE, SIZE, dtype=torch.uint8))
    assert set(grey.unique().tolist()) == {0, 128}


# The other augmentations


def ramp(count: int = 64) -> Tensor:
    """Distinct columns and rows."""
    line = torch.linspace(-0.4, 0.4, SIZE)
    return torch.stack([line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)]).expand(
        count, 2, SIZE, SIZE
    )


def test_flips_mirror_half_of_the_frames() -> None:
    frames = ramp(400)
    out = Flip()(frames)
    flipped = (out == frames.flip(-1)).flatten(1).all(1)
    alone = (out == frames).flatten(1).all(1)
    assert (flipped ^ alone).all()
    assert stats.binomtest(int(flipped.sum()), 400, 0.5).pvalue > 1e-3


def test_crops_are_parts_of_the_frame_at_full_size() -> None:
    frames = ramp(300)
    out = ResizedCrop()(frames)
    assert out.shape == frames.shape
    spans = [(image[0].amax() - image[0].amin()).item() / 0.8 for image in out]
    heights = [(image[1].amax() - image[1].amin()).item() / 0.8 for image in out]
    area = np.array(spans) * np.array(heights)
    assert area.min() > 0.6
    assert area.max() <= 1 + 1e-6
    whole = ResizedCrop(area=(1.0, 1.0), ratio=(1.0, 1.0))
    assert_allclose(whole(frames), frames, atol=1e-5)


MAKERS: list[Callable[[], torch.nn.Module]] = [Erasing, Flip, ResizedCrop]


@pytest.mark.parametrize("make", MAKERS)
def test_rows_are_augmented_by_themselves(make: Callable[[], torch.nn.Module]) -> None:
    """The same draw for the same row, whatever the other rows hold."""
    frames = to_centred(torch.randint(0, 256, (8, 3, SIZE, SIZE), dtype=torch.uint8))
    other = frames.clone()
    other[1:] = 0.1
    torch.manual_seed(2)
    first = make()(frames)[0]
    torch.manual_seed(2)
    assert torch.equal(first, make()(other)[0])
