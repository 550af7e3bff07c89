"""Bad input: one clear message, the right exit code, nothing lost and nothing left behind.

Every case goes through the real command line, in a process of its own and with real files. What
needs no new interpreter is forked from one that has imported torch.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wmplatform.checkpoint import Checkpoints
from wmplatform.errors import ExitCode
from wmplatform.json_lines import read_json_lines
from wmplatform.run_folder import RunFolder

from . import warm

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "tiny.gin"
SOURCES = [str(ROOT / "platform"), str(ROOT / "plugins")]
Done = subprocess.CompletedProcess[str]


def python(*words: object, path: tuple[object, ...] = (), **environment: str) -> Done:
    """Run a new Python from the repository root; `path` comes first on its module path."""
    found = os.pathsep.join(map(str, [*path, *SOURCES]))
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


def run(gin: Path, folder: Path, *words: object, first: str = "", **environment: str) -> Done:
    """Start or resume a run on the CPU, after executing `first`."""
    command = ("--gin", gin, "--run-dir", folder, "--device", "cpu", *words)
    return warm.start(f"{first}\n{warm.CLI}", *command, **environment).finish()


def beside(folder: Path) -> str:
    """Code that puts a folder first on the module path."""
    return f"import sys; sys.path.insert(0, {str(folder)!r})"


def bound(*bindings: str) -> list[str]:
    return [word for binding in bindings for word in ("--bind", binding)]


def refused(done: Done, code: ExitCode, *said: str) -> None:
    """The exit code is right, and standard error is one message that says what, where, how."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    headings = re.findall(r"^[A-Z]\w+: ", done.stderr, flags=re.MULTILINE)
    assert len(headings) == 1, done.stderr
    assert "\n  fix  " in done.stderr
    for text in said:
        assert text in done.stderr, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, but for the lock, which names the last owner."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def agent_steps(folder: Path) -> list[int]:
    return [line["agent_steps"] for line in read_json_lines(folder / "metrics.jsonl")]


# Third parties ----------------------------------------------------------------------------------

