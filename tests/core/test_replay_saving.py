"""Replay on the disk: increments, kills, damage, a full disk; and batches drawn ahead."""

import errno
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from wmplatform.files import DiskFull
from wmplatform.interfaces.env_adapter import EnvSpec
from wmplatform.replay import (
    Prefetcher,
    Replay,
    ReplayMismatch,
    Segments,
    Transitions,
    UnreadableReplay,
    buffer,
    chunks,
    prune,
)

from .. import warm
from .replay_data import SPEC, episode, equal, filled, records


def restored(folder: Path, manifest: Any, **settings: Any) -> Replay:
    replay = Replay(SPEC, **{"capacity": 1000, "seed": 77, **settings})
    replay.restore(folder, manifest)
    return replay


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same_future(a: Replay, b: Replay) -> bool:
    """Whether both hold the same and go on alike."""
    for each in (a, b):
        each.extend(episode(6, number=900))
    pairs = [(a.segments(9, 3), b.segments(9, 3)) for _ in range(3)]
    return len(a) == len(b) and all(equal(*pair) for pair in pairs)


def test_a_restored_replay_goes_on_bit_for_bit(tmp_path: Path) -> None:
    replay = filled([5, 9, 3])
    replay.segments(3, 3)
    replay.extend(episode(4, number=20, running=True))
    manifest = json.loads(json.dumps(replay.save(tmp_path)))
    again = restored(tmp_path, manifest)
    assert again.episodes == 3
    assert same_future(replay, again)


def test_a_save_writes_new_records_only(tmp_path: Path) -> None:
    replay = filled([5])
    first = replay.save(tmp_path)
    names = files(tmp_path)
    assert replay.save(tmp_path)["chunks"] == first["chunks"]
    assert files(tmp_path) == names
    replay.extend(episode(2, number=6))
    second = replay.save(tmp_path)
    assert second["chunks"][:-1] == first["chunks"]
    assert second["chunks"][-1]["spans"] == [[0, 6, 3]]
    assert len(restored(tmp_path, first)) == 6
    assert same_future(replay, restored(tmp_path, second))


def test_overwritten_records_leave_the_manifest_and_then_the_disk(tmp_path: Path) -> None:
    replay = filled([4], capacity=10)
    manifests = [replay.save(tmp_path)]
    for i in range(4):
        replay.extend(episode(4, number=5 + 5 * i))
        manifests.append(replay.save(tmp_path))
    assert [len(each["chunks"]) for each in manifests] == [1, 2, 2, 2, 2]
    assert len(files(tmp_path)) == 5
    gone = prune(tmp_path, manifests[-2:])
    assert len(gone) == 2
    assert files(tmp_path) == {c["file"] for each in manifests[-2:] for c in each["chunks"]}
    assert same_future(replay, restored(tmp_path, manifests[-1], capacity=10))


def test_large_saves_are_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "_CHUNK_BYTES", 100)
    replay = Replay(SPEC, 2, capacity=100)
    replay.extend(torch.cat([episode(9), episode(12, stream=1)]))
    manifest = replay.save(tmp_path)
    assert len(manifest["chunks"]) == 6  # 23 records of 23 bytes, four in a file
    again = Replay(SPEC, 2, capacity=100)
    again.restore(tmp_path, manifest)
    assert equal(replay.segments(20, 4), again.segments(20, 4))


def test_an_episode_that_is_closed_after_it_was_saved_stays_closed(tmp_path: Path) -> None:
    replay = Replay(SPEC, capacity=100)
    replay.extend(episode(5, running=True))
    before = replay.save(tmp_path)
    replay.close_stream(0)
    after = replay.save(tmp_path)
    assert restored(tmp_path, before).episodes == 0
    again = restored(tmp_path, after)
    assert again.episodes == 1
    assert again.segments(1, 6)["is_last"][0, -1]
    third = restored(tmp_path, again.save(tmp_path))
    assert third.episodes == 1


def test_a_larger_ring_takes_everything_and_a_smaller_one_the_newest(tmp_path: Path) -> None:
    manifest = filled([4, 4, 4], capacity=15).save(tmp_path)
    assert restored(tmp_path, manifest, capacity=400).episodes == 3
    small = restored(tmp_path, manifest, capacity=10)
    assert (small.episodes, len(small)) == (2, 10)
    assert small.segments(30, 2)["reward"].min() == 5


