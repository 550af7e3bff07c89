"""Video files: whatever is in them, frames come out whole or the file is refused with a reason."""

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from wmplatform.errors import ExitCode
from wmplatform.interfaces import Video
from wmplatform.videos import BadSource, Prepare
from wmplatform.videos.errors import UnreadableVideo

av = pytest.importorskip("av")

from wmplugins.videos.folder import VideoFolder  # noqa: E402
from wmplugins.videos.samples import moving_bar, write_clip  # noqa: E402

FAST = {"deadline": "realtime", "cpu-used": "8"}
KINDS: tuple[tuple[str, str, str, tuple[int, int]], ...] = (
    ("h264.mp4", "libx264", "yuv420p", (30, 44)),
    ("odd444.mp4", "libx264", "yuv444p", (31, 45)),
    ("ten_bits.mp4", "libx264", "yuv420p10le", (30, 44)),
    ("vp9.webm", "libvpx-vp9", "yuv420p", (30, 44)),
    ("odd_vp9.webm", "libvpx-vp9", "yuv420p", (31, 45)),
    ("grey.mkv", "ffv1", "gray", (31, 45)),
    ("grey16.mkv", "ffv1", "gray16le", (31, 45)),
    ("rgb.mkv", "ffv1", "bgr0", (31, 45)),
    ("full_range.avi", "mjpeg", "yuvj420p", (31, 45)),
    ("xvid.avi", "mpeg4", "yuv420p", (30, 44)),
    ("mpeg1.mpg", "mpeg1video", "yuv420p", (30, 44)),
)


def encoder(name: str) -> None:
    try:
        av.Codec(name, "w")
    except ValueError:
        pytest.skip(f"this PyAV cannot encode {name}")


def frames(folder: Path, key: str, **settings: Any) -> NDArray[np.uint8]:
    return np.stack(list(VideoFolder(root=str(folder), **settings).frames(Video(key))))


def reason(folder: Path, key: str, **settings: Any) -> str:
    with pytest.raises(UnreadableVideo) as caught:
        frames(folder, key, **settings)
    assert caught.value.key == key
    assert str(folder) not in caught.value.reason
    return caught.value.reason


