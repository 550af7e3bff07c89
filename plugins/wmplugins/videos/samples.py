"""Tiny data in the layout of each source, for contract checks, examples and tests.

Each function makes its data once in a process, in a temporary folder that is removed at the end.
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "moving_bar",
    "sample_episodes",
    "sample_folder",
    "sample_human36m",
    "sample_ssv2",
    "sample_youtube",
    "write_clip",
]

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def moving_bar(frames: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a bar that moves over noise, uint8 `[T, H, W, 3]`."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (frames, height, width, 3), dtype=np.uint8)
    images[..., seed % 3] += 60
    for time in range(frames):
        images[time, :, (2 * time + seed) % width] = 255
    return images


def write_clip(
    path: Path,
    images: NDArray[np.uint8],
    *,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    fps: int = 12,
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode frames uint8 `[T, H, W, 3]` into a file whose ending names the container.

    Args:
        path: where to.
        images: frames.
        codec: FFmpeg's name of an encoder.
        pixels: FFmpeg's name of a pixel format.
        fps: frames per second.
        times: moment of each frame in units of 1 / fps; one after the other unless given.
        options: of the encoder.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt, stream.options = pixels, options or {}
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@cache
def sample_folder() -> str:
    """Make three clips, one of them in a folder of its own, and a text file."""
    root = _folder()
    write_clip(root / "one.mp4", moving_bar(6, 30, 44))
    write_clip(root / "two.avi", moving_bar(5, 24, 24, 1), codec="mjpeg", pixels="yuvj420p")
    write_clip(root / "walking" / "three.mkv", moving_bar(4, 33, 21, 2), codec="ffv1")
    (root / "read.me").write_text("not a video")
    return str(root)


@cache
def sample_ssv2() -> str:
    """Make `videos` with three webm files, and `labels` with their lists."""
    root = _folder()
    templates = {
        "7": "Pushing [something]",
        "12": "Dropping [something] onto [something]",
        "3": "Pushing [something]",
    }
    for number, name in enumerate(templates):
        path = root / "videos" / f"{name}.webm"
        fast = {"deadline": "realtime", "cpu-used": "8"}
        write_clip(path, moving_bar(5, 24, 42, number), codec="libvpx-vp9", options=fast)
    entries = [
        {"id": name, "label": "pushing a cup", "template": text, "placeholders": ["a cup"]}
        for name, text in templates.items()
    ]
    classes = sorted({text.replace("[", "").replace("]", "") for text in templates.values()})
    lists: dict[str, object] = {
        "labels": {name: str(number) for number, name in enumerate(classes)},
        "train": entries[:2],
        "validation": entries[2:],
        "test": [{"id": "3"}],
    }
    (root / "labels").mkdir()
    for name, content in lists.items():
        (root / "labels" / f"{name}.json").write_text(json.dumps(content))
    return str(root)


@cache
def sample_youtube() -> str:
    """Make one folder of images with a gap, and one without."""
    root = _folder()
    numbers = {"rain": [*range(9), *range(20, 28)], "night": list(range(100, 110))}
    for seed, (name, present) in enumerate(numbers.items()):
        (root / name).mkdir()
        for number, image in zip(present, moving_bar(len(present), 18, 32, seed), strict=True):
            Image.fromarray(image).save(root / name / f"{number:06d}.jpg")
    return str(root)


@cache
def sample_human36m() -> str:
    """Make two videos of three images each, their list and joints."""
    root = _folder()
    (root / "images").mkdir()
    names, joints = [], []
    for seed, video in enumerate(("S1_Directions 1.54138969", "S9_Walking.60457274")):
        for number, image in enumerate(moving_bar(3, 300, 320, seed)):
            names.append(f"{video}_{5 * number + 1:06d}.jpg")
            Image.fromarray(image).save(root / "images" / names[-1])
            joints.append([[100 + number, 120], [140, 150], [130, 180]])
    (root / "train_images.txt").write_text("\n".join(names) + "\n")
    np.savez(root / "train.npz", part=np.array(joints, np.float32))
    return str(root)


@cache
def sample_episodes() -> str:
    """Make two episodes in DreamerV2's format."""
    root = _folder()
    for seed, task in enumerate(("open_drawer", "reach_target")):
        (root / task).mkdir()
        images = moving_bar(4 + seed, 16 + 4 * seed, 16 + 4 * seed, seed)
        np.savez_compressed(root / task / "episode.npz", image=images, reward=np.zeros(len(images)))
    return str(root)


def _folder() -> Path:
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="wmplatform-sample-"))
    return Path(_FOLDERS[-1].name)
