"""Published datasets: their layouts, and the preprocessing that papers describe."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wmplatform.errors import ExitCode
from wmplatform.interfaces import Video, VideoSource
from wmplatform.videos import BadSource
from wmplatform.videos.errors import UnreadableVideo
from wmplugins.videos.human36m import Human36M, MissingH5, subject_square
from wmplugins.videos.images import centre_square
from wmplugins.videos.mixture import Mixture
from wmplugins.videos.rlbench import NpzEpisodes
from wmplugins.videos.samples import moving_bar, sample_human36m, sample_ssv2
from wmplugins.videos.youtube_driving import YouTubeDriving


def keys(source: VideoSource) -> list[str]:
    return [video.key for video in source.videos()]


def frames(source: VideoSource, key: str) -> np.ndarray:
    return np.stack(list(source.frames(Video(key))))


# Something-Something-v2


def something(**settings: Any) -> VideoSource:
    pytest.importorskip("av")
    from wmplugins.videos.ssv2 import SomethingSomething

    root = Path(sample_ssv2())
    where = {"root": str(root / "videos"), "labels": str(root / "labels")}
    return SomethingSomething(**{**where, **settings})


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ["7.webm", "12.webm"]),
        ("validation", ["3.webm"]),
        ("train+validation", ["3.webm", "7.webm", "12.webm"]),
        ("test", ["3.webm"]),
    ],
)
def test_ssv2_lists_its_splits_by_number(split: str, expected: list[str]) -> None:
    assert keys(something(split=split)) == expected


def test_ssv2_labels_are_templates_without_brackets() -> None:
    labels = {video.key: video.label for video in something().videos()}
    assert labels == {"7.webm": "Pushing something", "12.webm": "Dropping something onto something"}
    assert [video.label for video in something(split="test").videos()] == [None]


def test_ssv2_frames_are_squashed() -> None:
    source = something()
    assert frames(source, "7.webm").shape == (5, 3, 64, 64)
    assert source.settings()["fit"] == "squash"
    assert source.settings()["resample"] == "bicubic"


def test_ssv2_chooses_classes() -> None:
    chosen = something(classes=("Pushing something",), split="train+validation")
    assert keys(chosen) == ["3.webm", "7.webm"]
    with pytest.raises(BadSource, match="no class 'Pushing something up'") as caught:
        something(classes=("Pushing something up",)).videos()
    assert "Pushing something" in caught.value.hint
    with pytest.raises(BadSource, match="test list has no classes"):
        something(classes=("Pushing something",), split="test").videos()


def test_ssv2_knows_both_names_of_its_lists(tmp_path: Path) -> None:
    for path in (Path(sample_ssv2()) / "labels").iterdir():
        (tmp_path / f"something-something-v2-{path.name}").write_text(path.read_text())
    assert keys(something(labels=str(tmp_path))) == ["7.webm", "12.webm"]
    with pytest.raises(BadSource, match=r"there is no train\.json or something-something-v2"):
        something(labels=str(tmp_path.parent)).videos()


def test_ssv2_missing_files_show_when_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([{"id": "99", "template": "Doing [a thing]"}]))
    source = something(labels=str(tmp_path))
    with pytest.raises(UnreadableVideo, match="no such file"):
        frames(source, "99.webm")


# Human3.6M


def human(**settings: Any) -> Human36M:
    where = {"root": sample_human36m(), "lists": ("train_images.txt",), "joints": ("train.npz",)}
    return Human36M(**{**where, **settings})


def test_human36m_gathers_images_into_videos_labelled_by_action() -> None:
    found = {video.key: video.label for video in human().videos()}
    assert found == {
        "S1_Directions 1.54138969": "Directions",
        "S9_Walking.60457274": "Walking",
    }
    assert human().frame_count(Video("S9_Walking.60457274")) == 3
    assert keys(human(subjects=("S9",))) == ["S9_Walking.60457274"]


@given(
    corners=st.tuples(*[st.floats(0, 999)] * 4),
    width=st.integers(1000, 1004),
    height=st.integers(1000, 1004),
)
def test_human36m_square_is_as_published(
    corners: tuple[float, float, float, float], width: int, height: int
) -> None:
    xs, ys = sorted(corners[:2]), sorted(corners[2:])
    left, top, right, bottom = subject_square((xs[0], ys[0], xs[1], ys[1]), (width, height))
    side = min(max(xs[1] - xs[0], ys[1] - ys[0]) + 200, 1000)
    assert right - left == pytest.approx(side)
    assert bottom - top == pytest.approx(side)
    assert left >= 0
    assert top >= 0
    assert right <= width + 1e-9
    assert bottom <= height + 1e-9
    middle = (xs[0] + xs[1]) / 2
    if side / 2 < middle < width - side / 2:
        assert (left + right) / 2 == pytest.approx(middle)


def test_human36m_keeps_every_fifth_frame_of_a_full_set(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = [f"S1_Eating.54138969_{number:06d}.jpg" for number in range(1, 13)]
    for number, name in enumerate(names):
        shade = np.full((220, 220, 3), 20 * number, np.uint8)
        Image.fromarray(shade).save(tmp_path / "images" / name)
    (tmp_path / "names.txt").write_text("\n".join(names))
    boxes = {name: [100, 100, 110, 120] for name in names}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    source = Human36M(root=str(tmp_path), lists=("names.txt",), joints=("boxes.json",), size=8)
    found = frames(source, "S1_Eating.54138969")
    assert found[:, 0, 4, 4].tolist() == [0, 100, 200]


def test_human36m_without_h5py_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "train_images.txt").write_text("S1_Eating.54138969_000001.jpg")
    (tmp_path / "train.h5").write_bytes(b"")
    source = human(root=str(tmp_path), joints=("train.h5",))
    with pytest.raises(MissingH5, match="h5py is not installed") as caught:
        source.videos()
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert ".npz" in caught.value.hint


def test_human36m_lists_and_joints_must_belong_together(tmp_path: Path) -> None:
    (tmp_path / "train_images.txt").write_text("S1_Eating.54138969_000001.jpg\n")
    np.savez(tmp_path / "train.npz", part=np.zeros((2, 16, 2)))
    with pytest.raises(BadSource, match=r"joints \[2, 16, 2\] for 1 images"):
        human(root=str(tmp_path)).videos()
    with pytest.raises(BadSource, match="one file of joints for each"):
        human(joints=("a.h5", "b.h5"))
    with pytest.raises(BadSource, match="no a"):
        human(joints=("a.h5",)).videos()


def test_human36m_refuses_a_missing_image(tmp_path: Path) -> None:
    (tmp_path / "train_images.txt").write_text("S1_Eating.54138969_000001.jpg\n")
    np.savez(tmp_path / "train.npz", part=np.ones((1, 16, 2)))
    with pytest.raises(UnreadableVideo, match="an image is missing"):
        frames(human(root=str(tmp_path)), "S1_Eating.54138969")


# YouTube Driving


def numbered(folder: Path, numbers: list[int], size: tuple[int, int] = (8, 8)) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        shade = np.full((*size, 3), number % 250, np.uint8)
        Image.fromarray(shade).save(folder / f"{number:06d}.png")


def test_youtube_runs_lose_their_start_and_keep_every_fifth_number(tmp_path: Path) -> None:
    numbered(tmp_path / "city", [*range(115), *range(201, 309), *range(400, 450)])
    source = YouTubeDriving(root=str(tmp_path), size=4)
    assert [(v.key, v.label) for v in source.videos()] == [
        ("city/0", "city"),
        ("city/201", "city"),
    ]
    assert frames(source, "city/0")[:, 0, 0, 0].tolist() == [100, 105, 110]
    assert frames(source, "city/201")[:, 0, 0, 0].tolist() == [305 % 250]


@given(width=st.integers(1, 2000), height=st.integers(1, 2000))
def test_centre_square_is_in_the_middle(width: int, height: int) -> None:
    left, top, right, bottom = centre_square(width, height)
    assert right - left == bottom - top == min(width, height)
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1


def test_youtube_crops_the_middle(tmp_path: Path) -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    (tmp_path / "a").mkdir()
    for number in range(2):
        Image.fromarray(image).save(tmp_path / "a" / f"{number}.png")
    source = YouTubeDriving(root=str(tmp_path), size=10, skip=0, every=1)
    assert (frames(source, "a/0") == 255).all()


@pytest.mark.parametrize(("content", "said"), [(b"", "no image"), (None, "cut off")])
def test_a_bad_image_refuses_its_video(tmp_path: Path, content: bytes | None, said: str) -> None:
    numbered(tmp_path / "a", list(range(5)), size=(200, 200))
    path = tmp_path / "a" / "000003.png"
    noise = np.random.default_rng(0).integers(256, size=(200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:60_000] if content is None else content)
    source = YouTubeDriving(root=str(tmp_path), skip=0, every=1)
    with pytest.raises(UnreadableVideo, match=f"a/0.*{said}"):
        frames(source, "a/0")
    assert source.read(Video("a/0"), 0, 3).shape == (3, 3, 64, 64)
    with pytest.raises(UnreadableVideo, match="fewer than 9"):
        source.read(Video("a/0"), 4, 5)


def test_youtube_without_a_run_is_explained(tmp_path: Path) -> None:
    numbered(tmp_path / "a", list(range(50)))
    with pytest.raises(BadSource, match="more than 100 numbered images"):
        YouTubeDriving(root=str(tmp_path)).videos()


# RLBench


def test_rlbench_episodes_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "reach").mkdir()
    images = moving_bar(6, 64, 64)
    np.savez_compressed(tmp_path / "reach" / "e.npz", image=images, action=np.zeros((6, 7)))
    source = NpzEpisodes(root=str(tmp_path))
    assert [(v.key, v.label) for v in source.videos()] == [("reach/e.npz", "reach")]
    assert np.array_equal(frames(source, "reach/e.npz"), images.transpose(0, 3, 1, 2))
    assert frames(NpzEpisodes(root=str(tmp_path), size=16), "reach/e.npz").shape == (6, 3, 16, 16)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"reward": np.zeros(3)}, "no array 'image'"),
        ({"image": np.zeros((2, 8, 8, 3))}, "float64"),
        ({"image": np.zeros((2, 8, 8), np.uint8)}, "uint8 [2, 8, 8]"),
        ({"image": np.array([{"a": 1}], dtype=object)}, "damaged"),  # would have to be unpickled
        (None, "damaged"),
    ],
)
def test_other_npz_files_are_refused(
    tmp_path: Path, arrays: dict[str, Any] | None, said: str
) -> None:
    path = tmp_path / "e.npz"
    np.savez(path, **(arrays or {"image": np.zeros((9, 8, 8, 3), np.uint8)}))
    if arrays is None:
        path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UnreadableVideo) as caught:
        frames(NpzEpisodes(root=str(tmp_path)), "e.npz")
    assert said in caught.value.reason


# Mixtures


def episodes(folder: Path, count: int, size: int = 8) -> Callable[..., VideoSource]:
    folder.mkdir()
    for number in range(count):
        np.savez(folder / f"{number}.npz", image=moving_bar(3, size, size, number))
    return partial(NpzEpisodes, root=str(folder), size=size)


def test_a_mixture_names_and_weighs_its_sources(tmp_path: Path) -> None:
    a, b = episodes(tmp_path / "a", 2), episodes(tmp_path / "b", 1)
    inner = partial(Mixture, sources={"x": a, "y": b}, weights={"x": 3.0, "y": 1.0})
    source = Mixture(sources={"plain": a, "inner": inner})
    assert [(v.key, v.group) for v in source.videos()] == [
        ("plain/0.npz", "plain"),
        ("plain/1.npz", "plain"),
        ("inner/x/0.npz", "inner/x"),
        ("inner/x/1.npz", "inner/x"),
        ("inner/y/0.npz", "inner/y"),
    ]
    assert source.group_weights() == {"plain": 1.0, "inner/x": 0.75, "inner/y": 0.25}
    for key, path in (("plain/1.npz", "a/1.npz"), ("inner/y/0.npz", "b/0.npz")):
        with np.load(tmp_path / path) as arrays:
            assert np.array_equal(frames(source, key), arrays["image"].transpose(0, 3, 1, 2))


def test_a_mixture_names_the_video_that_is_bad(tmp_path: Path) -> None:
    source = Mixture(sources={"a": episodes(tmp_path / "a", 1)})
    (tmp_path / "a" / "0.npz").write_bytes(b"no")
    with pytest.raises(UnreadableVideo) as caught:
        frames(source, "a/0.npz")
    assert caught.value.key == "a/0.npz"
    assert caught.value.reason == "it is damaged, or no .npz file"


def test_sources_of_different_sizes_are_not_mixed(tmp_path: Path) -> None:
    a, b = episodes(tmp_path / "a", 1, 8), episodes(tmp_path / "b", 1, 16)
    with pytest.raises(BadSource, match="differ in shape"):
        Mixture(sources={"a": a, "b": b})
    with pytest.raises(BadSource, match="weights are given for"):
        Mixture(sources={"a": a}, weights={"b": 1.0})
    assert Mixture(sources={"a": a}).settings()["sources"]["a"]["size"] == 8