def smooth(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames `[T, H, W, 3]` whose colours tell place and time, and survive compression."""
    images = np.empty((count, height, width, 3), np.uint8)
    images[..., 0] = np.linspace(20, 230, width)
    images[..., 1] = np.linspace(20, 230, height)[:, None]
    images[..., 2] = np.linspace(40, 200, count)[:, None, None]
    return images


@pytest.mark.parametrize(("name", "codec", "pixels", "size"), KINDS, ids=lambda x: str(x))
def test_every_kind_of_file_gives_the_picture_that_went_in(
    tmp_path: Path, name: str, codec: str, pixels: str, size: tuple[int, int]
) -> None:
    encoder(codec)
    options = FAST if codec == "libvpx-vp9" else None
    images = smooth(8, *size)
    rate = 25 if codec == "mpeg1video" else 12
    write_clip(tmp_path / name, images, codec=codec, pixels=pixels, options=options, fps=rate)
    found = frames(tmp_path, name, size=16, resample="area")
    assert found.shape == (8, 3, 16, 16)
    expected = smooth(8, 16, 16).transpose(0, 3, 1, 2).astype(int)
    if pixels.startswith("gray"):
        assert (found == found[:, :1]).all()
        expected = np.einsum("c,tcij->tij", [0.299, 0.587, 0.114], expected)[:, None]
    assert np.abs(found.astype(int) - expected).mean() < 8


def test_squash_gives_up_the_aspect_ratio_and_crop_keeps_it(tmp_path: Path) -> None:
    images = np.zeros((3, 32, 64, 3), np.uint8)
    images[:, :, 16:48] = 255  # the square in the middle
    write_clip(tmp_path / "a.mkv", images, codec="ffv1", pixels="bgr0")
    cropped = frames(tmp_path, "a.mkv", size=16, fit="center_crop", resample="area")
    assert (cropped == 255).all()
    squashed = frames(tmp_path, "a.mkv", size=16, fit="squash", resample="area")
    assert (squashed[..., 4:12] == 255).all()
    assert (squashed[..., :4] == 0).all()


@pytest.mark.parametrize("shape", [(31, 45), (45, 31), (16, 17), (8, 100), (200, 11)])
def test_odd_sizes_are_cropped_to_the_square(tmp_path: Path, shape: tuple[int, int]) -> None:
    write_clip(tmp_path / "a.mkv", moving_bar(2, *shape), codec="ffv1", pixels="bgr0")
    assert frames(tmp_path, "a.mkv", size=24, fit="center_crop").shape == (2, 3, 24, 24)


def test_what_is_hardly_a_picture_is_not_cropped(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", moving_bar(2, 2, 200), codec="ffv1", pixels="bgr0")
    assert "200x2" in reason(tmp_path, "a.mkv", fit="center_crop")


def test_a_variable_rate_gives_each_coded_frame_or_equal_times(tmp_path: Path) -> None:
    times = [0, 1, 2, 12, 13, 30]
    images = np.stack([np.full((16, 16, 3), 40 * n, np.uint8) for n in range(6)])
    write_clip(tmp_path / "v.mkv", images, codec="ffv1", pixels="bgr0", fps=10, times=times)
    coded = frames(tmp_path, "v.mkv", size=8)[:, 0, 0, 0] // 40
    assert coded.tolist() == [0, 1, 2, 3, 4, 5]
    timed = frames(tmp_path, "v.mkv", size=8, fps=5.0)[:, 0, 0, 0] // 40
    # Every 0.2 s the frame that is shown by then, and the last one.
    shown = [max(n for n in range(6) if times[n] <= tick) for tick in range(0, 30, 2)]
    assert timed.tolist() == [*shown, 5]


@given(skip=st.integers(0, 9), every=st.integers(1, 5))
def test_skipping_counts_coded_frames(
    tmp_path_factory: pytest.TempPathFactory, skip: int, every: int
) -> None:
    folder = tmp_path_factory.mktemp("skip")
    write_clip(folder / "a.mkv", moving_bar(9, 16, 16), codec="ffv1", pixels="bgr0")
    source = VideoFolder(root=str(folder), size=16)
    whole = list(source.frames(Video("a.mkv")))
    some = VideoFolder(root=str(folder), size=16, skip=skip, every=every)
    assert np.array_equal(list(some.frames(Video("a.mkv"))), whole[skip::every])


def test_a_phones_rotation_is_undone(tmp_path: Path) -> None:
    images = np.zeros((3, 16, 16, 3), np.uint8)
    images[:, :8, :8] = 255  # upper left; after a quarter to the right it is upper right
    path = write_clip(tmp_path / "a.mp4", images)
    content = path.read_bytes()
    matrix = content.index(b"tkhd") + 4 + 4 + 8 + 4 + 4 + 4 + 8 + 2 + 2 + 2 + 2
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 16 << 16, 0, 1 << 30)
    path.write_bytes(content[:matrix] + quarter + content[matrix + 36 :])
    found = frames(tmp_path, "a.mp4", size=16)[0, 0]
    assert found[2, 13] > 200
    assert found[2, 2] < 50


# What is not whole.


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.avi", "mpeg4"),
    ("a.webm", "libvpx-vp9"), ("a.mkv", "ffv1"), ("a.mpg", "mpeg1video")])  # fmt: skip
def test_a_cut_off_file_is_refused(tmp_path: Path, name: str, codec: str) -> None:
    encoder(codec)
    options = FAST if codec == "libvpx-vp9" else None
    pixels = "gray" if codec == "ffv1" else "yuv420p"
    rate = 25 if codec == "mpeg1video" else 12
    images = moving_bar(30, 48, 64)
    path = write_clip(
        tmp_path / name, images, codec=codec, pixels=pixels, options=options, fps=rate
    )
    assert len(frames(tmp_path, name)) == 30
    os.truncate(path, path.stat().st_size * 6 // 10)
    assert reason(tmp_path, name)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", moving_bar(30, 48, 64))
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(len(content) // 3, len(content) * 2 // 3, 60):
        content[place] ^= 0xFF
    path.write_bytes(content)
    assert reason(tmp_path, "a.avi")


@pytest.mark.parametrize(
    ("name", "content"), [("a.mp4", b""), ("a.mp4", b"hello"), ("a.webm", bytes(5000))]
)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert reason(tmp_path, name)


def test_a_sound_file_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert reason(tmp_path, "a.mp4") == "it has no video stream"


def test_a_video_without_frames_is_quarantined(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "empty.avi"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        container.start_encoding()
    write_clip(tmp_path / "whole.mp4", moving_bar(3, 16, 16))
    source = VideoFolder(root=str(tmp_path))
    job = Prepare(source=lambda: source, processes=0, max_bad_share=0.5)
    shards = job.run(tmp_path / "out", console=Console(file=io.StringIO()))
    assert shards.keys == ["whole.mp4"]
    assert list(shards.quarantined()) == ["empty.avi"]


def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_bar(4, 16, 16))
    path.rename(tmp_path / "a.webm")
    assert len(frames(tmp_path, "a.webm")) == 4


def test_a_longer_sound_does_not_make_a_video_cut_off(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr0"
        sounds = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for image in moving_bar(5, 16, 16):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for number in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), "s16", "mono")
            sound.rate, sound.pts = 8000, 4000 * number
            container.mux(sounds.encode(sound))
        container.mux(stream.encode())
    assert len(frames(tmp_path, "a.mkv")) == 5


# Folders.


def test_files_are_found_in_folders_below_and_labelled_by_them(tmp_path: Path) -> None:
    for name in ("b.MP4", "walk/a.mp4", "walk/x/c.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    found = VideoFolder(root=str(tmp_path)).videos()
    assert [(v.key, v.label) for v in found] == [
        ("b.MP4", None),
        ("walk/a.mp4", "walk"),
        ("walk/x/c.webm", "x"),
    ]
    assert found[0].meta == {"bytes": "3"}


def test_no_folder_and_no_video_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="no video in") as caught:
        VideoFolder(root=str(tmp_path)).videos()
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    with pytest.raises(BadSource, match="there is no folder"):
        VideoFolder(root=str(tmp_path / "nowhere")).videos()


def test_where_the_files_lie_is_no_setting(tmp_path: Path) -> None:
    here, there = (VideoFolder(root=str(tmp_path / name)).settings() for name in "ab")
    assert here == there
    assert "PyAV" in here["decoder"]
    assert VideoFolder(root="a", size=32).settings() != here


def test_a_pipe_is_no_video_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert reason(tmp_path, "a.mp4") == "it is a pipe, not a file"


def test_a_name_is_taken_for_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "concat:a.mkv", moving_bar(2, 16, 16), codec="ffv1", pixels="bgr0")
    monkeypatch.chdir(tmp_path)
    assert frames(Path(), "concat:a.mkv", size=16).shape == (2, 3, 16, 16)
