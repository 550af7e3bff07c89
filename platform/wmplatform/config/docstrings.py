"""What the source says in words: of a class or function, and of each of its arguments.

Read without an import, as signatures are.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise

from wmplatform.config.source import Unreadable, ancestors, resolve

__all__ = ["argument_docs", "summary"]

_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: *(?P<text>.*)")
"""`name: text`, `name (type): text` or `one, other: text`."""


def summary(origin: str) -> str:
    """First paragraph of the docstring of `module:attribute`, on one line; empty without one."""
    node = _node(origin)
    text = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
    return " ".join((text or "").partition("\n\n")[0].split())


def argument_docs(origin: str) -> dict[str, str]:
    """What is said about arguments of `module:attribute`, by name.

    It stands in a section `Args:` of the class or its constructor, or below an attribute of the
    same name. What a class does not explain itself, its ancestors may.
    """
    found: dict[str, str] = {}
    for each in _lineage(origin):
        node = _node(each)
        if isinstance(node, ast.FunctionDef):
            found = _sections(node) | found
        elif isinstance(node, ast.ClassDef):
            found = _of_class(node) | found
    return found


def _lineage(origin: str) -> list[str]:
    try:
        return ancestors(origin)
    except Unreadable:
        return []


def _node(origin: str) -> ast.AST | None:
    module_name, _, attribute = origin.partition(":")
    try:
        return resolve(module_name, attribute).node
    except Unreadable:
        return None


def _of_class(node: ast.ClassDef) -> dict[str, str]:
    """Of a class and its constructor; sections win over attributes."""
    init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    attributes = [_attributes(node.body), *(_attributes(n.body) for n in init)]
    sections = [_sections(node), *map(_sections, init)]
    return {name: text for found in attributes + sections for name, text in found.items()}


def _attributes(body: list[ast.stmt]) -> dict[str, str]:
    """Strings that stand below an assignment to a field or to an attribute of `self`."""
    found = {}
    for before, after in pairwise(body):
        match after:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                for name in _assigned(before):
                    found[name] = " ".join(inspect.cleandoc(text).split())
    return found


def _assigned(statement: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    for target in targets:
        match target:
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name):
                yield name


def _sections(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    """Entries of the section `Args:` of a docstring in Google's style."""
    lines = iter((ast.get_docstring(node) or "").splitlines())
    found: dict[str, str] = {}
    names: list[str] = []
    margin = 0
    for line in lines:
        if line.rstrip() == "Args:":
            break
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if not indent:
            break  # the next section
        margin = margin or indent
        entry = _ENTRY.fullmatch(line.strip()) if indent == margin else None
        if entry:
            names = [name.strip(" *") for name in entry["names"].split(",")]
            found |= dict.fromkeys(names, entry["text"].strip())
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found
