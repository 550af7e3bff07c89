"""The registry, on a real third-party distribution that is built and installed into a folder."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from wmplatform import registry
from wmplatform.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "{version}"
[project.optional-dependencies]
fancy = ["surely-not-installed>=1"]
[project.entry-points."wmplatform.envs"]
{entries}
[tool.setuptools]
py-modules = ["{module}"]
"""
MODULE = """
from wmplatform.interfaces.env_adapter import EnvAdapter

class Grid(EnvAdapter):
    def spec(self): ...
    def make(self, seed): ...
    name = "grid"

class Abstract(EnvAdapter):
    pass

class Other:
    pass

def make_grid() -> EnvAdapter:
    return Grid()

def make_other():
    return Other()
"""
ACME = """
grid = "acme_plugin:Grid"
made = "acme_plugin:make_grid"
untyped = "acme_plugin:make_other"
other = "acme_plugin:Other"
abstract = "acme_plugin:Abstract"
absent = "acme_plugin:NoSuchName"
broken = "acme_broken:Anything"
extra = "acme_plugin:Grid [fancy]"
shared = "acme_plugin:Grid"
"""


def install(source: Path, target: Path, name: str, module: str, entries: str, text: str) -> None:
    """Build a wheel from `source` and install it into `target`, as `pip install --target` does."""
    source.mkdir()
    version = "0.2"
    project = PYPROJECT.format(name=name, version=version, module=module, entries=entries)
    (source / "pyproject.toml").write_text(project)
    (source / f"{module}.py").write_text(text)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
    offline = ["--no-index", "--no-deps"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(source), str(source)]
    subprocess.run(build, check=True, cwd=source, capture_output=True)
    wheel = next(source.glob("*.whl"))
    subprocess.run(
        [*pip, "install", *offline, "--target", str(target), str(wheel)],
        check=True,
        cwd=source,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two third-party distributions installed in it."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    install(source / "acme", folder, "acme-wm", "acme_plugin", ACME, MODULE)
    rival = 'shared = "rival_plugin:Grid"'
    install(source / "rival", folder, "rival-wm", "rival_plugin", rival, MODULE)
    (folder / "acme_broken.py").write_text("import surely_not_installed\n")
    return folder


def run(site: Path, body: str) -> str:
    """Run code in a fresh process that has the distributions and the platform on its path."""
    path = os.pathsep.join(str(p) for p in (site, ROOT / "platform", ROOT / "plugins"))
    head = (
        "import sys\nfrom wmplatform import registry\nfrom wmplatform.registry import *\n"
        "def error(kind, call):\n"
        "    try:\n        call()\n"
        "    except kind as e:\n        return e\n"
        "    raise AssertionError('nothing was raised')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(body)],
        check=False,
        cwd=site,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_component_is_found_and_imported_only_when_loaded(site: Path) -> None:
    run(
        site,
        """
        grid = find("envs", "grid")
        assert (grid.distribution, grid.version) == ("acme-wm", "0.2")
        assert str(grid) == "envs.grid = acme_plugin:Grid (acme-wm 0.2)"
        assert grid.status() == "installed"
        assert "acme_plugin" not in sys.modules and "torch" not in sys.modules
        assert grid.load().__name__ == "Grid"
        assert find("envs", "made").load()().name == "grid"
        assert "torch" not in sys.modules
        """,
    )


def test_built_in_components_stand_beside_it(site: Path) -> None:
    out = run(site, "print(*(c.selector for c in components('envs')))")
    assert {"envs.gym", "envs.metaworld", "envs.grid"} <= set(out.split())


def test_a_broken_plugin_stops_only_those_who_use_it(site: Path) -> None:
    run(
        site,
        """
        broken = find("envs", "broken")
        assert broken.status() == "installed", "not known before it is tried"
        e = error(BrokenPlugin, broken.load)
        assert "'envs.broken' of acme-wm 0.2 failed to load" in str(e)
        assert "No module named 'surely_not_installed'" in str(e)
        assert e.component == broken and e.exit_code == 2
        assert broken.status().startswith("failed: ModuleNotFoundError")
        find("envs", "grid").load()
        e = error(UnknownComponent, lambda: find("envs", "grud"))
        assert "near 'grid'" in str(e)
        assert "acme-wm 0.2) failed to load: ModuleNotFoundError" in str(e), e
        """,
    )


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("other", "does not derive from EnvAdapter"),
        ("untyped", "nor a function annotated '-> EnvAdapter'"),
        ("abstract", "does not implement make, name, spec"),
        ("absent", "has no attribute 'NoSuchName'"),
    ],
)
def test_what_is_not_of_the_interface_is_refused(site: Path, name: str, cause: str) -> None:
    out = run(site, f"print(error(BrokenPlugin, find('envs', {name!r}).load))")
    assert cause in out
    assert "acme-wm 0.2" in out


