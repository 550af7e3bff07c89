"""Prepared videos on the disk: flat uint8 files that are read as memory maps.

    manifest.json        written last: source and settings, sizes, checksums, counts
    videos.jsonl         one line a video: key, label, group, shard, first frame, frames
    quarantine.jsonl     one line for each video that could not be used: key and reason
    frames-00003-00.u8   frames `[n, C, H, W]` of consecutive videos, nothing else

No video crosses a file, so a clip is one slice. This file imports no torch.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.videos.errors import UnreadableShards

__all__ = ["FORMAT", "MANIFEST", "QUARANTINE", "VIDEOS", "Shards", "file_sha256"]

FORMAT = 1
MANIFEST = "manifest.json"
VIDEOS = "videos.jsonl"
QUARANTINE = "quarantine.jsonl"

Frames = NDArray[np.uint8]

_BLOCK_BYTES = 1 << 22


class Shards:
    """The prepared videos in one folder. Opening reads the manifest and the list of videos.

    Args:
        folder: where `wmplatform prepare` wrote.

    Raises:
        UnreadableShards: a file is missing, of another size or of another format.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = self._read_manifest()
        self._maps: dict[int, Frames] = {}
        self._check_sizes()

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every frame."""
        channels, height, width = self.manifest["frame_shape"]
        return channels, height, width

    @property
    def group_weights(self) -> Mapping[str, float]:
        """How often each group of videos is drawn, relative to the others."""
        weights: dict[str, float] = self.manifest["group_weights"]
        return weights

    @property
    def fingerprint(self) -> str:
        """Equal for equal videos in equal order, wherever they lie."""
        return str(self.manifest["fingerprint"])

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        content = self._content(VIDEOS)
        if hashlib.sha256(content).hexdigest() != self.manifest["videos"]["sha256"]:
            raise UnreadableShards(self.folder / VIDEOS, "the checksum of the list differs")
        return [json.loads(line) for line in content.splitlines()]

    @cached_property
    def keys(self) -> list[str]:
        """Key of each video."""
        return [row["key"] for row in self._rows]

    @cached_property
    def labels(self) -> list[str | None]:
        """Label of each video."""
        return [row["label"] for row in self._rows]

    @cached_property
    def groups(self) -> list[str]:
        """Group of each video."""
        return [row["group"] for row in self._rows]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each video `[V]`."""
        return np.array([row["frames"] for row in self._rows], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def video(self, number: int) -> Frames:
        """Return all frames of a video, uint8 `[n, C, H, W]`, read from the disk when touched."""
        row = self._rows[number]
        shard: Frames = self._map(row["shard"])[row["start"] : row["start"] + row["frames"]]
        return shard

    def clip(self, number: int, start: int, length: int, stride: int = 1) -> Frames:
        """Return frames `start, start + stride, ...` of a video, uint8 `[length, C, H, W]`.

        Raises:
            IndexError: the video has no such frames.
        """
        end = start + (length - 1) * stride + 1
        if start < 0 or length < 1 or end > self._rows[number]["frames"]:
            raise IndexError(f"{self.keys[number]} has no frames {start}..{end - 1}")
        return self.video(number)[start:end:stride]

    def verify(self) -> int:
        """Read every shard and compare its checksum; return the bytes that were read.

        Raises:
            UnreadableShards: names the first damaged file.
        """
        total = 0
        for entry in self.manifest["shards"]:
            path = self.folder / entry["file"]
            if file_sha256(path) != entry["sha256"]:
                raise UnreadableShards(path, "a shard is damaged: its checksum differs")
            total += entry["bytes"]
        return total

    def quarantined(self) -> dict[str, str]:
        """Give the reason for each video that could not be used, by key."""
        lines = self._content(QUARANTINE).splitlines()
        return {row["key"]: row["reason"] for row in map(json.loads, lines)}

    def _map(self, shard: int) -> Frames:
        if shard not in self._maps:
            entry = self.manifest["shards"][shard]
            shape = (entry["frames"], *self.frame_shape)
            self._maps[shard] = np.memmap(self.folder / entry["file"], np.uint8, "r", shape=shape)
        return self._maps[shard]

    def _content(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            raise UnreadableShards(self.folder / name, what) from None

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not path.exists():
            what = "there is no manifest"
            if (self.folder / "blocks").exists():
                what, hint = "the work is not finished", "start the same command again"
                raise UnreadableShards(self.folder, what, hint)
            raise UnreadableShards(self.folder, what, "wmplatform prepare --help")
        try:
            manifest: dict[str, Any] = json.loads(self._content(MANIFEST))
        except ValueError as error:
            raise UnreadableShards(path, f"the manifest is not JSON: {error}") from None
        if manifest.get("format") != FORMAT:
            raise UnreadableShards(path, f"the manifest is not of format {FORMAT}")
        return manifest

    def _check_sizes(self) -> None:
        for entry in self.manifest["shards"]:
            path = self.folder / entry["file"]
            size = path.stat().st_size if path.exists() else None
            if size != entry["bytes"]:
                what = "a shard is missing" if size is None else f"a shard has {size} bytes"
                raise UnreadableShards(path, f"{what}, {entry['bytes']} were written")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        UnreadableShards: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise UnreadableShards(path, f"cannot be read: {error.strerror}") from None
    return digest.hexdigest()
