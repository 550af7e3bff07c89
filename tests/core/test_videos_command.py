"""The command `prepare` on real files: workers, kills, and what it says."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wmplatform.cli import main
from wmplatform.errors import ExitCode
from wmplatform.videos import Shards


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty files, two of which are no videos."""
    pytest.importorskip("av")
    from wmplugins.videos.samples import moving_bar, write_clip

    folder = tmp_path_factory.mktemp("clips")
    first = write_clip(folder / "a00.avi", moving_bar(60, 64, 96), codec="mjpeg", pixels="yuvj420p")
    for number in range(1, 28):
        shutil.copy(first, folder / f"a{number:02d}.avi")
    (folder / "b0.mp4").write_text("not a video at all")
    (folder / "b1.mp4").write_bytes(first.read_bytes()[:50])
    return folder


def command(clips: Path, out: Path, processes: int) -> list[str]:
    words = ["prepare", "folder", "--bind", f"root = '{clips}'", "--bind", "size = 32"]
    words += ["--bind", "Prepare.max_bad_share = 0.1"]
    return [*words, "--out", str(out), "--processes", str(processes)]


@pytest.fixture(scope="module")
def uninterrupted(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    assert main(command(clips, out, 0)) == 0
    return out


def start(clips: Path, out: Path) -> "subprocess.Popen[str]":
    """Begin with two workers, in a process group of their own, and wait until some is done."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-m", "wmplatform", *command(clips, out, 2)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 120
    while len(list(out.glob("frames-*.u8"))) < 3 and process.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_kill_in_the_middle_changes_nothing(
    clips: Path, uninterrupted: Path, tmp_path: Path, whole_group: bool
) -> None:
    out = tmp_path / "out"
    process = start(clips, out)
    os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
    # Ends when the last worker has left, too: they hold the other ends of the pipes.
    process.communicate(timeout=60)
    assert main(command(clips, out, 0)) == 0
    assert content(out) == content(uninterrupted)


def test_ctrl_c_stops_the_workers_and_the_same_command_goes_on(
    clips: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(clips, out)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (ExitCode.INTERRUPTED, ExitCode.OK)
    assert main(command(clips, out, 0)) == 0
    assert content(out) == content(uninterrupted)


def test_the_command_reports_what_it_did(
    uninterrupted: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(clips, uninterrupted, 0), "--verify"]) == 0
    said = capsys.readouterr().out
    assert "1,680" in said or "1680" in said
    assert "Invalid data found" in said
    assert "verified" in said


def test_the_command_reads_gin_files(clips: Path, tmp_path: Path, repo_root: Path) -> None:
    gin = repo_root / "experiments" / "videos" / "folder.gin"
    words = ["prepare", "--gin", str(gin), "--bind", f"videos.folder.root = '{clips}'"]
    words += ["--bind", "Prepare.max_bad_share = 0.1"]
    assert main([*words, "--out", str(tmp_path / "out"), "--processes", "0"]) == 0
    assert Shards(tmp_path / "out").frame_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prepare", "--out", "x"], "name a video source"),
        (["prepare", "foldr", "--out", "x"], "'folder'"),
        (["prepare", "folder", "--out", "x"], "root"),
        (["prepare", "folder", "--bind", "siz = 3", "--out", "x"], "size"),
    ],
)
def test_wrong_words_are_explained(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == ExitCode.BAD_INPUT
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ssv2", "human36m", "youtube_driving", "rlbench", "folder"])
def test_published_settings_are_valid(name: str, repo_root: Path) -> None:
    from wmplatform.config import load

    config = load([repo_root / "experiments" / "videos" / f"{name}.gin"])
    assert [c.selector for c in config.components_used()] == [f"videos.{name}"]
    assert config.parameter(f"videos.{name}.size") == 64


@pytest.mark.parametrize("name", ["assembled", "metaworld_demos"])
def test_composed_settings_are_valid(name: str, repo_root: Path) -> None:
    from wmplatform.config import load

    assert load([repo_root / "experiments" / "videos" / f"{name}.gin"]).targets


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Worker processes, not the tracker that comes with them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_text()
        except OSError:
            continue
        if parent == process.pid and "spawn_main" in words:
            found.append(int(entry.name))
    return found


def test_a_dead_worker_is_an_error_that_names_its_video(
    clips: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(clips, out)
    process.send_signal(signal.SIGSTOP)  # so that it does not finish first
    os.kill(children(process)[0], signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    if process.returncode != ExitCode.OK:  # the worker had nothing left to do
        assert process.returncode == ExitCode.FAILED
        assert "a worker process died" in said
        assert "Prepare.skip" in said
    assert main(command(clips, out, 0)) == 0
    assert content(out) == content(uninterrupted)


def test_what_is_missing_on_a_machine_is_said_once(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    words = ["prepare", "metaworld_demos", "--bind", "tasks = ('reach',)", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment |= {"MUJOCO_GL": "glfw", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    environment.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run(
        [sys.executable, "-m", "wmplatform", *words, "--processes", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    assert done.stderr.count("MissingGL") == 1
    assert "apt-get install" in done.stderr
