"""The double of the CARLA server and the real client library, in processes of their own.

Threads of the client library can abort the process that they run in (`carla_double` says when), and
that must not take the test runner with it, nor count as a failure of the test that it meets. By
hand: pytest tests/plugins/carla_double_cases.py
"""

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from . import carla_double_cases, carla_double_fault_cases

ROOT = Path(__file__).resolve().parents[2]
MODULES = (carla_double_cases, carla_double_fault_cases)
ABORTS = 3
"""So many aborts of the client library in a row are a failure; what a test finds is one at once."""


def cases(module: ModuleType) -> list[str]:
    """What to give pytest for each test of a module."""
    assert module.__file__ is not None
    return [f"{module.__file__}::{name}" for name in vars(module) if name.startswith("test_")]


def run(*tests: str) -> "subprocess.CompletedProcess[str]":
    """Run tests in a process of their own, which names each one and its outcome."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-v", *tests],
        cwd=ROOT,
        capture_output=True,
        timeout=600,
        text=True,
    )


@pytest.fixture(scope="module")
def together() -> dict[str, str]:
    """What a process for all cases of a module has printed, as far as it came."""
    return {str(module.__file__): run(str(module.__file__)).stdout for module in MODULES}


@pytest.mark.parametrize(
    "case",
    [case for module in MODULES for case in cases(module)],
    ids=lambda case: case.rpartition("::")[2].removeprefix("test_"),
)
def test_real_client(case: str, together: dict[str, str]) -> None:
    file, _, name = case.partition("::")
    if re.search(rf"::{name}(\[\S+\])? PASSED", together[file]):
        return
    for _ in range(ABORTS):  # alone: the shared process may have been aborted before it, or by it
        done = run(case)
        if done.returncode != -signal.SIGABRT:
            break
        print(f"the CARLA client library aborted:\n{done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
