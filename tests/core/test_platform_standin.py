"""Nothing that wants the standard library's `platform` may notice the folder at the root."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL = """
    import importlib.util, os
    spec = importlib.util.spec_from_file_location(
        "platform", os.path.join(os.path.dirname(os.__file__), "platform.py"))
    real = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(real)
"""


def python(
    *args: str, cwd: Path = ROOT, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter as a user would: from a folder, without pytest's own path entries."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, *args],
        check=False,
        cwd=cwd,
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def run_code(body: str, preamble: str = "", **kwargs: Path) -> str:
    """Run `body` at the root after asserting that `platform` is the stand-in."""
    first = f"import platform; assert platform.__file__ == {str(ROOT / 'platform/__init__.py')!r}\n"
    return python("-c", first + textwrap.dedent(preamble) + textwrap.dedent(body), **kwargs).stdout


def test_every_name_is_there_and_equal() -> None:
    out = run_code(
        """
        own = {"__path__", "__file__", "__loader__", "__spec__", "__package__", "__cached__",
               "__builtins__"}
        odd = (set(vars(platform)) ^ set(vars(real))) - own
        assert not odd, odd
        for name in set(vars(real)) - own:
            a, b = getattr(platform, name), getattr(real, name)
            if hasattr(b, "__code__"):
                assert a.__code__ == b.__code__ and a.__module__ == b.__module__, name
            elif isinstance(b, type) and b.__module__ == "platform":
                assert a.__qualname__ == b.__qualname__ and a.__module__ == b.__module__, name
                assert set(vars(a)) == set(vars(b)), name
            else:
                assert a == b or repr(a) == repr(b), name
        print(len(vars(real)))
        """,
        REAL,
    )
    assert int(out) > 50


def test_answers_are_the_real_ones() -> None:
    run_code(
        """
        for name in ("system", "machine", "node", "release", "version", "python_version",
                     "python_implementation", "platform", "uname", "libc_ver", "architecture"):
            assert getattr(platform, name)() == getattr(real, name)(), name
        """,
        REAL,
    )


def test_pickle_patch_reload_and_inspect_work() -> None:
    run_code(
        """
        import importlib, inspect, pickle
        from unittest import mock
        assert pickle.loads(pickle.dumps(platform.uname())) == platform.uname()
        assert pickle.loads(pickle.dumps(platform.system)) is platform.system
        with mock.patch("platform.system", return_value="Plan9"):
            assert platform.system() == "Plan9"
        assert "uname" in inspect.getsource(platform.system)
        assert inspect.getmodule(platform.system) is platform
        assert importlib.reload(platform) is platform and platform.system() != "Plan9"
        """
    )


def test_python_dash_m_platform_prints_what_the_real_one_prints(tmp_path: Path) -> None:
    for arguments in ((), ("--terse",)):
        here, there = (python("-m", "platform", *arguments, cwd=d) for d in (ROOT, tmp_path))
        assert here.stdout == there.stdout


def test_spawned_workers_see_the_real_names_even_after_chdir(tmp_path: Path) -> None:
    run_code(
        f"""
        import multiprocessing, os
        if __name__ == "__main__":
            for folder in ({str(ROOT)!r}, {str(tmp_path)!r}):
                os.chdir(folder)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    assert pool.apply(platform.system) == platform.system()
                    assert pool.apply(platform.uname) == platform.uname()
        """
    )


def test_a_worker_spawned_under_the_launcher_imports_it_without_running_it() -> None:
    code = """
        import runpy
        names = runpy.run_module("platform.run", run_name="__mp_main__")
        assert "main" not in names and names["__name__"] == "__mp_main__"
    """
    run_code(code)


def test_pip_runs_from_the_root() -> None:
    assert python("-m", "pip", "--version").stdout.startswith("pip ")


@pytest.mark.parametrize("module", ["pytest", None], ids=["python -m pytest", "pytest"])
def test_pytest_runs_from_the_root(tmp_path: Path, module: str | None) -> None:
    case = tmp_path / "test_it.py"
    case.write_text(
        "import platform, wmplatform\n"
        "def test_it():\n    assert platform.system() and wmplatform.__name__ == 'wmplatform'\n"
    )
    start = ["-m", "pytest"] if module else ["-c", "import pytest; pytest.console_main()"]
    args = [
        *start,
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={ROOT}",
        "-c",
        "pyproject.toml",
    ]
    flags = [] if module else ["-P"]  # as the console script: the folder is not on the path
    assert "1 passed" in python(*flags, *args, str(case)).stdout


def test_the_launcher_starts_from_the_root() -> None:
    assert "usage: wmplatform" in python("-m", "platform.run", "--help").stdout


@pytest.mark.parametrize("flags", [(), ("-P",), ("-I",)], ids=["cwd", "-P", "-I"])
def test_elsewhere_python_refuses_and_the_package_name_works(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    refused = python(*flags, "-m", "platform.run", "--help", cwd=tmp_path, check=False)
    assert refused.returncode != 0
    assert "platform" in refused.stderr
    launch = f"import sys; sys.path[:0] = [{str(ROOT / 'platform')!r}, {str(ROOT / 'plugins')!r}]"
    code = f"{launch}; sys.argv = ['wmplatform', '--help']; from wmplatform.cli import main; main()"
    done = python(*flags, "-c", code, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: wmplatform" in done.stdout


def test_the_console_script_and_the_module_work_in_another_folder(
    tmp_path: Path,
) -> None:
    script = Path(sys.executable).parent / "wmplatform"
    if not script.exists():
        pytest.skip("not installed: no console script beside this interpreter")
    done = subprocess.run(
        [script, "--help"], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: wmplatform" in done.stdout
    assert "usage: wmplatform" in python("-m", "wmplatform", "--help", cwd=tmp_path).stdout


def test_a_second_copy_of_the_package_is_refused() -> None:
    done = python("-c", "import platform.wmplatform", check=False)
    assert "import it as 'wmplatform'" in done.stderr


def test_without_site_packages_the_launcher_does_not_end_in_a_traceback() -> None:
    done = python("-S", "-m", "platform.run", "--help", check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "pip install -e" in done.stderr
