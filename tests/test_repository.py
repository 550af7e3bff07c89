"""Laws of the repository itself: versions, entry points, pins, paths, and what may import what."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = (ROOT / "platform", ROOT / "plugins")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines
]
ENTRY_POINTS = [
    (group, name, value)
    for group, entries in PROJECT["entry-points"].items()
    for name, value in entries.items()
]
PLACES = ("platform", "plugins", "tests", "benchmarks", "scripts", "experiments", "docs", ".ci")
ADDS_FLOATS = (
    "platform/wmplatform/collect",
    "platform/wmplatform/contracts/env_adapter.py",
    "platform/wmplatform/contracts/optimizer.py",
    "platform/wmplatform/edge.py",
    "platform/wmplatform/envs.py",
    "platform/wmplatform/evaluation.py",
    "platform/wmplatform/logging",
    "platform/wmplatform/sums.py",
    "platform/wmplatform/videos/sampling.py",
    "plugins",
)
"""Where rewards, returns, metrics and weights are added."""
TORCH_FREE = (
    "wmplatform",
    "wmplatform.cli",
    "wmplatform.config",
    "wmplatform.configurables",
    "wmplatform.envs",
    "wmplatform.errors",
    "wmplatform.interfaces.env_adapter",
    "wmplatform.registry",
    "wmplatform.sums",
    "wmplugins.carla",
    "wmplugins.dmcontrol",
    "wmplugins.dmcremastered",
    "wmplugins.gym",
    "wmplugins.metaworld",
    "wmplugins.toyworlds",
)


def files(*suffixes: str, under: tuple[str, ...] = ()) -> list[Path]:
    """Files of the project with one of `suffixes`, in `under` or everywhere it keeps its own."""
    places = under or PLACES
    found = [f for place in places for f in (ROOT / place).rglob("*") if f.suffix in suffixes]
    return sorted(found + ([] if under else [f for f in ROOT.glob("*") if f.suffix in suffixes]))


def pins() -> dict[str, Version]:
    """Versions in constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def uses_builtin_sum(source: Path) -> bool:
    """Whether a file names the built-in `sum`, be it in a call or as a value."""
    names = [n for n in ast.walk(ast.parse(source.read_text())) if isinstance(n, ast.Name)]
    return any(name.id == "sum" for name in names)


def source_of(module: str) -> Path | None:
    """File of one of our modules."""
    stems = [root / Path(*module.split(".")) for root in SOURCE_ROOTS]
    candidates = [c for stem in stems for c in (stem.with_suffix(".py"), stem / "__init__.py")]
    return next((c for c in candidates if c.is_file()), None)


def defines(module: str, attribute: str) -> bool:
    """Whether `module` defines `attribute`, itself or by importing it from a module that does."""
    source = source_of(module)
    if source is None:
        return False
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return True
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == attribute and defines(node.module, alias.name):
                    return True
    return False


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_installed_versions_are_within_the_declared_ranges(requirement: Requirement) -> None:
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        pytest.skip("an extra that is not installed here")
    assert Version(installed).base_version in requirement.specifier


def test_the_simulators_run_on_the_versions_they_were_tried_with() -> None:
    assert metadata.version("mujoco") == "3.3.0"
    assert metadata.version("metaworld") == "3.1.1"
    assert Version(metadata.version("numpy")) < Version("2.4")
    assert Version("2.11") <= Version(metadata.version("torch")) < Version("2.14")


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_rliable_comes_with_a_pandas_that_it_imports_with() -> None:
    stats = {r.name: r.specifier for r in map(Requirement, EXTRAS["stats"])}
    assert "3.0.0" not in stats["pandas"], "arch, which rliable imports, fails with pandas 3"
    assert "2.3.3" in stats["pandas"]


def test_the_pins_satisfy_each_other() -> None:
    wrong = []
    for name, version in pins().items():
        with suppress(metadata.PackageNotFoundError):
            if Version(metadata.version(name)).public != version.public:
                continue  # what is installed here tells nothing about the pinned version
            for needed in map(Requirement, metadata.requires(name) or ()):
                pin = pins().get(canonicalize_name(needed.name))
                holds = needed.marker is None or needed.marker.evaluate({"extra": ""})
                if pin and holds and not needed.specifier.contains(pin, prereleases=True):
                    wrong.append(f"{name}=={version} needs {needed}, pinned is {pin}")
    assert wrong == []


def test_pins_hold_on_every_machine() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"\+cpu|\+cu\d|://| @ |nvidia", text)
    assert pins()["torch"] == Version("2.13.0")


@pytest.mark.parametrize(("group", "name", "value"), ENTRY_POINTS)
def test_every_entry_point_names_a_class_that_exists(group: str, name: str, value: str) -> None:
    target, _, extras = value.partition(" ")
    module, _, attribute = target.partition(":")
    assert defines(module, attribute), f"{group}: {name} = {value}"
    assert all(extra in EXTRAS for extra in re.findall(r"[\w-]+", extras))


def test_the_installed_entry_points_are_the_declared_ones() -> None:
    installed = {
        (e.group, e.name, f"{e.module}:{e.attr}")
        for e in metadata.distribution("wmplatform").entry_points
        if e.group.startswith("wmplatform.")
    }
    declared = {(group, name, value.split(" ")[0]) for group, name, value in ENTRY_POINTS}
    assert installed == declared, "run `make setup`: the installed entry points are out of date"


def test_the_core_never_mentions_a_plug_in() -> None:
    mentions = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files(".py", under=("platform/wmplatform",))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "wmplugins" in line
    ]
    assert mentions == []


