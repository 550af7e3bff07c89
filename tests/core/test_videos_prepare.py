"""Preparing: what ends up in the shards, whatever happens on the way."""

import hashlib
import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import DiskFull, ForeignFile, sealed
from wmplatform.interfaces import Video, VideoSource
from wmplatform.videos import (
    BadSource,
    OtherVideos,
    Prepare,
    Shards,
    TooManyBad,
    UnreadableShards,
    blocks,
)
from wmplatform.videos.errors import FolderBusy
from wmplatform.videos.progress import PrepareProgress

from .counting_videos import CountingVideos

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module", autouse=True)
def _few_blocks_and_quick_disks() -> Iterator[None]:
    """Let a dozen videos make blocks of several; do not wait for the disk a thousand times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCKS", 5)
        patch.setattr(os, "fsync", lambda _: None)
        yield


def prepare(source: VideoSource, out: Path, **settings: object) -> Shards:
    settings = {"processes": 0, "max_bad_share": 0.5, **settings}
    return Prepare(source=lambda: source, **settings).run(out, console=QUIET)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=14),
    shard_frames=st.integers(1, 7),
)
def test_every_frame_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shard_frames: int
) -> None:
    source = CountingVideos(lengths)
    out = tmp_path_factory.mktemp("shards")
    used = [number for number, length in enumerate(lengths) if length]
    if not used:
        with pytest.raises(TooManyBad):
            prepare(source, out, max_bad_share=1.0)
        return
    shards = prepare(source, out, max_bad_share=1.0, shard_bytes=shard_frames * 24)
    assert shards.keys == [f"v{number:03d}" for number in used]
    assert shards.lengths.tolist() == [lengths[number] for number in used]
    for place, number in enumerate(used):
        assert np.array_equal(shards.video(place), source.whole(number))
    assert set(shards.quarantined().values()) <= {"it has no frames"}
    assert len(shards) + len(shards.quarantined()) == len(lengths)
    longest = max(lengths)
    sizes = [entry["frames"] for entry in shards.manifest["shards"]]
    assert all(0 < size < shard_frames + longest for size in sizes)
    assert shards.verify() == 24 * sum(lengths)


def test_clips_are_slices_and_end_where_the_video_ends(tmp_path: Path) -> None:
    source = CountingVideos([5, 9])
    shards = prepare(source, tmp_path)
    assert np.array_equal(shards.clip(1, 2, 3, stride=3), source.whole(1)[2:9:3])
    for start, length, stride in ((3, 3, 1), (-1, 2, 1), (0, 2, 5)):
        with pytest.raises(IndexError, match="v000"):
            shards.clip(0, start, length, stride)


def test_manifest_says_what_was_done(tmp_path: Path) -> None:
    source = CountingVideos([3, 4, 2], bad={1: "cut off"}, labels=["a", "b", "a"])
    shards = prepare(source, tmp_path)
    assert shards.manifest["plan"]["source"] == {"class": "CountingVideos", "lengths": [3, 4, 2]}
    counts = shards.manifest["videos"]
    assert (counts["count"], counts["frames"], counts["quarantined"]) == (2, 5, 1)
    assert shards.quarantined() == {"v001": "cut off"}
    assert shards.labels == ["a", "a"]
    assert shards.frame_shape == (3, 2, 4)
    assert not (tmp_path / "blocks").exists()


def test_too_many_bad_videos_fail_and_lose_nothing(tmp_path: Path) -> None:
    source = CountingVideos([3] * 10, bad={1: "cut off", 2: "no video", 5: "cut off"})
    with pytest.raises(TooManyBad, match="3 of 10") as caught:
        prepare(source, tmp_path, max_bad_share=0.2)
    assert "2 x cut off" in caught.value.where
    assert caught.value.bad == {"v001": "cut off", "v002": "no video", "v005": "cut off"}
    before = list(source.decoded)
    shards = prepare(source, tmp_path, max_bad_share=0.3)
    assert len(shards) == 7
    assert not set(before) & set(source.decoded[len(before) :])


def test_a_source_that_breaks_its_word_is_quarantined(tmp_path: Path) -> None:
    class Floats(CountingVideos):
        def frames(self, video: Video) -> Iterator[np.ndarray]:
            for frame in super().frames(video):
                yield frame.astype(np.float32) if video.key == "v001" else frame

    assert "float32" in prepare(Floats([2, 2, 2]), tmp_path).quarantined()["v001"]


def test_a_damaged_header_that_asks_for_all_memory_is_quarantined(tmp_path: Path) -> None:
    class Huge(CountingVideos):
        def frames(self, video: Video) -> Iterator[np.ndarray]:
            if video.key == "v000":
                raise MemoryError
            return super().frames(video)

    assert prepare(Huge([2, 2]), tmp_path).quarantined() == {"v000": "MemoryError"}


def test_an_error_that_concerns_all_videos_is_passed_on(tmp_path: Path) -> None:
    class NoGL(PlatformError):
        exit_code = ExitCode.ENVIRONMENT

    class NeedsGL(CountingVideos):
        def frames(self, video: Video) -> Iterator[np.ndarray]:
            raise NoGL("no GL", hint="apt-get install it")

    with pytest.raises(PlatformError, match="no GL"):
        prepare(NeedsGL([2]), tmp_path)


def test_a_source_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="no videos"):
        prepare(CountingVideos([]), tmp_path)


def test_skipped_videos_are_not_touched(tmp_path: Path) -> None:
    source = CountingVideos([2, 2])
    shards = prepare(source, tmp_path, skip=("v000",))
    assert source.decoded == ["v001"]
    assert "Prepare.skip" in shards.quarantined()["v000"]


def test_a_finished_folder_is_opened_without_decoding(tmp_path: Path) -> None:
    source = CountingVideos([2, 3])
    prepare(source, tmp_path)
    before, source.decoded[:] = content(tmp_path), []
    assert len(prepare(source, tmp_path)) == 2
    assert source.decoded == []
    assert content(tmp_path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_videos_in_the_same_folder_are_refused(tmp_path: Path, finished: bool) -> None:
    if finished:
        prepare(CountingVideos([2, 3]), tmp_path)
    else:
        with pytest.raises(TooManyBad):
            prepare(CountingVideos([2, 3], bad={0: "bad"}), tmp_path, max_bad_share=0.0)
    with pytest.raises(OtherVideos) as caught:
        prepare(CountingVideos([2, 4]), tmp_path)
    assert "source.lengths: was [2, 3], is [2, 4]" in caught.value.differences


def test_two_processes_are_kept_apart(tmp_path: Path) -> None:
    class Nosy(CountingVideos):
        def frames(self, video: Video) -> Iterator[np.ndarray]:
            with pytest.raises(FolderBusy):
                prepare(CountingVideos([2]), tmp_path)
            return super().frames(video)

    assert len(prepare(Nosy([2]), tmp_path)) == 1


@given(data=st.data())
def test_resuming_from_any_torn_state_equals_never_being_killed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A kill leaves files that are shorter or longer than the journal says."""
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=11, max_size=16))
    settings = {"shard_bytes": 100, "max_bad_share": 1.0}
    whole = tmp_path_factory.mktemp("whole")
    prepare(CountingVideos([*lengths, 1]), whole, **settings)
    torn = tmp_path_factory.mktemp("torn")
    stopped = _Killed([*lengths, 1], after=data.draw(st.integers(1, 10)))
    with pytest.raises(KeyboardInterrupt):
        prepare(stopped, torn, **settings)
    # What a complete block holds was flushed to the disk; the begun one may be in any state.
    (journal,) = (torn / "blocks").glob("*.journal")
    files = [journal, *sorted(torn.glob(f"frames-{journal.stem}-*.u8"))]
    for path in data.draw(st.lists(st.sampled_from(files), max_size=3, unique=True)):
        if path is journal or data.draw(st.booleans()):
            os.truncate(path, data.draw(st.integers(0, path.stat().st_size)))
        else:
            path.write_bytes(path.read_bytes() + b"half a frame")
    resumed = CountingVideos([*lengths, 1])
    prepare(resumed, torn, **settings)
    assert content(torn) == content(whole)


