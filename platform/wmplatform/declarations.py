"""What installed distributions declare: entry points, extras, versions.

For the checkout that this package lies in, `pyproject.toml` is read instead of the metadata that an
install wrote once, so a checkout works without an install, and a new entry-point line without a
second one.
"""

import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from wmplatform import __version__

__all__ = ["Declaration", "declared", "installed", "requirements"]

OWN = "wmplatform"
REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)")
EXTRA_MARKER = re.compile(r"""^extra\s*==\s*['"]([^'"]+)['"]$""")


@dataclass(frozen=True)
class Declaration:
    """One entry point and who declares it."""

    group: str
    name: str
    value: str
    """`module:attribute`, without extras."""
    distribution: str
    version: str
    extras: tuple[str, ...] = ()


def declared(groups: Collection[str]) -> list[Declaration]:
    """Entry points of these groups, of all distributions on the path, this checkout included."""
    project = _checkout()
    found = []
    everything = metadata.entry_points()  # reads every distribution's file: once for all groups
    for point in (point for group in groups for point in everything.select(group=group)):
        name = _canonical(point.dist.name) if point.dist else "unknown"
        if project and name == OWN:
            continue
        version = point.dist.version if point.dist else "unknown"
        found.append(_declaration(point, point.dist.name if point.dist else name, version))
    own = project.get("entry-points", {})
    for group in groups:
        for name, value in own.get(group, {}).items():
            found.append(_declaration(metadata.EntryPoint(name, value, group), OWN, __version__))
    return found


def _declaration(point: metadata.EntryPoint, distribution: str, version: str) -> Declaration:
    value, _, extras = point.value.partition("[")  # point.extras raises where this is malformed
    names = tuple(re.findall(r"[\w.-]+", extras))
    return Declaration(point.group, point.name, value.strip(), distribution, version, names)


def requirements(distribution: str, extras: tuple[str, ...]) -> list[str]:
    """Names of the distributions that these extras of a distribution ask for.

    A requirement that also depends on the platform or on Python's version is left to pip.
    """
    project = _checkout()
    if project and _canonical(distribution) == OWN:
        optional = project.get("optional-dependencies", {})
        lines = [line for extra in extras for line in optional.get(extra, ())]
        return [_requirement_name(line) for line in lines if ";" not in line]
    try:
        declared_lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    names = []
    for line in declared_lines:
        requirement, _, marker = line.partition(";")
        match = EXTRA_MARKER.match(marker.strip())
        if match and match[1] in extras:
            names.append(_requirement_name(requirement))
    return names


def installed(distribution: str) -> bool:
    """Whether some version of a distribution is installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _requirement_name(line: str) -> str:
    match = REQUIREMENT.match(line)
    return match[1] if match else line.strip()


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _checkout() -> dict[str, Any]:
    """`[project]` of the checkout this package lies in; empty where it lies in site-packages."""
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if not file.is_file():
        return {}
    project: dict[str, Any] = tomllib.loads(file.read_text()).get("project", {})
    return project if project.get("name") == OWN else {}