def test_another_folder_gets_everything(tmp_path: Path) -> None:
    replay = filled([4, 4])
    replay.save(tmp_path / "a")
    manifest = replay.save(tmp_path / "b")
    assert same_future(replay, restored(tmp_path / "b", manifest))


def test_a_full_disk_leaves_no_trace_and_the_next_save_has_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = filled([4])
    first = replay.save(tmp_path)
    names = files(tmp_path)
    replay.extend(episode(30, number=5))

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(chunks, "write_durably", full)
        with pytest.raises(DiskFull, match="new records"):
            replay.save(tmp_path)
    assert files(tmp_path) == names
    assert len(restored(tmp_path, first)) == 5
    assert same_future(replay, restored(tmp_path, replay.save(tmp_path)))


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    manifest = filled([4]).save(tmp_path)
    path = tmp_path / manifest["chunks"][0]["file"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableReplay, match="damaged") as caught:
        restored(tmp_path, manifest)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(UnreadableReplay, match="missing"):
        restored(tmp_path, manifest)


@pytest.mark.parametrize("kind", ["link", "pipe", "sparse"])
def test_records_are_read_from_regular_files_of_their_size(tmp_path: Path, kind: str) -> None:
    manifest = filled([4]).save(tmp_path / "records")
    path = tmp_path / "records" / manifest["chunks"][0]["file"]
    path.rename(tmp_path / "outside")
    if kind == "link":
        path.symlink_to(tmp_path / "outside")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 42)
        manifest["chunks"][0]["size_bytes"] = 1 << 42
    with pytest.raises(UnreadableReplay) as caught:
        restored(tmp_path / "records", manifest)
    assert caught.value.path == path


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "records-1.safetensors"])
def test_records_lie_in_files_of_replay_only(tmp_path: Path, name: str) -> None:
    manifest = filled([4]).save(tmp_path / "records")
    (tmp_path / "records" / manifest["chunks"][0]["file"]).rename(tmp_path / "outside.safetensors")
    manifest["chunks"][0]["file"] = name
    with pytest.raises(UnreadableReplay, match="no file of records has"):
        restored(tmp_path / "records", manifest)