class _Killed(CountingVideos):
    """Stops in the middle of a video."""

    def __init__(self, lengths: list[int], after: int) -> None:
        super().__init__(lengths)
        self._after = after

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        if len(self.decoded) >= self._after and self.lengths[int(video.key[1:])]:
            yield self.frame(0, 0)
            raise KeyboardInterrupt
        yield from super().frames(video)


def test_finished_videos_are_not_decoded_again(tmp_path: Path) -> None:
    lengths = [3] * 20
    stopped = _Killed(lengths, after=9)
    with pytest.raises(KeyboardInterrupt):
        prepare(stopped, tmp_path)
    resumed = CountingVideos(lengths)
    prepare(resumed, tmp_path)
    assert sorted(stopped.decoded + resumed.decoded) == [f"v{n:03d}" for n in range(20)]


def test_unfinished_work_is_not_taken_for_data(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(_Killed([3] * 9, after=4), tmp_path)
    with pytest.raises(UnreadableShards, match="not finished"):
        Shards(tmp_path)
    with pytest.raises(UnreadableShards, match="no manifest"):
        Shards(tmp_path / "nothing")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    shards = prepare(CountingVideos([3, 3]), tmp_path)
    path = tmp_path / shards.manifest["shards"][1]["file"]
    damaged = bytearray(path.read_bytes())
    damaged[5] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UnreadableShards, match="checksum") as caught:
        Shards(tmp_path).verify()
    assert caught.value.path == path


