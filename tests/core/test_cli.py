"""The command line: one clear message and the right exit code, whatever happens."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wmplatform import cli, doctor
from wmplatform.checkpoint import Checkpoints
from wmplatform.cli import main
from wmplatform.errors import ExitCode
from wmplatform.interfaces.env_adapter import Diagnosis
from wmplatform.json_lines import read_json_lines
from wmplatform.registry import Component
from wmplatform.training.launch import NoSuchDevice, choose_device

from .. import warm
from .moving_square import MovingSquare


@pytest.fixture(scope="module")
def gin(repo_root: Path) -> Path:
    """A real DreamerV2 on real Pendulum frames that is done in a few seconds."""
    return repo_root / "tests" / "tiny.gin"


@pytest.fixture(scope="module")
def finished(gin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert (
        main(["--gin", str(gin), "--run-dir", str(folder), "--device", "cpu", "--seed", "3"]) == 0
    )
    return folder


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished), str(target)], check=True)
    return target


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["list", "dynamics.stacked"], ["--version"], ["run", "--help"]],
)
def test_help_and_list_import_nothing_slow(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom wmplatform.cli import main\n"
        "try:\n    code = main()\n"
        "except SystemExit as end:\n    code = end.code\n"
        "slow = {'torch', 'tensordict', 'numpy', 'gymnasium', 'matplotlib', 'wmplugins'}\n"
        "sys.exit(' '.join(slow & set(sys.modules)) or code)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.BAD_INPUT
    assert "commands:" in capsys.readouterr().out


def test_list_names_origin_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "encoder", "--json", "--load"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["cnn"]["group"] == "encoders"
    assert found["cnn"]["distribution"] == "wmplatform"
    assert found["cnn"]["status"] == "loaded"
    assert main(["list", "nonsense"]) == ExitCode.BAD_INPUT
    assert "UnknownComponent" in capsys.readouterr().err


def test_a_file_without_a_loop_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.gin").write_text("")
    assert main(["--gin", str(tmp_path / "empty.gin")]) == ExitCode.BAD_INPUT
    assert "Online" in capsys.readouterr().err


def test_a_run_leaves_everything_behind(finished: Path, repo_root: Path) -> None:
    metrics = list(read_json_lines(finished / "metrics.jsonl"))
    assert metrics[-1]["agent_steps"] == 50
    assert any("eval/return" in line for line in metrics)
    assert list((finished / "videos").glob("policy-*.mp4"))
    assert list((finished / "pictures").glob("open-loop-*.png"))
    assert (finished / "pictures" / "curve.png").exists()
    assert (finished / "config.gin").exists()
    starts = json.loads((finished / "provenance.json").read_text())["starts"]
    assert starts[0]["seed"] == 3
    read = [Path(path).relative_to(repo_root) for path in starts[0]["gin"].values()]
    assert [path.as_posix() for path in read] == [
        "tests/tiny.gin",
        "experiments/base/dreamerv2.gin",
        "experiments/base/imagination.gin",
        "experiments/base/small.gin",
    ]


@pytest.mark.parametrize(
    ("name", "folder", "note"),
    [
        ("wmplatform:ablations/contextwm_concat.gin", "runs/contextwm_concat", ""),
        ("here.gin", "runs/here", ""),
        (
            "experiments/dreamerv2_pendulum.gin",
            "runs/dreamerv2_pendulum",
            (
                "note: no experiments/dreamerv2_pendulum.gin in the current folder; "
                "reading wmplatform:dreamerv2_pendulum.gin\n"
            ),
        ),
    ],
)
def test_a_run_folder_is_named_after_the_file_and_a_shipped_one_is_named(
    name: str,
    folder: str,
    note: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[Path] = []

    def launch(config: object, run_dir: Path, **_: object) -> ExitCode:
        opened.append(run_dir)
        return ExitCode.OK

    monkeypatch.setattr("wmplatform.training.launch.launch", launch)
    monkeypatch.chdir(tmp_path)
    Path("here.gin").write_text("include 'wmplatform:dreamerv2_pendulum.gin'\n")
    assert main(["--gin", name]) == 0
    assert opened == [Path(folder)]
    said = capsys.readouterr().err
    assert said.startswith(note)
    assert ("note:" in said) == bool(note)


def numbers(folder: Path) -> list[dict[str, object]]:
    """Everything logged that does not depend on the time of day."""
    lines = read_json_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in each.items() if k != "time_s" and "speed" not in k} for each in lines]


def test_a_finished_run_says_where_its_results_lie(
    gin: Path, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = numbers(run_copy)
    assert main(["run", "--gin", str(gin), "--run-dir", str(run_copy), "--device", "cpu"]) == 0
    assert numbers(run_copy) == before
    said = capsys.readouterr().err
    for name in ("curve.png", "policy-", "open-loop-", "metrics.jsonl"):
        assert str(run_copy) in said
        assert name in said


def test_a_run_can_be_made_longer_but_not_different(
    gin: Path, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--gin", str(gin), "--run-dir", str(run_copy), "--device", "cpu", "--bind"]
    assert main([*command, "encoders.cnn.depth = 3"]) == ExitCode.BAD_RUN
    assert "encoders.cnn.depth: was 2, now 3" in capsys.readouterr().err
    assert main([*command, "Online.total_agent_steps = 60"]) == 0
    steps = [line["agent_steps"] for line in read_json_lines(run_copy / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert steps[-1] == 60


def test_another_seed_is_another_run(
    gin: Path, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--gin", str(gin), "--run-dir", str(run_copy), "--seed", "4"])
    assert code == ExitCode.BAD_RUN
    assert "--seed: was 3, now 4" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_130(gin: Path, run_dir: Path, number: int) -> None:
    command = ["--gin", gin, "--run-dir", run_dir, "--device", "cpu"]
    command += ["--bind", "Online.total_agent_steps = 100000"]
    child = warm.start(warm.CLI, *command)
    child.wait_for(lambda: any((run_dir / "checkpoints").glob("gen-*")))
    child.send_signal(number)
    done = child.finish()
    assert done.returncode == ExitCode.INTERRUPTED
    assert "stopped and saved" in done.stderr
    saved = Checkpoints(run_dir / "checkpoints").load_part("loop")["counters"]
    last = list(read_json_lines(run_dir / "metrics.jsonl"))[-1]
    assert last["agent_steps"] == saved["agent_steps"]


def test_evaluate_plays_the_saved_agent(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(run_copy), "--episodes", "2", "--json", "--video", "--device", "cpu"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["eval/episodes"] == 2
    assert first["agent_steps"] == 50
    assert Path(first["video"]).exists()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main(["evaluate", str(run_copy), "--checkpoint", "1"]) == ExitCode.BAD_RUN


def test_an_online_run_is_analysed_on_evaluation_episodes(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--observed", "2", "--predicted", "2", "--clips", "2", "--json", "--device", "cpu"]
    assert main(["analyse", "predict", str(run_copy), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["picture"]).parent == run_copy / "analyses"
    assert len(json.loads(Path(found["numbers"]).read_text())["mse_per_frame"]) == 4


def test_evaluate_wants_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == ExitCode.BAD_RUN
    assert "NotARunFolder" in capsys.readouterr().err


def test_describe_gives_the_published_parameter_counts(
    repo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gin = repo_root / "experiments" / "dreamerv2_metaworld.gin"
    assert main(["describe", "--gin", str(gin), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    components = found["components"]
    assert components["encoder"]["parameters"] == 1_551_312
    assert components["dynamics"]["parameters"] == 13_125_632
    assert components["decoder"]["parameters"] == 11_152_275
    assert components["heads.reward"]["parameters"] == 1_301_201
    assert components["encoder"]["name"] == "cnn"
    assert components["encoder"]["distribution"] == "wmplatform"
    assert {"actor", "critic", "slow_critic"} <= components["behavior"]["children"].keys()
    assert sum(found["optimizers"].values()) == found["totals"]["trainable"]
    assert found["env"]["action"] == {"size": 4, "kind": "continuous"}


def test_describe_prints_tables(gin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--gin", str(gin)]) == 0
    printed = capsys.readouterr().out
    assert "heads.reward" in printed
    assert "left behind" not in printed


def test_describe_names_the_settings_that_a_replaced_part_left_behind(
    gin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resnet = [
        "--bind",
        "WorldModel.encoder = @encoders.resnet",
        "--bind",
        "encoders.resnet.depth = 2",
    ]
    assert main(["describe", "--gin", str(gin), *resnet]) == 0
    printed = capsys.readouterr()
    assert "left behind by replaced parts: encoders.cnn.depth\n" in printed.out
    assert printed.err == ""


def test_check_prints_a_line_for_each_law(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "encoder", "cnn", "--bind", "encoders.cnn.depth = 2"]) == 0
    assert "law 3" in capsys.readouterr().out
    assert main(["check", "encoder", "cnn", "--bind", "depth = x"]) == ExitCode.BAD_INPUT
    assert main(["check", "encoder", "cmn"]) == ExitCode.BAD_INPUT
    assert "'cnn'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["encoder", "cnn"], ["encoders.cnn"], ["Encoder", "cnn"]])
def test_check_takes_a_component_by_any_of_its_names(words: list[str]) -> None:
    assert main(["check", *words, "--bind", "depth = 2"]) == 0


@pytest.mark.parametrize("name", ["nonsense", "meta"])
def test_a_device_that_holds_nothing_is_refused(name: str) -> None:
    with pytest.raises(NoSuchDevice, match=name):
        choose_device(name)


class SickSquare(MovingSquare):
    """An adapter that cannot render here."""

    def diagnose(self) -> list[Diagnosis]:
        """Report what is missing."""
        return [Diagnosis("square rendering", False, "no [GL] library", "apt install libegl1")]


@pytest.mark.parametrize(("kind", "code"), [(MovingSquare, 0), (SickSquare, 4)])
def test_doctor_prints_the_fix_of_what_is_broken(
    kind: type[MovingSquare],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    square = Component("envs", "square", f"{__name__}:{kind.__name__}", "square-wm", "1.0")
    monkeypatch.setattr(doctor, "components", lambda *_: [square])
    assert main(["doctor", "--run-dir", str(tmp_path / "new" / "runs")]) == code
    said = capsys.readouterr().out
    assert "torch" in said
    assert "disk" in said
    if code:
        assert "BAD square rendering: no [GL] library" in said
        assert "fix  apt install libegl1" in said
        assert "1 of" in said
    else:
        assert "BAD" not in said
        assert "envs: square" in said
        assert said.endswith("nothing is missing\n")


class UnbuildableSquare(MovingSquare):
    """An adapter that nobody can make here."""

    def __init__(self) -> None:
        raise RuntimeError("no display")


class UndiagnosableSquare(MovingSquare):
    """An adapter whose diagnosis fails."""

    def diagnose(self) -> list[Diagnosis]:
        """Raise."""
        raise RuntimeError("no display")


@pytest.mark.parametrize("kind", [UnbuildableSquare, UndiagnosableSquare])
def test_doctor_reports_an_adapter_that_raises_and_goes_on(
    kind: type[MovingSquare],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    squares = [
        Component("envs", name, f"{__name__}:{made.__name__}", "square-wm", "1.0")
        for name, made in {"sick": kind, "well": SickSquare}.items()
    ]
    monkeypatch.setattr(doctor, "components", lambda *_: squares)
    assert main(["doctor"]) == ExitCode.ENVIRONMENT
    said = capsys.readouterr().out
    assert "BAD envs.sick environment: RuntimeError: no display" in said
    assert "fix  mend or uninstall 'square-wm'" in said
    assert "BAD square rendering" in said, "the one after it"


class ServedSquare(MovingSquare):
    """An adapter whose simulator is a server."""

    @classmethod
    def diagnose_server(cls, address: str) -> list[Diagnosis]:
        """Report a version."""
        return [Diagnosis(f"square at {address}", address != "off:1", "version 4", "switch it on")]


@pytest.mark.parametrize(
    ("kind", "address", "code", "said"),
    [
        (ServedSquare, "here:1", 0, "ok  square at here:1: version 4"),
        (ServedSquare, "off:1", 4, "fix  switch it on"),
        (MovingSquare, "here:1", 4, "BAD server here:1: MovingSquare uses none"),
        (MovingSquare, "here:x", 4, "BAD server here:x: MovingSquare uses none"),
    ],
)
def test_doctor_looks_at_the_server_it_is_told(
    kind: type[MovingSquare],
    address: str,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    square = Component("envs", "square", f"{__name__}:{kind.__name__}", "square-wm", "1.0")
    monkeypatch.setattr(doctor, "components", lambda *_: [square])
    monkeypatch.setattr(cli, "_environments", lambda: ["square"])
    assert main(["doctor", "--square", address]) == code
    assert said in capsys.readouterr().out


def test_doctor_refuses_an_address_for_what_is_no_environment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--cnn", "here:1"])
    assert "unrecognized arguments: --cnn here:1" in capsys.readouterr().err