PLUGINS = {
    "broken": "import surely_not_installed\nfrom wmplatform.interfaces import Encoder\n\n"
    "class Broken(Encoder):\n    def __init__(self, observations): ...\n",
    "torn": "class Torn(Encod\n",
    "wrong": "class Wrong:\n    def __init__(self, observations): ...\n",
}
ENTRY_POINTS = "[wmplatform.envs]\npale = acme_pale:Pale\n[wmplatform.encoders]\n" + "".join(
    f"{name} = acme_{name}:{name.title()}\n" for name in (*PLUGINS, "gone")
)
PALE = """
import numpy as np
from wmplatform.envs import Frame, PlatformEnv, Simulator
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec

class Sim(Simulator):
    def reset(self, seed):
        return {}

    def advance(self, action):
        return Frame(0.0)

    def observe(self):
        return {"pixels": np.full((3, 64, 64), 0.5)}

class Pale(EnvAdapter):
    name = "acme/pale"

    def spec(self):
        return EnvSpec({"pixels": ArraySpec((3, 64, 64), "uint8")}, ActionSpec(1), time_limit=12)

    def make(self, seed):
        return PlatformEnv(Sim(), self.spec(), name=self.name, seed=seed)
"""


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed distribution none of whose components can be used."""
    folder = tmp_path_factory.mktemp("acme")
    info = folder / "acme_wm-0.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-wm\nVersion: 0.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    for name, text in PLUGINS.items():
        (folder / f"acme_{name}.py").write_text(text)
    (folder / "acme_pale.py").write_text(PALE)
    return folder


def packages_without(folder: Path, name: str) -> Path:
    """Link to everything that is installed but one package; for `python -S`, which sees no other.

    So the package really is not there: neither its modules nor its metadata.
    """
    folder.mkdir()
    for place in filter(lambda entry: entry.endswith("-packages"), sys.path):
        for entry in Path(place).iterdir():
            if not re.fullmatch(rf"{name}(-.*\.dist-info)?", entry.name):
                with_same_name = folder / entry.name
                if not with_same_name.exists():
                    with_same_name.symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages_without(tmp_path_factory.mktemp("site") / "no-torch", "torch")


@pytest.fixture(scope="module")
def finished(acme: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, beside which broken plug-ins were installed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = run(TINY, folder, "--seed", 3, first=beside(acme))
    assert done.returncode == ExitCode.OK, done.stderr
    assert "acme" not in done.stderr
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


# Configurations ---------------------------------------------------------------------------------

WRONG = {
    "unknown component": (
        "WorldModel.encoder = @encoders.cmn",
        "no Encoder in group 'encoders' named 'cmn'",
        "near 'cnn'",
    ),
    "misspelt parameter": ("encoders.cnn.dept = 3", "no setting named 'dept'", "near 'depth'"),
    "wrong type": ("encoders.cnn.depth = 'large'", "cannot be 'large'", "depth: Annotated[int"),
    "out of range": ("Replay.capacity = -1", "cannot be -1", "greater than or equal to 1"),
    "missing include": ("include 'bsae.gin'", "'bsae.gin' does not exist", "near 'x.gin'"),
    "unusable component": ("WorldModel.encoder = @encoders.torn", "acme_torn", "acme-wm"),
}


@pytest.mark.parametrize(("line", "what", "way_out"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_line_is_named_before_torch_is_needed(
    line: str, what: str, way_out: str, no_torch: Path, acme: Path, tmp_path: Path
) -> None:
    gin = tmp_path / "x.gin"
    gin.write_text(f"include '{TINY}'\n\n{line}\n")
    command = ("-S", "-m", "platform.run", "--gin", gin, "--run-dir", tmp_path / "run")
    done = python(*command, path=(acme, no_torch))
    refused(done, ExitCode.BAD_INPUT, what, way_out, f"at   {gin}:3   {line}")
    assert not (tmp_path / "run").exists()


def test_both_ways_to_start_and_every_wrong_binding_at_once(no_torch: Path, tmp_path: Path) -> None:
    lines = [line for line, *_ in list(WRONG.values())[:4]]
    for module in ("platform.run", "wmplatform"):
        command = ("-S", "-m", module, "run", "--gin", TINY, "--run-dir", tmp_path / "run")
        done = python(*command, *bound(*lines), path=(no_torch,))
        said = [f'at   --bind "{line}"' for line in lines]
        refused(done, ExitCode.BAD_INPUT, "4 problems in the configuration", *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gin", "tests/tni.gin"], "near 'tests/tiny.gin'"),
        (["describe", "--gin", "tests/tni.gin"], "near 'tests/tiny.gin'"),
        (["check", "encoder", "cmn"], "near 'cnn'"),
        (["check", "encoders.cmn"], "near 'cnn'"),
        (["check", "encoder"], "branches, cnn, "),
        (["list", "encodres"], "near 'encoders'"),
    ],
)
def test_a_wrong_name_on_the_command_line_is_answered(words: list[str], said: str) -> None:
    refused(warm.cli(*words), ExitCode.BAD_INPUT, said)


def test_a_number_that_is_none_is_described() -> None:
    done = warm.cli("--gin", TINY, "--seed", "x")
    assert done.returncode == ExitCode.BAD_INPUT
    assert "argument --seed: 'x' is not a whole number from 0 on" in done.stderr


@pytest.mark.parametrize(
    ("binding", "what"),
    [
        ("envs.gym.id = 'Pendulum-v9'", "UnknownTask: gymnasium cannot make 'Pendulum-v9'"),
        ("Segments.length = 14", "EpisodesTooShort: the learner samples 14"),
    ],
)
def test_what_a_part_refuses_leaves_no_run_folder(binding: str, what: str, tmp_path: Path) -> None:
    done = run(TINY, tmp_path / "run", *bound(binding))
    refused(done, ExitCode.BAD_INPUT, what)
    assert "configurable" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_environment_that_is_not_as_declared_leaves_no_run_folder(
    acme: Path, tmp_path: Path
) -> None:
    words = bound("Online.env = @envs.pale")
    done = run(TINY, tmp_path / "run", *words, first=beside(acme))
    said = "Misdeclared: acme/pale: pixels at the reset is float64 (3, 64, 64) with values from 0.5"
    refused(done, ExitCode.BAD_INPUT, said, "instead of uint8 (3, 64, 64)", "fix  give what spec()")
    assert not (tmp_path / "run").exists()


# Plug-ins and what this machine has -------------------------------------------------------------


def test_a_broken_plugin_that_is_not_used_stops_nothing(finished: Path, acme: Path) -> None:
    assert agent_steps(finished)[-1] == 50
    code = f"{beside(acme)}\n{warm.CLI}"
    listed = warm.start(code, "list", "encoders", "--load", COLUMNS="150").finish()
    assert listed.returncode == ExitCode.OK
    for name, status in {
        "cnn": "loaded",
        "broken": "failed: ModuleNotFoundError: No module named 'surely_not_installed'",
        "gone": "failed: ModuleNotFoundError: No module named 'acme_gone'",
        "torn": "failed: SyntaxError",
        "wrong": "failed: acme_wrong:Wrong is a class that does not derive from Encoder",
    }.items():
        assert re.search(rf"encoders .* {name} .* {re.escape(status)}", listed.stdout), name


def test_a_broken_plugin_that_is_used_is_named_with_its_distribution(
    acme: Path, tmp_path: Path
) -> None:
    gin = tmp_path / "x.gin"
    gin.write_text(f"include '{TINY}'\nWorldModel.encoder = @encoders.broken\n")
    done = run(gin, tmp_path / "run", first=beside(acme))
    refused(
        done,
        ExitCode.BAD_INPUT,
        "'encoders.broken' of acme-wm 0.2 failed to load: ModuleNotFoundError",
        "No module named 'surely_not_installed'",
        f"at   {gin}:2   WorldModel.encoder = @encoders.broken",
        "fix  mend or uninstall 'acme-wm', or name another component",
    )
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_gives_the_command_that_installs_it(tmp_path: Path) -> None:
    site = packages_without(tmp_path / "site", "metaworld")
    gin = ROOT / "experiments" / "quickstart.gin"
    command = ("-S", "-m", "platform.run", "--gin", gin, "--run-dir", tmp_path / "run")
    done = python(*command, path=(site,))
    install = 'pip install "wmplatform[metaworld]"'
    refused(
        done,
        ExitCode.ENVIRONMENT,
        "needs metaworld, not installed",
        f"fix  {install}",
        "quickstart.gin:7",
    )
    assert not (tmp_path / "run").exists()
    listed = python("-S", "-m", "platform.run", "list", "envs", path=(site,), COLUMNS="150")
    assert install in listed.stdout


NO_EGL = """
import ctypes, ctypes.util
load, find = ctypes.CDLL.__init__, ctypes.util.find_library
def no_egl(self, name, *rest, **options):
    if "EGL" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *rest, **options)
