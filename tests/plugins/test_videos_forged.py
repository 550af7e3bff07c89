"""Datasets that somebody else wrote: no size is believed, and nobody waits for a pipe."""

import json
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wmplatform.interfaces import Video, VideoSource
from wmplatform.videos import BadSource
from wmplatform.videos.errors import UnreadableVideo
from wmplugins.videos.human36m import Human36M
from wmplugins.videos.rlbench import NpzEpisodes
from wmplugins.videos.samples import moving_bar, sample_ssv2
from wmplugins.videos.youtube_driving import YouTubeDriving


def keys(source: VideoSource) -> list[str]:
    return [video.key for video in source.videos()]


def frames(source: VideoSource, key: str) -> np.ndarray:
    return np.stack(list(source.frames(Video(key))))


def something(**settings: Any) -> VideoSource:
    pytest.importorskip("av")
    from wmplugins.videos.ssv2 import SomethingSomething

    root = Path(sample_ssv2())
    where = {"root": str(root / "videos"), "labels": str(root / "labels")}
    return SomethingSomething(**{**where, **settings})


def npz(path: Path, header: str, body: bytes = b"", *, name: str = "image") -> None:
    """Write an .npz whose header says what it likes."""
    text = header.encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content)


def described(shape: str, dtype: str = "|u1", order: str = "False") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}"


def reason(folder: Path, key: str = "0.npz") -> str:
    with pytest.raises(UnreadableVideo) as caught:
        frames(NpzEpisodes(root=str(folder), size=16), key)
    return caught.value.reason


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (described("(1099511627776, 16, 16, 3)"), "would take 844424930131968 bytes"),
        (described("(4, 65536, 65536, 3)"), "would take"),
        (described("(1, 32768, 32768, 3)"), "too large"),
        (described("(4, 16, 16, 3)", order="True"), "not in order of time"),
        (described("(-4, 16, 16, 3)"), "header is damaged"),
        (described("(4, 0, 16, 3)"), "not uint8"),
        (described("(4, 16, 16)"), "not uint8"),
        (described("(4, 16, 16, 3)", "<f8"), "not uint8"),
        (described("(4, 16, 16, 3)", "|O"), "one of objects"),
        (described("()"), "0 axes"),
        (described("(1,)", "<f3"), "unknown dtype"),
        ("(" * 5000, "header is damaged"),
        ("x" * 60_000, "header is damaged"),
        (described("(4, 16, 16, 3)"), "ends early"),
    ],
)
def test_an_episode_is_believed_no_size(tmp_path: Path, header: str, said: str) -> None:
    npz(tmp_path / "0.npz", header, bytes(768))
    assert said in reason(tmp_path)


def test_an_episode_is_read_one_image_at_a_time(tmp_path: Path) -> None:
    """A gigabyte of zeros takes a megabyte on the disk; whoever reads it holds one image."""
    images = described("(80, 2048, 2048, 3)")
    npz(tmp_path / "0.npz", images, bytes(2 * 12 * 2**20))
    tracemalloc.start()
    source = NpzEpisodes(root=str(tmp_path), size=16).frames(Video("0.npz"))
    assert next(source).shape == (3, 16, 16)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100 * 2**20


@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder", "sparse", "nowhere"])
def test_a_file_that_is_none_is_quarantined_and_nobody_waits(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "0.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to("/dev/zero" if kind == "zeros" else "/nowhere")
    assert keys(NpzEpisodes(root=str(tmp_path))) == ["0.npz"]
    assert reason(tmp_path)


def test_links_in_a_dataset_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    np.savez(tmp_path / "store" / "blob", image=moving_bar(3, 16, 16))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.npz").symlink_to(tmp_path / "store" / "blob.npz")
    assert frames(NpzEpisodes(root=str(tmp_path / "data"), size=16), "0.npz").shape == (
        3,
        3,
        16,
        16,
    )


def test_an_image_that_is_a_pipe_is_no_image(tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20)).save(folder / f"{number}.png")
    (folder / "2.png").unlink()
    os.mkfifo(folder / "2.png")
    source = YouTubeDriving(root=str(tmp_path), size=16, skip=0, every=1)
    with pytest.raises(UnreadableVideo, match="an image is a pipe"):
        frames(source, "drive/0")


def joints(folder: Path, **files: Any) -> Human36M:
    (folder / "list.txt").write_text("S1_Directions.54138969_000001.jpg\n")
    (name,) = files
    return Human36M(root=str(folder), lists=("list.txt",), joints=(f"{name}.{files[name]}",))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (described("(1, 1099511627776, 2)", "<f8"), "would take"),
        (described("(1, 2000, 2)", "<f8"), "for 1 images"),
        (described("(1, 2, 2)", "|O"), "one of objects"),
        (described("(1, 2, 2)", "<c8"), "of dtype complex64"),
        (described("(1, 2, 2)", "<f8"), "ends early"),
    ],
)
def test_joints_are_believed_no_size(tmp_path: Path, header: str, said: str) -> None:
    npz(tmp_path / "joints.npz", header, name="part")
    with pytest.raises(BadSource, match=said):
        joints(tmp_path, joints="npz").videos()


@pytest.mark.parametrize(
    "content", ["3", "{", '{"S1_Directions.54138969_000001.jpg": [1, 2]}', "[" * 10**5, '{"a": 1}']
)
def test_a_list_of_boxes_gives_four_numbers_each(tmp_path: Path, content: str) -> None:
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(BadSource, match="four numbers"):
        joints(tmp_path, boxes="json").videos()


@pytest.mark.parametrize("entry", [3, {}, {"id": "../../etc/x"}, {"id": "1", "template": 3}])
def test_ssv2_lists_name_files_below_its_folder(tmp_path: Path, entry: Any) -> None:
    (tmp_path / "train.json").write_text(json.dumps([entry]))
    with pytest.raises(BadSource, match="no such list"):
        something(labels=str(tmp_path)).videos()
    (tmp_path / "train.json").unlink()
    os.mkfifo(tmp_path / "something-something-v2-train.json")
    with pytest.raises(BadSource, match=r"there is no|pipe"):
        something(labels=str(tmp_path)).videos()
