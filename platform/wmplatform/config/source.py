"""Python source, read without being run: modules, their top-level names, and a class's ancestors.

Checking a configuration needs the signatures of components whose modules import torch. Their source
says as much, in a few milliseconds.
"""

import ast
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

__all__ = [
    "Definition",
    "Imported",
    "Module",
    "Unreadable",
    "ancestors",
    "folders",
    "module",
    "resolve",
]

HEAVY = frozenset({"torch", "numpy", "gymnasium", "tensordict", "torchrl", "mujoco", "pydantic"})
"""Packages that are never read: their classes are named, not followed."""


class Unreadable(Exception):  # noqa: N818 - an answer, not an error
    """The source does not say; importing might."""


@dataclass(frozen=True)
class Imported:
    """A top-level name that an import statement binds."""

    module: str
    attribute: str = ""
    """Empty where the name is the module itself."""


@dataclass
class Module:
    """One parsed file."""

    name: str
    path: Path
    names: dict[str, ast.AST | Imported] = field(default_factory=dict)
    """Top-level classes, functions, assigned values and imports."""

    @property
    def is_package(self) -> bool:
        """Whether it is an `__init__.py`."""
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Definition:
    """Where a name is defined in the end. `node` is None for what is not followed."""

    module: Module | None
    origin: str
    """`module:attribute`."""
    node: ast.AST | None


def external(name: str) -> bool:
    """Whether a module is of the standard library or of a package that is never read."""
    top = name.partition(".")[0]
    return top in HEAVY or top in sys.stdlib_module_names


@cache
def module(name: str) -> Module:
    """Parse a module that has not been imported, nor any of its parents.

    Raises:
        Unreadable: there is no such module, or its source is missing or wrong.
    """
    path = _locate(name)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    found = Module(name, path)
    _collect(tree.body, found)
    return found


def folders(name: str) -> list[Path]:
    """Folders of a package, found without importing it or its parents; none for a module.

    Raises:
        Unreadable: there is no such module.
    """
    return [Path(folder) for folder in _search(name)[1] or ()]


def _locate(name: str) -> Path:
    origin = _search(name)[0].origin
    if not origin or not origin.endswith(".py"):
        raise Unreadable(f"no source for module {name!r}")
    return Path(origin)


def _search(name: str) -> tuple[ModuleSpec, list[str] | None]:
    """Find a module's spec and, for a package, its folders."""
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for i, part in enumerate(parts):
        spec = _find_spec(".".join(parts[: i + 1]), path)
        if spec is None:
            raise Unreadable(f"ModuleNotFoundError: No module named {'.'.join(parts[: i + 1])!r}")
        path = _folders(spec, part, path)
    assert spec is not None
    return spec, path


def _find_spec(name: str, path: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def _folders(spec: ModuleSpec, part: str, parents: list[str] | None) -> list[str] | None:
    if spec.submodule_search_locations is None:
        return None
    try:
        return list(spec.submodule_search_locations)
    except KeyError:  # a namespace package looks for its parent among the imported modules
        return [str(Path(p) / part) for p in parents or () if (Path(p) / part).is_dir()]


def _collect(body: list[ast.stmt], into: Module) -> None:
    for node in body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                into.names[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                into.names[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                into.names[name] = value
            case ast.Import() | ast.ImportFrom():
                _collect_import(node, into)
            case ast.If() | ast.Try():
                for part in ("orelse", "handlers", "body"):
                    for child in getattr(node, part, []):
                        _collect(
                            getattr(child, "body", [child]) if part == "handlers" else [child], into
                        )
            case _ if type(node).__name__ == "TypeAlias":  # `type X = ...`, Python 3.12
                into.names[node.name.id] = node.value  # type: ignore[attr-defined]


def _collect_import(node: ast.Import | ast.ImportFrom, into: Module) -> None:
    if isinstance(node, ast.Import):
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            into.names[bound] = Imported(alias.name if alias.asname else bound)
        return
    base = node.module or ""
    if node.level:
        parts = into.name.split(".")
        keep = len(parts) - node.level + into.is_package
        base = ".".join([*parts[:keep], *filter(None, [node.module])])
    for alias in node.names:
        into.names[alias.asname or alias.name] = Imported(base, alias.name)


def resolve(module_name: str, dotted: str, depth: int = 0) -> Definition:
    """Follow a name through imports to where it is defined.

    Raises:
        Unreadable: the trail ends.
    """
    if external(module_name):
        return Definition(None, f"{module_name}:{dotted}", None)
    if depth > 20:
        raise Unreadable(f"{module_name}:{dotted} is imported in a circle")
    source = module(module_name)
    head, _, rest = dotted.partition(".")
    node = source.names.get(head)
    if node is None:
        return _resolve_lazy(source, dotted, depth)
    if isinstance(node, ast.Name) and not rest:  # `Alias = Original`
        return resolve(module_name, node.id, depth + 1)
    if not isinstance(node, Imported):
        if rest:
            raise Unreadable(f"{module_name}:{dotted} lies inside {head}")
        return Definition(source, f"{module_name}:{head}", node)
    if not node.attribute:
        return _resolve_in(node.module, rest, depth)
    target = f"{node.attribute}.{rest}" if rest else node.attribute
    return resolve(node.module, target, depth + 1)


def _resolve_in(name: str, rest: str, depth: int) -> Definition:
    """Resolve `rest` after `import name`, whose first words may be submodules."""
    words = rest.split(".")
    for i in range(len(words) - 1, -1, -1):
        try:
            return resolve(".".join([name, *words[:i]]), ".".join(words[i:]), depth + 1)
        except Unreadable:
            continue
    raise Unreadable(f"{name} has no {rest}")


def _resolve_lazy(source: Module, dotted: str, depth: int) -> Definition:
    """A name that a package does not define: a submodule, or one that it imports when asked."""
    head, _, rest = dotted.partition(".")
    if source.is_package:
        if rest and (source.path.parent / f"{head}.py").is_file():
            return resolve(f"{source.name}.{head}", rest, depth + 1)
        name = re.escape(head)
        line = re.compile(rf"^(?:class|def) {name}\b|^{name}\s*[:=]", re.MULTILINE)
        for file in sorted(source.path.parent.glob("*.py")):
            if file != source.path and line.search(file.read_text(encoding="utf-8")):
                return resolve(f"{source.name}.{file.stem}", dotted, depth + 1)
    raise Unreadable(f"AttributeError: module {source.name!r} has no attribute {head!r}")


def ancestors(origin: str) -> list[str]:
    """`module:attribute` of a class and of everything it derives from, nearest first.

    Raises:
        Unreadable: the class itself cannot be found.
    """
    module_name, _, attribute = origin.partition(":")
    found = resolve(module_name, attribute)
    chain = [found.origin]
    if isinstance(found.node, ast.ClassDef) and found.module:
        for base in found.node.bases:
            dotted = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
            try:
                chain += ancestors(f"{found.module.name}:{dotted}")
            except Unreadable:
                chain.append(f"?:{dotted}")
    return list(dict.fromkeys(chain))
