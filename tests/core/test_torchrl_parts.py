"""TorchRL comes through one door, and brings no simulator along."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AFTER_TORCHRL = """
import os, sys
import wmplatform.collect.collection, wmplatform.replay
assert "mujoco" not in sys.modules, "imported along"
try:
    import mujoco
except RuntimeError as error:
    assert "MUJOCO_GL" in str(error), error
else:
    sys.exit("mujoco takes any backend")
for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco"]:
    del sys.modules[name]
os.environ["MUJOCO_GL"] = "off"
import mujoco
assert mujoco.MjModel
"""


def test_torchrl_brings_no_mujoco_and_mujoco_is_found_after_it() -> None:
    pytest.importorskip("mujoco")
    # A name that MuJoCo refuses at import, as it does where a backend's library is missing.
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "MUJOCO_GL": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", AFTER_TORCHRL],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr


def test_nothing_else_imports_torchrl(repo_root: Path) -> None:
    sources = [*(repo_root / "platform").rglob("*.py"), *(repo_root / "plugins").rglob("*.py")]
    lines = [(path.name, line) for path in sources for line in path.read_text().splitlines()]
    importing = {
        name for name, line in lines if line.strip().startswith(("from torchrl", "import torchrl"))
    }
    assert importing == {"torchrl_parts.py"}
