"""The plug-in guide, followed to the letter: write, install, list, check, describe.

The platform is the installed wheel, and no folder is the checkout's.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "plugins.md").read_text()
CLI = [sys.executable, "-c", "import sys; from wmplatform.cli import main; sys.exit(main())"]
BLOCKS: dict[str, str] = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', GUIDE, re.DOTALL))


@pytest.fixture(scope="module")
def site(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the guide's package and the platform, both installed as distributions."""
    source, target = tmp_path_factory.mktemp("acme"), tmp_path_factory.mktemp("site")
    shutil.copytree(installation, target, dirs_exist_ok=True)
    (source / "acme_wm" / "experiments").mkdir(parents=True)
    (source / "acme_wm" / "__init__.py").touch()
    for name, text in BLOCKS.items():
        if name.endswith((".py", ".toml", ".gin")):
            (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    run([*pip, *offline, str(source)], cwd=source, path=[])
    return target


def run(command: list[str], *, cwd: Path, path: list[Path]) -> str:
    """Run a command with `path` importable; returns its output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert done.returncode == 0 or "broken" in done.stdout, done.stdout + done.stderr
    return done.stdout


def wmplatform(site: Path, *arguments: str) -> str:
    return run([*CLI, *arguments], cwd=site, path=[site])


def test_the_plugin_is_listed(site: Path) -> None:
    assert "patches" in wmplatform(site, "list", "encoders")


def test_the_encoder_passes_with_the_report_shown(site: Path) -> None:
    shown = BLOCKS["check"].split("\n", 1)[1]
    assert wmplatform(site, "check", "encoders", "patches") == shown


@pytest.mark.parametrize(
    ("group", "name"), [("dynamics", "guess"), ("env", "corridor"), ("heads", "ensemble")]
)
def test_the_other_components_pass(site: Path, group: str, name: str) -> None:
    report = wmplatform(site, "check", group, name)
    assert "passed" in report
    assert "broken" not in report


def test_a_setting_can_be_bound(site: Path) -> None:
    assert "broken" not in wmplatform(site, "check", "encoders", "patches", "--bind", "patch = 8")


def test_the_broken_reset_is_found_with_the_message_shown(site: Path, tmp_path: Path) -> None:
    package = tmp_path / "acme_wm"
    package.mkdir()
    (package / "__init__.py").touch()
    healthy, lines = BLOCKS["acme_wm/dynamics.py"], BLOCKS["a reset that leaks"]
    right = re.search(r"        fresh = .*\n        carry, action = select_where.*\n", healthy)
    assert right
    (package / "dynamics.py").write_text(healthy.replace(right.group(0), lines))
    command = [*CLI, "check", "dynamics", "guess"]
    report = run(command, cwd=tmp_path, path=[tmp_path, site])
    broken = [line for line in report.splitlines() if line.startswith("  broken")]
    for line in BLOCKS["the leak, found"].splitlines():
        assert line in broken, report


def test_the_experiment_is_described_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"^\$ wmplatform (describe .*)$", GUIDE, re.MULTILINE)
    described = run([*CLI, *command.split(), "--json"], cwd=tmp_path, path=[site])
    assert json.loads(described)["components"]["encoder"]["name"] == "patches"
    assert json.loads(described)["components"]["encoder"]["distribution"] == "acme-wm"


def test_the_guide_lists_every_building_block_where_it_is() -> None:
    section = GUIDE.partition("\n## Building blocks\n")[2].partition("\n```")[0]
    blocks, core = (
        re.findall(r"^\| (.*)", half, re.MULTILINE) for half in section.split("From the core:")
    )
    listed = [name for row in blocks for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(importlib.import_module("wmplugins.blocks").__all__)
    rows = [re.findall(r"`([\w.]+)`", row) for row in core if "`" in row]
    assert len(rows) == 5
    for module, *names in rows:
        assert set(names) <= set(importlib.import_module(module).__all__), module


def test_every_law_message_of_the_guide_is_one_that_the_checks_give() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", GUIDE, re.MULTILINE)
    messages = [row for row in rows if " " in row]
    assert len(messages) >= 9
    source = "".join(p.read_text() for p in (ROOT / "platform/wmplatform/contracts").glob("*.py"))
    for message in messages:
        words = re.split(
            r"\d+|\bnan\b|other values in|torch|observe\(deterministic=True\)", message
        )
        longest = max((w.strip() for w in words), key=len)
        assert longest in source, longest
