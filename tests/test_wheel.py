"""What an installation without the checkout holds."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = {ROOT / "platform" / name for name in ("__init__.py", "__main__.py", "run.py")}


def run_installed(installation: Path, cwd: Path, *words: str) -> str:
    """Run Python with the installed packages before all others; returns its output."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installation)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_holds_the_two_packages_and_the_experiments(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    sources = {
        path.relative_to(root).as_posix()
        for root in (ROOT / "platform", ROOT / "plugins")
        for path in set(root.rglob("*.py")) - LAUNCHER | set(root.rglob("py.typed"))
    }
    gin = {f"wmplatform/{path.relative_to(ROOT)}" for path in ROOT.glob("experiments/**/*.gin")}
    assert len(gin) > 50
    assert {n for n in names if not n.startswith("wmplatform-0.1.0.dist-info/")} == sources | gin


def test_an_installation_reads_its_own_files_from_any_folder(
    installation: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.gin").write_text(
        "include 'wmplatform:base/dreamerv2.gin'\n"
        "include 'wmplatform:base/dmc.gin'\n"
        "encoders.cnn.depth = 24\n"
    )
    code = (
        "import json, wmplatform; from wmplatform.config import load\n"
        "config = load(['mine.gin'])\n"
        "print(json.dumps([wmplatform.__file__, config.parameter('encoders.cnn.depth'),"
        " {file.name: str(file.path) for file in config.files}]))"
    )
    package, depth, files = json.loads(run_installed(installation, tmp_path, "-c", code))
    assert Path(package).is_relative_to(installation)
    assert depth == 24
    home = installation / "wmplatform" / "experiments"
    assert files["wmplatform:base/dmc.gin"] == str(home / "base" / "dmc.gin")
    assert {"mine.gin", "wmplatform:base/imagination.gin"} <= files.keys()


def test_an_installation_lists_its_experiments(installation: Path, tmp_path: Path) -> None:
    words = ["-m", "wmplatform", "list", "experiments", "--json"]
    listed = json.loads(run_installed(installation, tmp_path, *words))
    known = {
        f"wmplatform:{p.relative_to(ROOT / 'experiments')}"
        for p in ROOT.glob("experiments/**/*.gin")
    }
    assert {entry["name"] for entry in listed} == known
    assert all(entry["summary"] for entry in listed)