def test_a_missing_extra_names_the_command_that_installs_it(site: Path) -> None:
    run(
        site,
        """
        extra = find("envs", "extra")
        assert extra.missing() == ["surely-not-installed"]
        e = error(BrokenPlugin, extra.load)
        assert e.hint == 'pip install "acme-wm[fancy]"' and e.exit_code == 4
        assert "acme_plugin" not in sys.modules
        assert "acme-wm[fancy]" in extra.status()
        """,
    )


def test_a_name_clash_names_both_and_only_when_the_name_is_used(site: Path) -> None:
    run(
        site,
        """
        e = error(DuplicateComponent, lambda: find("envs", "shared"))
        assert "'envs.shared' is declared by acme-wm 0.2 and by rival-wm 0.2" in str(e)
        listed = [c for c in components("envs") if c.name == "shared"]
        assert [c.status() for c in listed] == ["clash with rival-wm 0.2", "clash with acme-wm 0.2"]
        find("envs", "grid").load()
        """,
    )


def test_provenance_groups_by_distribution(site: Path) -> None:
    run(
        site,
        """
        used = [find("envs", n) for n in ("made", "grid", "metaworld")]
        acme, own = provenance(used)
        assert acme == {"distribution": "acme-wm", "version": "0.2", "components":
            {"envs.grid": "acme_plugin:Grid", "envs.made": "acme_plugin:make_grid"}}
        assert own["distribution"] == "wmplatform" and list(own["components"]) == ["envs.metaworld"]
        """,
    )


def test_a_checkout_that_is_not_installed_has_its_components(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = [{!r}, {!r}]\n"
        "from wmplatform import registry\n"
        "print(registry.find('envs', 'metaworld').distribution)"
    ).format(str(ROOT / "platform"), str(ROOT / "plugins"))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "wmplatform\n"


def test_unknown_names_answer_with_the_nearest_and_all_known() -> None:
    with pytest.raises(registry.UnknownComponent) as caught:
        registry.find("envs", "metawrld")
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "near 'metaworld'" in str(caught.value)
    assert {"gym", "metaworld"} <= set(caught.value.known)
    with pytest.raises(registry.UnknownComponent, match="no group named 'env'"):
        registry.components("env")


def test_every_group_has_an_interface_of_its_own() -> None:
    assert len({group.interface for group in registry.GROUPS.values()}) == len(registry.GROUPS)
    for group in registry.GROUPS.values():
        module, _, kind = group.interface.partition(":")
        source = ROOT / "platform" / (module.replace(".", "/") + ".py")
        assert f"class {kind}(" in source.read_text()


def test_a_stranger_lies_beside_the_platform_in_every_test() -> None:
    beside = [c for c in registry.components() if c.distribution == "beside-wm"]
    assert {component.group for component in beside} == set(registry.GROUPS)
    for component in beside:
        if component.name != "beside_lawless":
            with pytest.raises(registry.BrokenPlugin, match="beside-wm"):
                component.load()
    done = subprocess.run(
        [sys.executable, "-m", "wmplatform", "list", "encoders"], check=True, capture_output=True
    )
    assert b"beside_lawless" in done.stdout, "in subprocesses too"


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from wmplatform import registry\n"
        "[c.status() for c in registry.components()]\n"
        "heavy = {'torch', 'numpy', 'gymnasium', 'pydantic', 'gin', 'wmplugins'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
