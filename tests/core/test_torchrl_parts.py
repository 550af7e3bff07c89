"""TorchRL comes through one door, and brings no simulator along."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_torchrl_brings_no_mujoco_and_mujoco_is_found_after_it() -> None:
    pytest.importorskip("mujoco")
    code = (
        "import sys, wmplatform.collect.collection, wmplatform.replay\n"
        "assert 'mujoco' not in sys.modules\n"
        "import mujoco\n"
        "assert mujoco.MjModel"
    )
    # A name that MuJoCo refuses at import, as it does where a backend's library is missing.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MUJOCO_GL": "off"}
    for backend, ok in (("off", True), ("nonsense", False)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            env={**environment, "MUJOCO_GL": backend},
        )
        assert (done.returncode == 0) is ok, done.stderr
        assert "line 3" in done.stderr or ok


def test_nothing_else_imports_torchrl(repo_root: Path) -> None:
    sources = [*(repo_root / "platform").rglob("*.py"), *(repo_root / "plugins").rglob("*.py")]
    lines = [(path.name, line) for path in sources for line in path.read_text().splitlines()]
    importing = {
        name for name, line in lines if line.strip().startswith(("from torchrl", "import torchrl"))
    }
    assert importing == {"torchrl_parts.py"}