ctypes.CDLL.__init__ = no_egl
ctypes.util.find_library = lambda name: None if "EGL" in name else find(name)
"""
"""What Python sees where libEGL is not installed."""


@pytest.mark.skipif(not importlib.util.find_spec("metaworld"), reason="metaworld not installed")
def test_missing_gl_gives_the_line_that_installs_it(tmp_path: Path) -> None:
    gin = tmp_path / "reach.gin"
    gin.write_text(
        f"include '{TINY}'\nOnline.env = @envs.metaworld\nOnline.total_agent_steps = 10\n"
        "envs.metaworld.render_profile = 'fast'\nenvs.metaworld.time_limit = 12\n"
    )
    said = ("MissingGL: MuJoCo cannot render with MUJOCO_GL=egl", "apt-get install -y libegl1")
    done = run(gin, tmp_path / "run", first=NO_EGL, MUJOCO_GL="egl")
    refused(done, ExitCode.ENVIRONMENT, *said)
    assert not (tmp_path / "run").exists()
    # A run that began where rendering works and is resumed where the library has no driver.
    assert run(gin, tmp_path / "run").returncode == ExitCode.OK
    before = contents(tmp_path / "run")
    no_driver = {"__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path), "__EGL_VENDOR_LIBRARY_FILENAMES": ""}
    longer = bound("Online.total_agent_steps = 20")
    done = run(gin, tmp_path / "run", *longer, MUJOCO_GL="egl", **no_driver)
    refused(done, ExitCode.ENVIRONMENT, *said)
    assert contents(tmp_path / "run") == before


def test_an_absent_device_says_so(tmp_path: Path) -> None:
    done = run(TINY, tmp_path / "run", "--device", "nonsense")
    refused(done, ExitCode.ENVIRONMENT, "device 'nonsense' cannot be used", "fix  --device cpu")
    assert not (tmp_path / "run").exists()


# Run folders and checkpoints --------------------------------------------------------------------


def test_a_folder_in_use_is_left_alone(folder: Path) -> None:
    with RunFolder.open(folder, config_text=(folder / "config.gin").read_text()):
        before = contents(folder)
        done = run(TINY, folder)
        owner = f"in use by process {os.getpid()}"
        refused(done, ExitCode.BAD_RUN, owner, str(folder), "choose another folder with --run-dir")
        assert contents(folder) == before


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    done = run(TINY, tmp_path)
    refused(done, ExitCode.BAD_RUN, "holds no run (it has thesis.tex)", str(tmp_path), "--run-dir")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("part", ["weights", "records"])
def test_a_damaged_checkpoint_names_the_way_back_and_it_works(part: str, folder: Path) -> None:
    checkpoints = Checkpoints(folder / "checkpoints")
    older, newest = checkpoints.generations()
    damaged = checkpoints.path(newest) / "world_model.safetensors"
    if part == "records":
        files = [
            {chunk["file"] for chunk in checkpoints.load_part("replay", generation)["chunks"]}
            for generation in (newest, older)
        ]
        (name,) = files[0] - files[1]
        damaged = folder / "replay" / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = contents(folder)
    done = run(TINY, folder)
    refused(done, ExitCode.BAD_RUN, str(damaged), f"--resume-from {older}")
    assert contents(folder) == before
    assert run(TINY, folder, "--resume-from", older).returncode == ExitCode.OK
    assert checkpoints.load()["loop"]["counters"]["agent_steps"] == 50
    assert list((folder / "checkpoints").glob(f"set-aside-{newest:09d}"))
    assert agent_steps(folder)[-1] == 50


LONGER = bound("Online.total_agent_steps = 100", "Online.log_every = 5", "Online.eval_every = 40")


def whole_and_longer(folder: Path, before: dict[str, bytes]) -> None:
    """What was saved is untouched, and the same command goes on from it to the end."""
    now = contents(folder)
    saved = [name for name in before if name.startswith(("checkpoints", "replay"))]
    assert {name: now[name] for name in saved} == {name: before[name] for name in saved}
    assert now["metrics.jsonl"].startswith(before["metrics.jsonl"])
    assert not [name for name in now if "/.writing" in name]
    assert Checkpoints(folder / "checkpoints").generations() == [2, 3]
    done = run(TINY, folder, *LONGER)
    assert done.returncode == ExitCode.OK, done.stderr
    assert agent_steps(folder) == sorted(agent_steps(folder))
    assert agent_steps(folder)[-1] == 100


def test_checkpoints_that_do_not_fit_do_not_stop_a_run(folder: Path) -> None:
    """No file may exceed 50 kB: neither the weights nor the records fit, the metrics do."""
    before = contents(folder)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    done = run(TINY, folder, *LONGER, first=limit)
    refused(done, ExitCode.ENVIRONMENT, "DiskFull: cannot write", str(folder), "free some space")
    assert done.stderr.count("not saved, the run goes on") == 2  # at 70 and 90
    assert "agent_steps 100/100" in done.stderr
    whole_and_longer(folder, before)


ON_A_SMALL_DISK = """
disk=$1 folder=$2 size=$3; shift 3
mount -t tmpfs -o size="$size" none "$disk" && cp -r "$folder" "$disk/run" || exit 99
"$@"; code=$?
rm -r "$folder" && cp -r "$disk/run" "$folder" && exit $code
"""
"""Runs a command with a copy of a run folder on a disk of its own, which only it can see."""


def test_a_disk_that_is_full_to_the_last_byte_does_not_stop_a_run(
    folder: Path, tmp_path: Path
) -> None:
    alone = ["unshare", "-rm", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*alone, "mount -t tmpfs none /mnt"]).returncode
    ):
        pytest.skip("cannot mount a disk here: needs root or user namespaces")
    before = contents(folder)
    disk = tmp_path / "disk"
    disk.mkdir()
    pages = sum(2 + len(content) // 4096 for content in before.values())
    command = ["-m", "platform.run", "--gin", TINY, "--run-dir", disk / "run", "--device", "cpu"]
    words = [disk, folder, 4096 * (pages + 20), sys.executable, *command, *LONGER]
    done = subprocess.run(
        [*alone, ON_A_SMALL_DISK, "sh", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    refused(done, ExitCode.ENVIRONMENT, "No space left on device", str(disk), "free some space")
    assert done.stderr.count("the disk is full, the run goes on") == 1
    assert done.stderr.count("not saved, the run goes on") == 2
    assert "agent_steps 100/100" in done.stderr
    whole_and_longer(folder, before)
