"""Prepared videos on the disk: flat uint8 files that are read as memory maps.

    manifest.json        written last: source and settings, sizes, checksums, counts, and a seal
    videos.jsonl         one line a video: key, label, group, shard, first frame, frames
    quarantine.jsonl     one line for each video that could not be used: key and reason
    frames-00003-00.u8   frames `[n, C, H, W]` of consecutive videos, nothing else

No video crosses a file, so a clip is one slice. The manifest's format is 2; format 1, which had no
seal, is read as well. This file imports no torch.
"""

import hashlib
import math
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.files import CannotRead, is_sealed, open_regular, parse_json, read_regular
from wmplatform.forms import ANY, REAL, TEXT, Either, Holding, Many, Maybe, Named, Whole, check_form
from wmplatform.videos.errors import UnreadableShards

__all__ = ["FILE", "FORMAT", "MANIFEST", "QUARANTINE", "VIDEOS", "Shards", "file_sha256"]

FORMAT = 2
_UNSEALED = 1
MANIFEST = "manifest.json"
VIDEOS = "videos.jsonl"
QUARANTINE = "quarantine.jsonl"

Frames = NDArray[np.uint8]

_BLOCK_BYTES = 1 << 22
_MOST_MANIFEST_BYTES = 1 << 25
_MOST_LIST_BYTES = 1 << 29
_MOST_FRAME_BYTES = 1 << 28
_NAME = re.compile(r"frames-[0-9]{5,}-[0-9]{2,}\.u8")
FILE = {"file": TEXT, "frames": Whole(), "bytes": Whole(), "sha256": TEXT}
"""Of which form a file of frames is described."""
_FORM = Holding(
    {
        "fingerprint": TEXT,
        "frame_shape": Many(Whole(least=1), 3),
        "group_weights": Named(REAL),
        "videos": Holding(
            {"count": Whole(), "frames": Whole(), "quarantined": Whole(), "sha256": TEXT}
        ),
        "quarantine_sha256": Maybe(TEXT),  # format 1 had none
        "shards": Many(FILE),
        "plan": Holding({"source": Named(ANY)}),
    }
)
_ROW = {
    "key": TEXT,
    "label": Either(None, TEXT),
    "group": TEXT,
    "shard": Whole(),
    "start": Whole(),
    "frames": Whole(least=1),
}
_BAD_ROW = {"key": TEXT, "reason": TEXT}


class Shards:
    """The prepared videos in one folder. Opening reads the manifest and the list of videos.

    Args:
        folder: where `wmplatform prepare` wrote.

    Raises:
        UnreadableShards: a file is missing, a link, of another size or of another format; likewise
            of the list of videos, which is read when it is first asked for.
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
        rows = self._listed(VIDEOS, self.manifest["videos"]["sha256"], _ROW)
        shards, weights = self.manifest["shards"], self.manifest["group_weights"]
        for row in rows:
            known = row["shard"] < len(shards) and row["group"] in weights
            if not known or row["start"] + row["frames"] > shards[row["shard"]]["frames"]:
                what = f"{row['key']!r} lies where there are no frames"
                raise UnreadableShards(self.folder / VIDEOS, what)
        return rows

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
        rows = self._listed(QUARANTINE, self.manifest.get("quarantine_sha256"), _BAD_ROW)
        return {row["key"]: row["reason"] for row in rows}

    def _map(self, shard: int) -> Frames:
        if shard not in self._maps:
            entry = self.manifest["shards"][shard]
            shape = (entry["frames"], *self.frame_shape)
            with open_regular(self.folder / entry["file"]) as file:
                self._maps[shard] = np.memmap(file, np.uint8, "r", shape=shape)
        return self._maps[shard]

    def _listed(self, name: str, sha256: str | None, form: Any) -> list[dict[str, Any]]:
        """Read one of the lists, a JSON object a line."""
        content = self._content(name, _MOST_LIST_BYTES)
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise UnreadableShards(self.folder / name, "the checksum of the list differs")
        try:
            rows: list[dict[str, Any]] = [parse_json(line) for line in content.splitlines()]
            check_form(rows, Many(form))
        except ValueError as error:
            raise UnreadableShards(self.folder / name, f"the list is damaged: {error}") from None
        return rows

    def _content(self, name: str, at_most: int) -> bytes:
        try:
            return read_regular(self.folder / name, at_most=at_most)
        except CannotRead as error:
            raise UnreadableShards(self.folder / name, error.what) from None

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not os.path.lexists(path):
            what = "there is no manifest"
            if (self.folder / "blocks").exists():
                what, hint = "the work is not finished", "start the same command again"
                raise UnreadableShards(self.folder, what, hint)
            raise UnreadableShards(self.folder, what, "wmplatform prepare --help")
        try:
            manifest = parse_json(self._content(MANIFEST, _MOST_MANIFEST_BYTES))
        except ValueError as error:
            raise UnreadableShards(path, f"the manifest is not JSON: {error}") from None
        if not isinstance(manifest, dict) or manifest.get("format") not in (_UNSEALED, FORMAT):
            raise UnreadableShards(path, f"the manifest is not of format {FORMAT} or {_UNSEALED}")
        if manifest["format"] != _UNSEALED and not is_sealed(manifest):
            raise UnreadableShards(path, "the manifest was altered: its seal differs")
        try:
            check_form(manifest, _FORM)
        except ValueError as error:
            raise UnreadableShards(path, f"the manifest is damaged: {error}") from None
        frame_bytes = math.prod(manifest["frame_shape"])
        weights = manifest["group_weights"].values()
        if frame_bytes > _MOST_FRAME_BYTES or not all(0 < x < math.inf for x in weights):
            raise UnreadableShards(path, "the manifest has frames or weights that no source has")
        return manifest

    def _check_sizes(self) -> None:
        frame_bytes = math.prod(self.frame_shape)
        for entry in self.manifest["shards"]:
            path = self.folder / entry["file"]
            if not _NAME.fullmatch(entry["file"]):
                raise UnreadableShards(path, "no shard has such a name")
            if entry["bytes"] != entry["frames"] * frame_bytes:
                what = f"{entry['frames']} frames do not have {entry['bytes']} bytes"
                raise UnreadableShards(path, what)
            try:
                with open_regular(path) as file:
                    size = os.fstat(file.fileno()).st_size
            except CannotRead as error:
                raise UnreadableShards(path, f"the shard {error.what}") from None
            if size != entry["bytes"]:
                what = f"a shard has {size} bytes, {entry['bytes']} were written"
                raise UnreadableShards(path, what)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        UnreadableShards: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except (CannotRead, OSError) as error:
        raise UnreadableShards(path, f"cannot be read: {error}") from None
    return digest.hexdigest()