def change(manifest: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Give a copy of a manifest with another value in one place."""
    changed = json.loads(json.dumps(manifest))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("heads", 0), -1),
        (("heads", 0), 1 << 50),
        (("heads", 0), 4),
        (("heads",), []),
        (("heads",), {}),
        (("closed",), [[0, 9]]),
        (("closed",), [[3, 0]]),
        (("closed",), [[0]]),
        (("chunks", 0, "spans"), [[0, 0, 1 << 41]]),  # 18 TB of positions
        (("chunks", 0, "spans"), [[0, 0, 4]]),
        (("chunks", 0, "spans"), [[7, 0, 5]]),
        (("chunks", 0, "spans"), [[0, 0, 5], [0, 0, 5]]),
        (("chunks", 0, "spans"), [[0, -5, 5]]),
        (("chunks", 0, "spans"), "x"),
        (("chunks", 0, "size_bytes"), 2.5),
        (("chunks", 0), None),
        (("chunks",), []),
        (("generator",), "AAAA"),
        (("generator",), "no base 64"),
        (("generator",), None),
    ],
)
def test_a_forged_manifest_is_refused_before_anything_is_allocated(
    tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    manifest = filled([4]).save(tmp_path)
    with pytest.raises((ValueError, UnreadableReplay)):
        restored(tmp_path, change(manifest, path, value))


def test_files_of_other_columns_are_refused_by_their_header(tmp_path: Path) -> None:
    manifest = filled([4]).save(tmp_path)
    path = tmp_path / manifest["chunks"][0]["file"]
    columns = safetensors.torch.load(path.read_bytes())
    columns["reward"] = columns["reward"].double()
    content = safetensors.torch.save(columns)
    path.write_bytes(content)
    manifest["chunks"][0] |= {
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    with pytest.raises(UnreadableReplay, match=r"reward is float64 \[5\], not float32 \[5\]"):
        restored(tmp_path, manifest)


def test_a_larger_ring_makes_no_episode_of_records_that_are_gone(tmp_path: Path) -> None:
    """Stream 1's oldest records keep a file in which stream 0's are long overwritten."""
    replay = Replay(SPEC, 2, capacity=20)
    replay.extend(torch.cat([episode(5, running=True), episode(5, stream=1)]))
    replay.save(tmp_path)
    replay.extend(records([False] * 6, [False] * 6, number=6))
    replay.save(tmp_path)
    replay.extend(records([False] * 5, [False] * 5, number=12))
    replay.extend(episode(4, number=17))
    manifest = replay.save(tmp_path)
    assert [chunk["spans"][0] for chunk in manifest["chunks"]] == [[0, 0, 6], [0, 12, 10]]
    larger = Replay(SPEC, 2, capacity=200)
    larger.restore(tmp_path, manifest)
    assert replay.episodes == larger.episodes == 2
    lengths = {int(each) for each in larger.sampler._long_enough(1)[2]}
    assert lengths == {5, 6}


def test_a_replay_of_another_layout_is_refused(tmp_path: Path) -> None:
    manifest = filled([4]).save(tmp_path)
    with pytest.raises(ReplayMismatch, match="streams 1, this run has 2"):
        Replay(SPEC, 2, capacity=100).restore(tmp_path, manifest)
    other = EnvSpec(SPEC.observations, SPEC.action)
    with pytest.raises(ReplayMismatch, match="columns"):
        Replay(other, capacity=100).restore(tmp_path, manifest)


WRITER = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.core.replay_data import SPEC, episode
from wmplatform.files import replace_file
from wmplatform.replay import Replay, prune
folder = Path(sys.argv[1])
replay, number, kept = Replay(SPEC, capacity=3000), 0, []
while True:
    replay.extend(episode(50, number=number, running=number % 2 == 0))
    number += 51
    kept = [*kept, replay.save(folder / "records")][-2:]
    replace_file(folder / "manifest.json", json.dumps(kept[-1]))
    prune(folder / "records", kept)
"""


@pytest.mark.parametrize("attempts", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_last_complete_save(tmp_path: Path, attempts: int) -> None:
    for attempt in range(attempts):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = warm.start(WRITER, folder)
        process.wait_for((folder / "manifest.json").exists)
        time.sleep(0.03 + 0.337 * attempt / attempts)
        process.send_signal(signal.SIGKILL)
        process.finish()
        manifest = json.loads((folder / "manifest.json").read_text())
        replay = restored(folder / "records", manifest, capacity=3000)
        (head,) = manifest["heads"]
        held = torch.arange(max(0, head - 3000), head)
        rows = torch.from_numpy(replay.writer.rows_of(0, held.numpy()))
        assert torch.equal(replay.storage.column("reward")[rows], held.float())
        assert torch.equal(replay.storage.column("is_first")[rows], held % 51 == 0)
        prune(folder / "records", [manifest])
        assert files(folder / "records") == {c["file"] for c in manifest["chunks"]}


def test_batches_drawn_ahead_repeat_whatever_the_timing() -> None:
    def play(pause_s: float) -> list[Any]:
        replay, found = filled([30, 9], capacity=60), []
        ahead = Prefetcher(replay, Segments(batch=8, length=5))
        for i in range(12):
            found.append(ahead.sample())
            time.sleep(pause_s * (i % 3))
            replay.extend(episode(9, number=100 + 10 * i))
        ahead.close()
        return found

    assert all(equal(*pair) for pair in zip(play(0.0), play(0.004), strict=True))


@pytest.mark.parametrize(
    "request_", [Segments(batch=4, length=3), Transitions(batch=4, n=2, stack=2)]
)
def test_batches_drawn_ahead_survive_a_restart(tmp_path: Path, request_: Any) -> None:
    replay = filled([30])
    ahead = Prefetcher(replay, request_)
    ahead.sample()
    manifest, state = replay.save(tmp_path), ahead.state_dict()
    replay_again = restored(tmp_path, manifest)
    again = Prefetcher(replay_again, request_)
    again.load_state_dict(state)
    for i in range(3):
        assert equal(ahead.sample(), again.sample())
        for each in (replay, replay_again):
            each.extend(episode(4, number=100 + 5 * i))
    ahead.close()
    again.close()


def test_an_error_in_drawing_ahead_reaches_the_caller() -> None:
    replay = filled([3])
    ahead = Prefetcher(replay, Segments(batch=2, length=9))
    with pytest.raises(Exception, match="no episode has the 9 records"):
        ahead.sample()
    ahead.close()