@pytest.mark.parametrize("kind", ["short", "missing", "list", "manifest", "format"])
def test_damage_is_found_on_opening(tmp_path: Path, kind: str) -> None:
    shards = prepare(CountingVideos([3, 3]), tmp_path)
    first = tmp_path / shards.manifest["shards"][0]["file"]
    manifest = tmp_path / "manifest.json"
    if kind == "short":
        os.truncate(first, 10)
    elif kind == "missing":
        first.unlink()
    elif kind == "list":
        listed = tmp_path / "videos.jsonl"
        listed.write_text(listed.read_text().replace("v000", "v009"))
    elif kind == "manifest":
        os.truncate(manifest, 10)
    else:
        manifest.write_text(json.dumps(shards.manifest | {"format": 0}))
    with pytest.raises(UnreadableShards) as caught:
        len(Shards(tmp_path))
    assert caught.value.exit_code is ExitCode.BAD_RUN


def alter(folder: Path, **changes: object) -> None:
    """Change entries of the manifest, and seal it anew."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))


@pytest.mark.parametrize("name", ["manifest.json", "videos.jsonl", "frames-00000-00.u8"])
@pytest.mark.parametrize("kind", ["link", "pipe", "zeros", "sparse"])
def test_prepared_videos_are_regular_files(tmp_path: Path, name: str, kind: str) -> None:
    out = tmp_path / "out"
    prepare(CountingVideos([3, 3]), out)
    path = out / name
    path.rename(tmp_path / "outside")
    if kind == "link":
        path.symlink_to(tmp_path / "outside")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 42)
    with pytest.raises(UnreadableShards) as caught:
        len(Shards(out))
    assert caught.value.path == path


def test_an_altered_manifest_is_noticed_and_one_without_a_seal_is_read(tmp_path: Path) -> None:
    shards = prepare(CountingVideos([3, 3]), tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(shards.manifest | {"fingerprint": "x"}))
    with pytest.raises(UnreadableShards, match="seal differs"):
        Shards(tmp_path)
    older = {k: v for k, v in shards.manifest.items() if k not in ("seal", "quarantine_sha256")}
    path.write_text(json.dumps(older | {"format": 1}))
    assert len(Shards(tmp_path)) == 2
    assert Shards(tmp_path).quarantined() == {}
    assert len(prepare(CountingVideos([3, 3]), tmp_path)) == 2  # the same work, and done


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": 3},
        {"shards": []},
        {"shards": [{"file": "../x", "frames": 3, "bytes": 576, "sha256": ""}]},
        {"shards": [{"file": "frames-00000-00.u8", "frames": 1 << 45, "bytes": 9, "sha256": ""}]},
        {"frame_shape": [3, 8]},
        {"frame_shape": [3, 1 << 20, 1 << 20]},
        {"frame_shape": [-3, -8, 8]},
        {"frame_shape": None},
        {"group_weights": {}},
        {"group_weights": {"": -1.0}},
        {"group_weights": {"": "x"}},
        {"videos": {}},
        {"plan": []},
    ],
)
def test_a_forged_manifest_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    prepare(CountingVideos([3, 3]), tmp_path)
    alter(tmp_path, **changes)
    with pytest.raises(UnreadableShards):
        len(Shards(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shard": 99}, "lies where there are no frames"),
        ({"frames": 1 << 40}, "lies where there are no frames"),
        ({"start": -1}, "0/start is -1"),
        ({"key": 3}, "0/key is 3"),
        ({"group": "other"}, "lies where there are no frames"),
    ],
)
def test_a_forged_list_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    prepare(CountingVideos([3, 3]), tmp_path)
    path = tmp_path / "videos.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | change) + "\n" for row in rows))
    videos = json.loads((tmp_path / "manifest.json").read_text())["videos"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    alter(tmp_path, videos=videos | {"sha256": digest})
    with pytest.raises(UnreadableShards, match=said):
        len(Shards(tmp_path))


@pytest.mark.parametrize("content", ["3", "{}", '{"shards": [], "entries": [{}]}', "["])
def test_damaged_notes_of_unfinished_work_are_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(_Killed([3] * 9, after=6), tmp_path)
    (record,) = sorted((tmp_path / "blocks").glob("*.json"))[:1]
    record.write_text(content)
    with pytest.raises(UnreadableShards) as caught:
        prepare(CountingVideos([3] * 9), tmp_path)
    assert caught.value.path == record


def test_work_goes_on_in_no_file_but_its_own(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    with pytest.raises(KeyboardInterrupt):
        prepare(_Killed([3] * 9, after=4), out)
    (journal,) = (out / "blocks").glob("*.journal")
    journal.rename(outside)
    journal.symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(ForeignFile):
        prepare(CountingVideos([3] * 9), out)
    assert outside.read_bytes() == before
    journal.unlink()
    (out / ".lock").unlink()
    (out / ".lock").symlink_to(outside)
    with pytest.raises(ForeignFile):
        prepare(CountingVideos([3] * 9), out)
    assert outside.read_bytes() == before


def test_a_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    class FillsTheDisk(CountingVideos):
        def frames(self, video: Video) -> Iterator[np.ndarray]:
            if video.key == "v003":
                _limit_file_size(4096)
                yield from [np.zeros(self.frame_shape, np.uint8)] * 90_000
            yield from super().frames(video)

    hard = _limit_file_size(None)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(DiskFull):
            prepare(FillsTheDisk([3] * 5), tmp_path)
    finally:
        _limit_file_size(hard)
        signal.signal(signal.SIGXFSZ, before)
    assert len(prepare(CountingVideos([3] * 5), tmp_path)) == 5


def _limit_file_size(size: int | None) -> int:
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before if size is None else size, hard))
    return before


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    now = [0.0]
    text = io.StringIO()
    console = Console(file=text, width=200)
    with PrepareProgress(50, console=console, every_s=10, clock=lambda: now[0]) as progress:
        for videos in range(5):
            progress.update(videos, 100 * videos, videos // 2)
            now[0] += 4.0
    lines = text.getvalue().splitlines()
    assert lines == ["videos 3/50  frames 300  25 frames/s  quarantined 1"]


def test_progress_is_a_bar_on_a_terminal() -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, force_interactive=True)
    with PrepareProgress(50, console=console) as progress:
        progress.update(20, 100, 0)
    assert "videos 20/50" in text.getvalue()
