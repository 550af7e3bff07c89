"""Shared test set-up: quiet threads, fixed seeds, hypothesis profiles.

Nothing here imports torch, so that tests of the torch-free parts stay quick.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

# Before anything imports torch, mujoco or Mesa: pytest-xdist and env workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")

import pytest
from hypothesis import HealthCheck, settings

# A stranger's distribution lies beside the platform in every test and its subprocesses: no test may
# depend on what else is installed.
BESIDE = str(Path(__file__).parent / "beside")
sys.path.append(BESIDE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), BESIDE]))

settings.register_profile(
    "ci", derandomize=True, max_examples=20, deadline=None, database=None, print_blob=True
)
settings.register_profile(
    "wide",
    max_examples=300,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "ci")

SEED = 0


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Give every test the same random state, whichever tests ran before it in this process."""
    random.seed(SEED)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(SEED)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(SEED)
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Top folder of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Path of a run folder that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture(scope="session")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from the source distribution, which is built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("build")
    checkout = folder / "checkout"
    for part in ("platform", "plugins", "experiments"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repo_root / part, checkout / part, ignore=ignore)
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo_root / part, checkout)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(build, cwd=checkout, capture_output=True, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in; first on PYTHONPATH it hides the checkout."""
    target = tmp_path_factory.mktemp("installation")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, *offline, str(wheel)], capture_output=True, check=True)
    return target
