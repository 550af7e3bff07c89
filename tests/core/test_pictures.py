"""Pictures: layout, exact pixels, files that other programs read."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from wmplatform import pictures
from wmplatform.json_lines import JsonLines
from wmplatform.pictures import (
    learning_curve,
    open_loop_strip,
    open_loop_video,
    to_rgb,
    write_png,
    write_video,
)


def clips(value: float, b: int = 3, t: int = 12, size: int = 8) -> torch.Tensor:
    return torch.full((b, t, 3, size, size), value)


def test_a_strip_has_rows_truth_model_error() -> None:
    strip = open_loop_strip(clips(1.0), clips(0.0), 5, clips=1, columns=4, scale=1)
    assert strip.shape == (3 * 8 + 2, 4 * 8 + 2, 3)
    assert (strip[:8, :8] == 255).all()  # truth
    assert (strip[9:17, :8] == 0).all()  # model
    assert (strip[18:, :8] == 0).all()  # (0 - 1 + 1) / 2
    equal = open_loop_strip(clips(0.3), clips(0.3), 5, clips=1, columns=4, scale=1)
    assert (equal[18:, :8] == 128).all()  # no error is grey


def test_the_mark_stands_before_the_first_predicted_column() -> None:
    strip = open_loop_strip(clips(0.0), clips(0.0), 6, clips=1, columns=12, scale=1)
    red = np.flatnonzero((strip[0] == (200, 60, 60)).all(-1))
    assert red.tolist() == [6 * 8, 6 * 8 + 1]


def test_clips_stand_side_by_side_and_scale_enlarges() -> None:
    strip = open_loop_strip(clips(0.0), clips(0.0), 5, clips=2, columns=4, scale=3)
    assert strip.shape == (3 * (3 * 8 + 2), 2 * (4 * 24 + 2) + 4, 3)


@pytest.mark.parametrize(("length", "columns"), [(3, 10), (1, 4), (50, 10), (25, 25)])
def test_any_length_fits(length: int, columns: int) -> None:
    strip = open_loop_strip(clips(0.0, t=length), clips(0.0, t=length), 1, columns=columns)
    assert strip.dtype == np.uint8


def test_a_prediction_video_shows_when_it_predicts() -> None:
    video = open_loop_video(clips(1.0), clips(1.0), 5, clips=2, scale=2)
    assert video.shape == (12, 2 * 26 + 4, 2 * 16 + 4, 3)
    greens = (video[:, 0, 0] == (60, 160, 60)).all(-1)
    assert greens.tolist() == [True] * 5 + [False] * 7


def test_images_become_rgb_whatever_their_channels() -> None:
    grey = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    assert (to_rgb(grey)[..., 0] == grey[0]).all()
    stack = np.arange(9, dtype=np.uint8).reshape(9, 1, 1)
    assert to_rgb(stack).tolist() == [[[6, 7, 8]]]
    odd = torch.tensor([-1.0, 2.0, float("nan")]).reshape(3, 1, 1)
    assert to_rgb(odd).tolist() == [[[0, 255, 0]]]


def test_a_png_holds_the_pixels(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = write_png(tmp_path / "new" / "a.png", picture)
    with Image.open(path) as image:
        assert (np.asarray(image) == picture).all()
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_video_of_odd_size_can_be_played(tmp_path: Path) -> None:
    frames = np.zeros((6, 33, 31, 3), np.uint8)
    frames[3:] = 255
    path = write_video(tmp_path / "a.mp4", frames, fps=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 10
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(shown) == 6
    assert shown[0].shape == (34, 32, 3)
    assert shown[0][:33, :31].mean() < 10
    assert shown[5][:33, :31].mean() > 245


def test_without_pyav_a_video_becomes_a_gif(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda _: None)
    frames = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 100, 255)])
    path = write_video(tmp_path / "a.mp4", frames, fps=10)
    assert path.suffix == ".gif"
    with Image.open(path) as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
    assert learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png") is None


def test_a_curve_is_drawn_from_the_metrics(tmp_path: Path) -> None:
    target = tmp_path / "curve.png"
    assert learning_curve(tmp_path / "metrics.jsonl", target) is None
    with JsonLines(tmp_path / "metrics.jsonl") as lines:
        for frames in range(5):
            lines.append({"env_frames": frames, "eval/return": frames * 2.0, "loss": 1.0})
        lines.append({"env_frames": 6, "eval/return": float("nan")})
    assert learning_curve(tmp_path / "metrics.jsonl", target) == target
    with Image.open(target) as image:
        assert image.size[0] > 100
