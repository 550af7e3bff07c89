"""What a class or function can be told: its settings, read from source without importing it.

Settings are keyword-only arguments; the arguments before the `*` are wiring, which the caller
supplies. Where a signature has no keyword-only argument, those with a default are settings; the
fields of a dataclass are settings too.
"""

import ast
import importlib
import inspect
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from wmplatform.config.annotations import read_annotation
from wmplatform.config.source import Definition, Module, Unreadable, ancestors, resolve

__all__ = ["MISSING", "Setting", "Signature", "read_signature"]

MISSING: Any = object()
"""No default, or one that is not a literal."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One argument: one that a gin file can bind, or one of the wiring."""

    name: str
    type: Any
    """What pydantic checks a value against; `Any` for wiring."""
    declaration: str
    """As it stands in the source, e.g. `depth: Annotated[int, Ge(1)] = 48`."""
    required: bool
    default: Any = MISSING
    made_by: str = ""
    """`module:attribute` of a class or function that is the default."""


@dataclass
class Signature:
    """Arguments of a class's constructor or of a function."""

    origin: str
    """`module:attribute` of where it is defined."""
    settings: dict[str, Setting] = field(default_factory=dict)
    wiring: dict[str, Setting] = field(default_factory=dict)
    """Arguments that the caller supplies."""
    open: bool = False
    """Takes other keyword arguments too, which cannot be checked."""
    kinds: tuple[str, ...] = ()
    """`module:attribute` of what it makes and of its ancestors; empty where that is unknown."""


@cache
def read_signature(value: str) -> Signature:
    """Read the signature of `module:attribute`.

    Raises:
        Unreadable: neither the source nor an import tells; says why.
    """
    module_name, _, attribute = value.partition(":")
    try:
        return _from_source(resolve(module_name, attribute))
    except Unreadable:
        return _from_import(module_name, attribute)


def _from_source(found: Definition) -> Signature:
    if found.module is None:
        raise Unreadable(f"{found.origin} is not read from source")
    if isinstance(found.node, ast.FunctionDef):
        signature = _of_function(found.node, found.module, found.origin)
        return replace(signature, kinds=_returned(found.node, found.module))
    if isinstance(found.node, ast.ClassDef):
        signature = _of_class(found.node, found.module, found.origin)
        return replace(signature, kinds=tuple(ancestors(found.origin)))
    raise Unreadable(f"{found.origin} is neither a class nor a function")


def _returned(node: ast.FunctionDef, module: Module) -> tuple[str, ...]:
    if not isinstance(node.returns, ast.Name | ast.Attribute):
        return ()
    try:
        return tuple(ancestors(f"{module.name}:{ast.unparse(node.returns)}"))
    except Unreadable:
        return ()


def _of_function(node: ast.FunctionDef, module: Module, origin: str, skip: int = 0) -> Signature:
    """Settings and wiring of a function; `skip` drops `self`."""
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    pairs = list(zip(positional, defaults, strict=True))[skip:]
    result = Signature(origin, open=args.kwarg is not None)
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        result.settings[arg.arg] = _setting(arg.arg, arg.annotation, default, module)
    for arg, default in pairs:
        if args.kwonlyargs or default is None:
            text = _declaration(arg.arg, arg.annotation, default)
            result.wiring[arg.arg] = Setting(arg.arg, Any, text, default is None)
        else:
            result.settings[arg.arg] = _setting(arg.arg, arg.annotation, default, module)
    return result


def _setting(
    name: str, annotation: ast.expr | None, default: ast.expr | None, module: Module
) -> Setting:
    text = _declaration(name, annotation, default)
    try:
        value = MISSING if default is None else ast.literal_eval(default)
    except (ValueError, TypeError):
        value = MISSING
    kind = read_annotation(annotation, module)
    return Setting(name, kind, text, default is None, value, _default_origin(default, module))


def _declaration(name: str, annotation: ast.expr | None, default: ast.expr | None) -> str:
    text = name if annotation is None else f"{name}: {ast.unparse(annotation)}"
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _default_origin(default: ast.expr | None, module: Module) -> str:
    """Where a default such as `Replay` in `replay: Factory[Replay] = Replay` is defined."""
    if not isinstance(default, ast.Name | ast.Attribute):
        return ""
    try:
        found = resolve(module.name, ast.unparse(default))
    except Unreadable:
        return ""
    return found.origin if isinstance(found.node, ast.ClassDef | ast.FunctionDef) else ""


