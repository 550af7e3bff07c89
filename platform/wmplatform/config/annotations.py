"""Annotations, read from source, as types that pydantic can check a value against.

Scalars are strict (an int for a float is fine, a bool for an int is not); a list may stand for a
tuple. What cannot be read is `Any`: a value is refused only for a reason that can be told.
"""

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import Strict
from pydantic.functional_validators import PlainValidator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from wmplatform.config.source import Imported, Module, Unreadable, resolve

__all__ = ["Wants", "read_annotation"]

LIGHT = frozenset(
    {"typing", "typing_extensions", "collections.abc", "collections", "annotated_types",
     "pydantic", "pathlib", "builtins", "numbers"}
)  # fmt: skip
SCALARS: dict[str, Any] = {t.__name__: Annotated[t, Strict()] for t in (bool, int, float, str)}
BUILTINS: dict[str, Any] = {
    **SCALARS,
    **{t.__name__: t for t in (tuple, list, dict, set, frozenset)},
    "object": Any,
    "None": None,
}
FACTORY = object()
"""Stands for `Factory`, `Callable` and `type` while an annotation is read."""


@dataclass(frozen=True)
class Wants:
    """A setting that takes a reference: to a factory of a class, or to an instance of it.

    Attributes:
        origin: `module:attribute` of the class; empty where any reference will do.
        call: whether the setting wants what the reference makes rather than the reference.
    """

    origin: str
    call: bool

    def __call__(self, value: object, info: ValidationInfo) -> object:
        """Accept or refuse, as a pydantic validator; the context judges references."""
        judge: Callable[[object, Wants], str] = (info.context or {}).get("judge", lambda *_: "")
        if message := judge(value, self):
            raise PydanticCustomError("reference", "{message}", {"message": message})
        return value

    @property
    def kind(self) -> str:
        """Name of the class."""
        return self.origin.rpartition(":")[2].rpartition(".")[2]

    @property
    def annotation(self) -> Any:
        """A type that pydantic checks with this object."""
        return Annotated[Any, PlainValidator(self)]


def read_annotation(node: ast.expr | None, module: Module) -> Any:
    """The type that an annotation in a module means; `Any` where it cannot be told."""
    if node is None:
        return Any
    try:
        found = _Reader(module).type(node)
    except (Unreadable, TypeError, AttributeError, SyntaxError, ValueError):
        return Any
    except RecursionError:  # an alias of itself, such as Tree: TypeAlias = "int | list[Tree]"
        return Any
    return Wants("", call=False).annotation if found is FACTORY else found


class _Reader:
    def __init__(self, module: Module) -> None:
        self.module = module

    def type(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=str() as text):
                return self.type(ast.parse(text, mode="eval").body)
            case ast.Name() | ast.Attribute():
                return self.named(ast.unparse(node))
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return Union[self.type(left), self.type(right)]  # noqa: UP007 - values, not names
            case ast.Subscript(value=value, slice=inner):
                return self.subscript(self.type(value), inner)
        return Any

    def subscript(self, base: Any, inner: ast.expr) -> Any:
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if base is FACTORY:
            return Wants(self.origin(parts[-1]), call=False).annotation
        if base is Literal:
            return Literal[tuple(ast.literal_eval(part) for part in parts)]
        if base is Annotated:
            metadata = [self.value(part) for part in parts[1:]]
            known = [m for m in metadata if m is not None]
            inside = self.type(parts[0])
            return Annotated[(inside, *known)] if known else inside
        if base in (Union, Optional):
            extra = (None,) if base is Optional else ()
            return Union[(*(self.type(part) for part in parts), *extra)]
        if base is Any:
            return Any
        return base[tuple(self.element(part) for part in parts)]

    def element(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, EllipsisType):
            return ...
        found = self.type(node)
        return Any if found is FACTORY else found

    def origin(self, node: ast.expr) -> str:
        """Where the class in `Factory[...]` is defined; empty where that cannot be told."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.Subscript):
            node = node.value
        if not isinstance(node, ast.Name | ast.Attribute):
            return ""
        try:
            found = resolve(self.module.name, ast.unparse(node))
        except Unreadable:
            return ""
        return found.origin if isinstance(found.node, ast.ClassDef) else ""

    def named(self, dotted: str) -> Any:
        head = dotted.partition(".")[0]
        if head not in self.module.names:
            return FACTORY if dotted == "type" else BUILTINS.get(dotted, Any)
        if (real := self.light(dotted)) is not None:
            return real
        found = resolve(self.module.name, dotted)
        if found.origin == "wmplatform.factory:Factory":
            return FACTORY
        if isinstance(found.node, ast.ClassDef):
            return Wants(found.origin, call=True).annotation
        if isinstance(found.node, ast.expr) and found.module:
            return _Reader(found.module).type(found.node)  # an alias such as Literal["a", "b"]
        return Any

    def light(self, dotted: str) -> Any:
        """The real object behind a name that comes from a module which costs nothing to import."""
        head, _, rest = dotted.partition(".")
        entry = self.module.names[head]
        if not isinstance(entry, Imported):
            return None
        words = [w for w in (entry.attribute, rest) if w]
        path = f"{entry.module}.{'.'.join(words)}" if words else entry.module
        home, _, name = path.rpartition(".")
        if home not in LIGHT:
            return None
        if name in ("Callable", "Type"):
            return FACTORY
        return SCALARS.get(name) or getattr(importlib.import_module(home), name, None)

    def value(self, node: ast.expr) -> Any:
        """A range such as `Ge(1)`; None where it cannot be told."""
        if not isinstance(node, ast.Call):
            return None
        try:
            make = self.light(ast.unparse(node.func))
            positional = [self.constant(a) for a in node.args]
            named = {k.arg: self.constant(k.value) for k in node.keywords if k.arg}
        except (KeyError, ValueError, Unreadable):
            return None
        return make(*positional, **named) if callable(make) else None

    def constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            found = resolve(self.module.name, node.id)
            if not isinstance(found.node, ast.expr):
                raise Unreadable(node.id)
            node = found.node
        return ast.literal_eval(node)
