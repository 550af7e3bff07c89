"""Run folders: one owner, one configuration, and a record of every start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmplatform.errors import ExitCode
from wmplatform.files import CannotRead, CannotWrite, ForeignFile
from wmplatform.gin_lines import Difference, bindings, compare
from wmplatform.run_folder import ConfigChanged, FolderInUse, NotARunFolder, RunFolder

CONFIG = """# A comment
Online.total_agent_steps = 1000
Online.env = @envs.gym
Replay.capacity = 1_000
encoders.cnn.depth = 48
"""


def open_folder(path: Path, text: str = CONFIG, *, allow: bool = False) -> RunFolder:
    return RunFolder.open(path, config_text=text, allow_config_change=allow)


def test_a_new_folder_holds_config_provenance_and_places(run_dir: Path) -> None:
    with RunFolder.open(run_dir, config_text=CONFIG, provenance={"plugins": ["a"]}) as folder:
        assert folder.is_new
        assert folder.config.read_text() == CONFIG
        for place in (folder.checkpoints, folder.replay, folder.videos, folder.pictures):
            assert place.is_dir()
    (start,) = json.loads((run_dir / "provenance.json").read_text())["starts"]
    assert start["plugins"] == ["a"]
    assert start["versions"]["numpy"]
    assert start["python"] == sys.version.split()[0]


def test_every_start_is_recorded(run_dir: Path) -> None:
    open_folder(run_dir).close()
    with open_folder(run_dir) as folder:
        assert not folder.is_new
    assert len(json.loads((run_dir / "provenance.json").read_text())["starts"]) == 2


def test_a_damaged_provenance_is_kept_and_stops_nothing(run_dir: Path) -> None:
    open_folder(run_dir).close()
    (run_dir / "provenance.json").write_text("{")
    open_folder(run_dir).close()
    assert (run_dir / "provenance.unreadable").read_text() == "{"


def test_two_processes_cannot_share_a_folder(run_dir: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from wmplatform.run_folder import RunFolder\n"
        "RunFolder.open(Path(sys.argv[1]), config_text='')"
    )
    with open_folder(run_dir):
        other = subprocess.run(
            [sys.executable, "-c", code, str(run_dir), *sys.path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "FolderInUse: the run folder is in use by process" in other.stderr
        with pytest.raises(FolderInUse) as caught:
            open_folder(run_dir)
    assert caught.value.exit_code == ExitCode.BAD_RUN
    open_folder(run_dir).close()


def test_a_killed_owner_leaves_no_lock(run_dir: Path) -> None:
    code = (
        "import os, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from wmplatform.run_folder import RunFolder\n"
        "folder = RunFolder.open(Path(sys.argv[1]), config_text='')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(run_dir), *sys.path], check=False)
    open_folder(run_dir, "").close()


def test_a_changed_parameter_is_refused_by_name(run_dir: Path) -> None:
    open_folder(run_dir).close()
    changed = CONFIG.replace("48", "32").replace("1_000", "9")
    with pytest.raises(ConfigChanged) as caught:
        open_folder(run_dir, changed)
    assert caught.value.exit_code == ExitCode.BAD_RUN
    assert "Replay.capacity: was 1_000, now 9" in str(caught.value)
    assert "encoders.cnn.depth: was 48, now 32" in str(caught.value)
    assert (run_dir / "config.gin").read_text() == CONFIG
    open_folder(run_dir).close()  # nothing stays locked


@pytest.mark.parametrize(
    "line",
    [
        "Online.total_agent_steps = 2000",
        "Online.save_every = 7",
        "Online.save_every_s = 7.0",
        "scope/Online.log_every = 7",
        "Evaluation.episodes = 3",
        "wmplatform.evaluation.Evaluation.fps = 3",
    ],
)
def test_length_and_cadence_may_change(run_dir: Path, line: str) -> None:
    open_folder(run_dir).close()
    text = CONFIG.replace("Online.total_agent_steps = 1000\n", "") + line
    with open_folder(run_dir, text) as folder:
        assert folder.config.read_text() == text
    assert (run_dir / "config-history" / "001.gin").read_text() == CONFIG


def test_the_seed_stays(run_dir: Path) -> None:
    assert RunFolder.seed_of(run_dir) is None
    RunFolder.open(run_dir, config_text=CONFIG, provenance={"seed": 3}).close()
    assert RunFolder.seed_of(run_dir) == 3
    with pytest.raises(ConfigChanged, match="1 differ") as caught:
        RunFolder.open(run_dir, config_text=CONFIG, provenance={"seed": 4})
    assert "--seed: was 3, now 4" in str(caught.value)


def test_a_change_can_be_allowed_and_is_remembered(run_dir: Path) -> None:
    open_folder(run_dir).close()
    open_folder(run_dir, "Replay.capacity = 3", allow=True).close()
    open_folder(run_dir, "Replay.capacity = 4", allow=True).close()
    assert (run_dir / "config.gin").read_text() == "Replay.capacity = 4"
    assert (run_dir / "config-history" / "001.gin").read_text() == CONFIG
    assert (run_dir / "config-history" / "002.gin").read_text() == "Replay.capacity = 3"


def test_a_foreign_folder_is_refused(run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / "thesis.tex").write_text("x")
    with pytest.raises(NotARunFolder, match=r"thesis\.tex") as caught:
        open_folder(run_dir)
    assert caught.value.exit_code == ExitCode.BAD_RUN
    assert [path.name for path in run_dir.iterdir()] == ["thesis.tex"]


def test_a_start_without_work_can_be_taken_back(run_dir: Path) -> None:
    with open_folder(run_dir) as folder:
        (folder.path / "metrics.jsonl").touch()
        (folder.path / "replay-working").mkdir()
        (folder.path / "replay-working" / "pixels.bin").write_text("x")
        folder.take_back()
    assert not run_dir.exists()


def test_a_resumed_start_without_work_leaves_the_run_as_it_was(run_dir: Path) -> None:
    open_folder(run_dir).close()
    (run_dir / "metrics.jsonl").write_text("{}\n")
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    del before[run_dir / "run.lock"]
    with open_folder(run_dir, CONFIG + "Evaluation.episodes = 3\n") as folder:
        assert (run_dir / "config-history" / "001.gin").exists()
        folder.take_back()
    after = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    del after[run_dir / "run.lock"]
    assert after == before


@pytest.mark.parametrize("place", ["metrics.jsonl", "checkpoints/gen-000000001/manifest.json"])
def test_work_is_never_taken_back(run_dir: Path, place: str) -> None:
    with open_folder(run_dir) as folder:
        (run_dir / place).parent.mkdir(exist_ok=True)
        (run_dir / place).write_text("{}\n")
        folder.take_back()
    assert (run_dir / place).exists()
    assert (run_dir / "config.gin").exists()


def test_a_start_killed_before_its_config_was_written_is_taken_over(run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / "run.lock").write_text("")
    (run_dir / ".writing-config.gin").write_text("half")
    (run_dir / "replay").mkdir()
    with open_folder(run_dir) as folder:
        assert folder.is_new


def test_a_path_that_cannot_be_a_folder_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite) as caught:
        open_folder(tmp_path / "file" / "run")
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_order_spaces_comments_and_line_breaks_do_not_count() -> None:
    old = "a.x = 1  # one\nb.y = [1,\n  2]\n"
    assert compare(old, "b.y = [1, 2]\n\na.x=1\n") == []
    assert bindings("s/heads.mlp.layers = (4, 'a # b')") == {"s/heads.mlp.layers": "(4, 'a # b')"}
    assert bindings("x.y = \\\n    @a/b") == {"x.y": "@a/b"}


def test_added_and_removed_bindings_are_differences() -> None:
    assert compare("a.x = 1", "a.y = 1") == [
        Difference("a.x", "1", None),
        Difference("a.y", None, "1"),
    ]
    assert str(Difference("a.x", "1", None)) == "a.x: was 1, now (not bound)"


def test_text_that_is_no_gin_is_still_compared() -> None:
    assert compare("a = (", "a = 'b") == [Difference("a", "(", "'b")]


LOCKED = "what is behind the lock"


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "text"])
def test_a_lock_overwrites_nothing_that_is_no_lock(run_dir: Path, kind: str) -> None:
    open_folder(run_dir).close()
    lock, other = run_dir / "run.lock", run_dir.parent / "thesis.tex"
    other.write_text(LOCKED)
    lock.unlink()
    if kind == "link":
        lock.symlink_to(other)
    elif kind == "hard link":
        os.link(other, lock)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text(LOCKED)
    with pytest.raises(ForeignFile) as caught:
        open_folder(run_dir)
    assert caught.value.exit_code == ExitCode.BAD_RUN
    assert other.read_text() == LOCKED
    assert kind != "text" or lock.read_text() == LOCKED


@pytest.mark.parametrize("name", ["config.gin", "provenance.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "sparse"])
def test_notes_are_regular_files(run_dir: Path, name: str, kind: str) -> None:
    open_folder(run_dir).close()
    path = run_dir / name
    path.rename(run_dir.parent / "moved")
    if kind == "link":
        path.symlink_to(run_dir.parent / "moved")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    assert RunFolder.seed_of(run_dir) is None
    with pytest.raises(CannotRead, match=name):
        open_folder(run_dir)
    path.unlink()
    (run_dir.parent / "moved").rename(path)
    open_folder(run_dir).close()  # nothing stays locked


def test_a_run_folder_and_the_folders_in_it_may_be_links(tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "real").mkdir()
    run_dir.symlink_to(tmp_path / "real")
    (run_dir / "checkpoints").symlink_to(tmp_path / "scratch")
    open_folder(run_dir).close()
    assert (run_dir / "checkpoints").is_symlink()
