"""Look for what is missing on this machine, and say what mends it."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from wmplatform.errors import PlatformError
from wmplatform.interfaces.env_adapter import Diagnosis
from wmplatform.registry import BrokenPlugin, Component, components

__all__ = ["examine"]

_LITTLE_DISK_GB = 5


def examine(folder: Path, servers: Mapping[str, str] | None = None) -> Iterator[Diagnosis]:
    """Look at everything, cheapest first; each finding comes when it is known.

    Args:
        folder: where runs will be written.
        servers: addresses of simulators' servers by the names of their environments.
    """
    yield _python()
    yield from _requirements()
    yield _accelerator()
    yield _disk(folder)
    yield from _optional()
    yield from _plugins()
    for component in components("envs"):
        yield from _environment(component, (servers or {}).get(component.name))


def _python() -> Diagnosis:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Diagnosis("python", ok, found, "" if ok else "use Python 3.11 or 3.12")


def _requirements() -> Iterator[Diagnosis]:
    """Compare installed versions with what this package declares."""
    try:
        declared = metadata.requires("wmplatform") or []
    except metadata.PackageNotFoundError:
        fix = "pip install -e .   # in the checkout; `make quickstart` does it"
        yield Diagnosis("wmplatform", False, "not installed, so no versions are known", fix)
        return
    for text in declared:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        fix = f'pip install "{requirement.name}{requirement.specifier}"'
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Diagnosis(requirement.name, False, "not installed", fix)
            continue
        ok = requirement.specifier.contains(found, prereleases=True)
        wanted = f" (needs {requirement.specifier})" if not ok else ""
        yield Diagnosis(requirement.name, ok, f"{found}{wanted}", "" if ok else fix)


def _accelerator() -> Diagnosis:
    import torch

    if not torch.cuda.is_available():
        return Diagnosis("accelerator", True, f"none, torch {torch.__version__} runs on the CPU")
    try:
        torch.ones(1, device="cuda").add_(1).cpu()
    except RuntimeError as error:
        fix = "compare the driver (nvidia-smi) with torch's CUDA version; reinstall one of them"
        return Diagnosis("accelerator", False, str(error).splitlines()[0], fix)
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return Diagnosis("accelerator", True, f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")


def _disk(folder: Path) -> Diagnosis:
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    ok = free_gb >= _LITTLE_DISK_GB
    fix = "" if ok else f"free some space, or choose another disk with --run-dir ({folder})"
    return Diagnosis("disk", ok, f"{free_gb:.0f} GB free at {existing.resolve()}", fix)


def _optional() -> Iterator[Diagnosis]:
    """Look at libraries whose absence only costs comfort."""
    wanted = {
        "av": ("video", "videos are written as MP4", "videos are written as GIF"),
        "matplotlib": ("eval", "curves are drawn", "no curves are drawn"),
        "sklearn": ("eval", "t-SNE works", "no t-SNE of latents"),
    }
    for module, (extra, present, absent) in wanted.items():
        found = find_spec(module) is not None
        detail = present if found else f"{absent}; pip install 'wmplatform[{extra}]' changes that"
        yield Diagnosis(module, True, detail)


def _plugins() -> Iterator[Diagnosis]:
    """Import every component; those that load are one line a group."""
    found = [(component, _plugin(component)) for component in components()]
    loaded: dict[str, list[str]] = {}
    for component, diagnosis in found:
        if diagnosis is None:
            loaded.setdefault(component.group, []).append(component.name)
    for group, names in loaded.items():
        yield Diagnosis(group, True, ", ".join(names))
    yield from (diagnosis for _, diagnosis in found if diagnosis is not None)


def _plugin(component: Component) -> Diagnosis | None:
    """Import a component; None if it loads. One whose extra is not installed is not broken."""
    origin = f"{component.distribution} {component.version}"
    if component.missing():
        return Diagnosis(component.selector, True, f"not available: it {component.status()}")
    try:
        component.load()
    except BrokenPlugin as error:
        return Diagnosis(component.selector, False, f"{error.cause} ({origin})", error.hint)
    status = component.status()
    if status != "installed":
        return Diagnosis(component.selector, False, status, "uninstall one of the distributions")
    return None


def _environment(component: Component, server: str | None) -> Iterator[Diagnosis]:
    """Ask an adapter, built with its defaults, to try what it needs: the machine, a server."""
    if absent := component.missing():
        if server is not None:
            what = f"{' and '.join(absent)} not installed"
            yield Diagnosis(f"{component.selector} server", False, what, component.install_hint())
        return
    try:
        adapter = component.load()()
    except BrokenPlugin:
        return  # reported among the plug-ins
    except TypeError as error:
        detail = f"not tried: it has settings without a default ({error})"
        yield Diagnosis(f"{component.selector} environment", True, detail)
        return
    except Exception as error:  # noqa: BLE001 - a stranger's adapter may raise anything
        yield _raised(component, error)
        return
    try:
        yield from adapter.diagnose()
        if server is not None:
            yield from adapter.diagnose_server(server)
    except Exception as error:  # noqa: BLE001
        yield _raised(component, error)


def _raised(component: Component, error: Exception) -> Diagnosis:
    name = f"{component.selector} environment"
    if isinstance(error, PlatformError):
        return Diagnosis(name, False, error.what, error.hint)
    fix = f"mend or uninstall {component.distribution!r}"
    return Diagnosis(name, False, f"{type(error).__name__}: {error}", fix)
