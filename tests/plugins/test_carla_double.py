"""The double of the CARLA server and the real client library, each test in a process of its own.

Threads of the client library can abort the process that they run in (`carla_double` says when), and
that must not take the test runner with it. By hand: pytest tests/plugins/carla_double_cases.py
"""

import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from . import carla_double_cases, carla_double_fault_cases

ABORTS = 3
"""So many aborts of the client library in a row are a failure; what a test finds is one at once."""


def cases(module: ModuleType) -> list[str]:
    """What to give pytest for each test of a module."""
    assert module.__file__ is not None
    return [f"{module.__file__}::{name}" for name in vars(module) if name.startswith("test_")]


@pytest.mark.parametrize(
    "case",
    cases(carla_double_cases) + cases(carla_double_fault_cases),
    ids=lambda case: case.rpartition("::")[2].removeprefix("test_"),
)
def test_real_client(case: str, repo_root: Path) -> None:
    for _ in range(ABORTS):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", case],
            cwd=repo_root,
            capture_output=True,
            timeout=120,
            text=True,
        )
        if done.returncode != -signal.SIGABRT:
            break
        print(f"the CARLA client library aborted:\n{done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