def test_plug_ins_use_only_public_names_of_the_core() -> None:
    private = [
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in files(".py", under=("plugins",))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("wmplatform")
        and any(part.startswith("_") for part in f"{node.module}.{node.names[0].name}".split("."))
    ]
    assert private == []


def test_every_package_is_declared_for_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    sources = [(root, path) for root in SOURCE_ROOTS for path in root.rglob("*.py")]
    packages = {".".join(path.parent.relative_to(root).parts) for root, path in sources} - {""}
    assert set(settings["packages"]) == {*packages, "wmplatform.experiments"}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = (
        f"import sys, {module}; heavy = {{'torch', 'tensordict', 'mujoco', 'pygame', 'matplotlib'}}"
        "; sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    paths = os.pathsep.join(str(root) for root in SOURCE_ROOTS)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_floats_are_summed_alike_under_every_python() -> None:
    """Python 3.12's `sum` of floats gives other bits than 3.11's: wmplatform.sums.plain_sum."""
    places = [ROOT / place for place in ADDS_FLOATS]
    assert all(place.exists() for place in places)
    sources = [f for place in places for f in (place.rglob("*.py") if place.is_dir() else [place])]
    assert {str(f.relative_to(ROOT)) for f in sources if uses_builtin_sum(f)} == set()


def test_no_file_is_too_long_to_read() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files(".py")}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_code_and_experiments_are_ascii() -> None:
    texts = files(".py", ".gin", ".toml", ".sh", ".txt")
    assert [str(p.relative_to(ROOT)) for p in texts if not p.read_text().isascii()] == []


def absolute_paths() -> Iterator[str]:
    """Mentions of places that exist on one machine only."""
    everywhere = re.compile(r"(?<![\w.~-])/(work|root|home/\w+)/")
    for path in files(".py", ".gin", ".toml", ".sh", ".txt", ".md", ".json", ".jsonl"):
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if everywhere.search(line) or (path.suffix in {".md", ".gin"} and "/tmp/" in line):
                yield f"{path.relative_to(ROOT)}:{number}: {line[:80]}"


def test_nothing_names_a_path_of_one_machine() -> None:
    assert list(absolute_paths()) == []


def test_experiments_import_nothing() -> None:
    imports = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in files(".gin", under=("experiments",))
        for line in path.read_text().splitlines()
        if re.match(r"\s*(import|from)\s", line)
    ]
    assert imports == []


def test_links_in_the_documentation_lead_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in files(".md")
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert dead == []


def first_cells(page: str) -> set[str]:
    """First cells of all table rows of a page, without backquotes."""
    rows = re.findall(r"^\| `?(\w+)`? \|", (ROOT / page).read_text(), flags=re.MULTILINE)
    return set(rows)


@pytest.mark.parametrize("page", ["README.md", "docs/plugins.md"])
def test_the_documentation_lists_every_group(page: str) -> None:
    from wmplatform.registry import GROUPS

    assert set(GROUPS) <= first_cells(page)


def test_the_documentation_lists_every_exit_code() -> None:
    from wmplatform.errors import ExitCode

    assert {str(code.value) for code in ExitCode} <= first_cells("docs/configuration.md")


def shell(script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of our scripts."""
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / script), *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_apt_the_line_to_run_is_printed() -> None:
    done = shell("apt.sh", "no GL", "libegl1", "libgles2", PATH="/nonexistent")
    assert done.returncode == 4
    assert done.stderr.startswith("no GL. ")
    assert "apt-get install -y --no-install-recommends libegl1 libgles2" in done.stderr


# Interpreters that `make` may find: too old; a version manager's shim of a version that is not
# active; and one that makes an environment.
OLD = "[ $1 = -V ] && echo Python 3.9.18 && exit 0; exit 1"
SHIM = "echo 'pyenv: python3.12: command not found' >&2; echo 'It exists in: 3.12.1' >&2; exit 127"
GOOD = f'exec {sys.executable} "$@"'


def interpreter(path: Path, body: str) -> Path:
    """Write a script that stands for a Python interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (OLD, "is Python 3.9.18, and 3.11 or newer is needed\n  fix  name one that runs"),
        (SHIM, "does not run: pyenv: python3.12: command not found\nIt exists in: 3.12.1\n  fix  "),
    ],
    ids=["too old", "a shim"],
)
def test_a_python_that_cannot_be_used_is_refused_with_the_way_out(
    body: str, said: str, tmp_path: Path
) -> None:
    python = interpreter(tmp_path / "python3.12", body)
    done = shell("venv.sh", str(python), str(tmp_path / "venv"))
    assert done.returncode == 4
    assert f"{python} {said}" in done.stderr
    assert "make PYTHON=/path/to/python3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_python_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = shell("venv.sh", "python3.99", str(tmp_path / "venv"))
    assert done.returncode == 4
    assert "python3.99 does not run: " in done.stderr


def test_make_chooses_a_python_that_runs_and_names_those_that_do_not(tmp_path: Path) -> None:
    for name, body in {"python3.11": SHIM, "python3.12": OLD, "python3": GOOD}.items():
        interpreter(tmp_path / "bin" / name, body)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    venv = tmp_path / "venv"
    interpreter(venv / "bin" / "python", "exit 0")  # so that none has to be made
    done = shell("venv.sh", "", str(venv), PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "skipped: python3.11 does not run: pyenv: python3.12: command not found",
        "skipped: python3.12 is Python 3.9.18, and 3.11 or newer is needed",
    ]


def test_headless_rendering_is_found() -> None:
    done = shell("gl.sh", sys.executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"egl", "osmesa"}


def test_every_target_of_the_makefile_that_help_lists_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert {"quickstart", "test", "test-gpu", "test-slow", "lint", "bench", "clean"} <= set(
        re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE)
    )
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