def _of_class(node: ast.ClassDef, module: Module, origin: str) -> Signature:
    init = next(
        (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None
    )
    if init is not None:
        own = _of_function(init, module, origin, skip=1)
        return _with_forwarded(own, init, node, module) if own.open else own
    if (decorator := _dataclass_decorator(node)) is not None:
        return _of_dataclass(node, module, origin, decorator)
    for base in _bases(node, module):
        if isinstance(base.node, ast.ClassDef) and base.module:
            inherited = _of_class(base.node, base.module, base.origin)
            if inherited.settings or inherited.wiring or inherited.open:
                return replace(inherited, origin=origin)
    return Signature(origin)


def _bases(node: ast.ClassDef, module: Module) -> list[Definition]:
    found = []
    for base in node.bases:
        name = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(name, ast.Name | ast.Attribute):
            found.append(resolve(module.name, ast.unparse(name)))
    return found


def _with_forwarded(
    own: Signature, init: ast.FunctionDef, node: ast.ClassDef, module: Module
) -> Signature:
    """Add the settings that `super().__init__(..., **kwargs)` hands on."""
    keyword = init.args.kwarg.arg if init.args.kwarg else ""
    calls = [
        call
        for call in ast.walk(init)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "super().__init__"
        and any(k.arg is None and ast.unparse(k.value) == keyword for k in call.keywords)
    ]
    if not calls:
        return own
    fixed = {k.arg for call in calls for k in call.keywords if k.arg}
    for base in _bases(node, module):
        if isinstance(base.node, ast.ClassDef) and base.module:
            parent = _of_class(base.node, base.module, base.origin)
            extra = {k: v for k, v in parent.settings.items() if k not in fixed}
            return replace(own, settings={**extra, **own.settings}, open=parent.open)
    return own


def _dataclass_decorator(node: ast.ClassDef) -> ast.expr | None:
    for decorator in node.decorator_list:
        name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if name in ("dataclass", "dataclasses.dataclass"):
            return decorator
    return None


def _of_dataclass(
    node: ast.ClassDef, module: Module, origin: str, decorator: ast.expr
) -> Signature:
    fields = _dataclass_fields(node, module, decorator)
    mixed = any(keyword for _, keyword in fields.values())
    return Signature(
        origin,
        settings={n: s for n, (s, keyword) in fields.items() if keyword or not mixed},
        wiring={n: s for n, (s, keyword) in fields.items() if mixed and not keyword},
    )


def _dataclass_fields(
    node: ast.ClassDef, module: Module, decorator: ast.expr
) -> dict[str, tuple[Setting, bool]]:
    """Fields by name, inherited ones first, each with whether it is keyword-only."""
    fields: dict[str, tuple[Setting, bool]] = {}
    for base in reversed(_bases(node, module)):
        if isinstance(base.node, ast.ClassDef) and base.module:
            inner = _dataclass_decorator(base.node)
            if inner is not None:
                fields |= _dataclass_fields(base.node, base.module, inner)
    all_keyword = _flag(decorator, "kw_only") is True
    for statement in node.body:
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        annotation, name = ast.unparse(statement.annotation), statement.target.id
        if annotation.endswith("KW_ONLY"):
            all_keyword = True
        elif "ClassVar" not in annotation and _flag(statement.value, "init") is not False:
            default = _field_default(statement.value)
            keyword = _flag(statement.value, "kw_only")
            setting = _setting(name, statement.annotation, default, module)
            fields[name] = setting, all_keyword if keyword is None else bool(keyword)
    return fields


def _flag(call: ast.expr | None, name: str) -> object:
    """The literal keyword argument `name` of a call to `dataclass` or `field`."""
    if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(("dataclass", "field")):
        for keyword in call.keywords:
            if keyword.arg == name and isinstance(keyword.value, ast.Constant):
                return keyword.value.value
    return None


def _field_default(value: ast.expr | None) -> ast.expr | None:
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        named = {k.arg: k.value for k in value.keywords}
        return named.get("default", named.get("default_factory"))
    return value


def _from_import(module_name: str, attribute: str) -> Signature:
    """The same from the object itself: names only, no types. Runs its module."""
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        parameters = inspect.signature(found).parameters.values()
    except Exception as error:  # a stranger's module may raise anything
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    classes = found.__mro__ if isinstance(found, type) else ()
    kinds = tuple(f"{c.__module__}:{c.__qualname__}" for c in classes)
    result = Signature(f"{module_name}:{attribute}", kinds=kinds)
    starred = any(p.kind is p.KEYWORD_ONLY for p in parameters)
    for p in parameters:
        required = p.default is p.empty
        if p.kind is p.VAR_KEYWORD:
            result.open = True
        elif p.kind is p.KEYWORD_ONLY or (
            p.kind is p.POSITIONAL_OR_KEYWORD and not starred and not required
        ):
            result.settings[p.name] = Setting(p.name, Any, str(p), required)
        elif p.kind is not p.VAR_POSITIONAL:
            result.wiring[p.name] = Setting(p.name, Any, str(p), required)
    return result
