"""gin files by name: paths, and the experiments that packages ship. Imports no package.

A package ships the gin files in its folder `experiments`; `PACKAGE:base/x.gin` is `base/x.gin` in
that folder of the import package PACKAGE. The platform's own are `wmplatform:...`.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate, takewhile
from pathlib import Path

from wmplatform.config.source import Unreadable, folders

__all__ = ["GinFile", "find", "near", "shipped", "shipping", "summary"]

OWN = "wmplatform"
FOLDER = "experiments"
CHECKOUT = Path(__file__).resolve().parents[3] / FOLDER
"""Where a checkout has what the installed package has in its own folder."""

_SENTENCE_END = re.compile(r"\.?$|\.\s+(?=[A-Z`])")
_NAMED = re.compile(r"([A-Za-z_][\w.-]*):(.+)")


@dataclass(frozen=True)
class GinFile:
    """A gin file that was found."""

    path: Path
    name: str
    """As messages show it: `PACKAGE:file` where a package ships it, else the path."""
    package: str = ""
    """Import package that ships it; empty for a file that was found by its path."""


@dataclass(frozen=True)
class _Place:
    """A folder to look in."""

    folder: Path
    package: str = ""
    home: Path | None = None
    """The package's folder of experiments, which `folder` lies in."""

    def name(self, path: Path) -> str:
        """What messages call a file or a folder here."""
        if self.home is None:
            return _display(path)
        inside = path.relative_to(self.home).as_posix()
        return f"{self.package}:{'' if inside == '.' else inside}"

    def get(self, target: str) -> GinFile | None:
        """Look for a file here; a package's files do not lie outside of its experiments."""
        path = self.folder / target
        if not path.is_file():
            return None
        if self.home is not None:
            path = Path(os.path.normpath(path))  # links stay: an installer may have made some
            if not path.is_relative_to(self.home):
                return None
        return GinFile(path, self.name(path), self.package)


def find(target: str | Path, by: GinFile | None = None) -> GinFile | None:
    """Find the file that a name means; None where there is none.

    A name without a package is looked for, in this order,

    1. beside the file that includes it;
    2. in the current folder and in `experiments/` there; for an include in a package's file
       instead in all of that package's experiments, so that it means the same everywhere;
    3. among the experiments of the platform, where a leading `experiments/` may be given.

    `PACKAGE:file` is looked for in the experiments of that package alone. A `Path` is itself, even
    where its name looks like one of a package.

    Args:
        target: as `--gin` or `include` says it.
        by: the file with the `include`; None for the command line.
    """
    for place, name in _places(target, by):
        if found := place.get(name):
            return found
    return None


def near(target: str | Path, by: GinFile | None = None) -> str:
    """Lines for a message, after `find` found nothing: near names, and where was looked."""
    named = _NAMED.fullmatch(str(target))
    places = list(_places(target, by))
    if named and not places:
        ships = ", ".join(f"{package}:" for package in shipping())
        return f"no package {named[1]!r} with a folder {FOLDER!r}   known: {ships}"
    words: list[str] = []
    for place, name in places:
        if place.folder == place.home:
            words += [f"{place.package}:{file}" for file in _nearest(name, shipped(place.package))]
        else:
            folder = place.folder / Path(name).parent
            files = _nearest(Path(name).name, [file.name for file in folder.glob("*.gin")])
            words += [(Path(name).parent / file).as_posix() for file in files]
    looked = dict.fromkeys(place.name(place.folder) for place, _ in places)
    lines = [f"near {', '.join(map(repr, dict.fromkeys(words)))}"] if words else []
    lines.append(f"looked in: {', '.join(looked)}")
    return "\n".join([*lines, "`wmplatform list experiments` shows what packages ship"])


def _nearest(name: str, known: list[str]) -> list[str]:
    return get_close_matches(name, known, n=3, cutoff=0.6)


def shipped(package: str) -> list[str]:
    """Files that a package ships, sorted, by their names in its folder of experiments."""
    found = {
        file.relative_to(home).as_posix()
        for home in _homes(package)
        for file in home.rglob("*.gin")
    }
    return sorted(found)


def shipping() -> list[str]:
    """Packages that ship experiments: the platform, then those that hold declared components."""
    from wmplatform.registry import components

    modules = {component.value.partition(":")[0] for component in components()}
    packages = {p for module in modules for p in accumulate(module.split("."), "{}.{}".format)}
    return [OWN, *sorted(package for package in packages - {OWN} if shipped(package))]


def summary(file: GinFile) -> str:
    """First sentence of the comment that a file begins with; empty where it has none."""
    lines = takewhile(lambda line: line.startswith("# "), file.path.read_text().splitlines())
    text = " ".join(line.lstrip("# ").rstrip() for line in lines)
    return _SENTENCE_END.split(text, maxsplit=1)[0]


def _places(target: str | Path, by: GinFile | None) -> Iterator[tuple[_Place, str]]:
    """Where a name is looked for, and as what, in order."""
    if isinstance(target, Path):
        yield _Place(Path()), str(target)
        return
    if named := _NAMED.fullmatch(target):
        for home in _homes(named[1]):
            yield _Place(home, named[1], home), named[2]
        return
    if by is None or not by.package:
        beside = [by.path.parent.resolve()] if by else []
        yield from ((_Place(folder), target) for folder in (*beside, Path(), Path(FOLDER)))
    else:
        homes = _homes(by.package)
        for home in homes:
            if by.path.is_relative_to(home):
                yield _Place(by.path.parent, by.package, home), target
        yield from ((_Place(home, by.package, home), target) for home in homes)
    for home in _homes(OWN):
        yield _Place(home, OWN, home), target.removeprefix(f"{FOLDER}/")


def _homes(package: str) -> list[Path]:
    """Folders of experiments of an import package."""
    try:
        found = [folder.absolute() / FOLDER for folder in folders(package)]
    except Unreadable:
        return []
    there = [home for home in found if home.is_dir()]
    return there or ([CHECKOUT] if package == OWN and CHECKOUT.is_dir() else [])


def _display(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
