"""The settings of a part: names, types, ranges, defaults and what they mean.

All of it is read from the source of the part, which is not imported; torch is not either.
"""

import json
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Union

import annotated_types as ranges
from pydantic.functional_validators import PlainValidator

from wmplatform import __version__
from wmplatform.config.annotations import Wants
from wmplatform.config.catalogue import Catalogue, Target, Unknown
from wmplatform.config.docstrings import argument_docs, summary
from wmplatform.config.signatures import MISSING, Setting
from wmplatform.config.source import Unreadable
from wmplatform.configurables import CONFIGURABLES
from wmplatform.errors import ExitCode, PlatformError

__all__ = ["Argument", "Part", "UnknownPart", "list_settings", "part"]


class UnknownPart(PlatformError):
    """A name that no part has, or a part whose source cannot be read."""

    exit_code = ExitCode.BAD_INPUT


@dataclass(frozen=True)
class Argument:
    """A setting, or an argument that the platform supplies."""

    name: str
    type: str
    """In words of a gin file: `int`, `'a' or 'b'`, `@Encoder` for a reference."""
    range: str
    """Empty where every value of the type will do."""
    default: str | None
    """As Python writes it; None where a value must be given."""
    doc: str


@dataclass(frozen=True)
class Part:
    """What can be said about a part."""

    selector: str
    value: str
    """`module:attribute`."""
    distribution: str
    version: str
    summary: str
    settings: list[Argument]
    wiring: list[Argument]
    open: bool
    """Takes further keyword arguments, which cannot be listed."""


def part(selector: str) -> Part:
    """Read a part's settings and wiring.

    Args:
        selector: `encoders.cnn` of a component, or `Learner` of a part of the core.

    Raises:
        UnknownPart: nothing is named so, or its source cannot be read.
    """
    catalogue = Catalogue(CONFIGURABLES)
    try:
        target = catalogue.find(selector)
    except Unknown as error:
        raise UnknownPart(error.what, hint=error.hint) from error
    try:
        return _read(target, catalogue)
    except Unreadable as error:
        raise UnknownPart(
            f"the settings of {selector} cannot be read: {error}",
            where=target.value,
            hint="`wmplatform list --load` says which plug-ins can be imported",
        ) from error


def list_settings(selector: str, *, as_json: bool = False) -> int:
    """Print a part's settings, each with its type, range, default and meaning, and its wiring.

    Args:
        selector: `encoders.cnn` of a component, or `Learner` of a part of the core.
        as_json: print JSON instead of text.

    Raises:
        UnknownPart: nothing is named so, or its source cannot be read.
    """
    found = part(selector)
    print(json.dumps(asdict(found), indent=2) if as_json else "\n".join(_lines(found)))
    return ExitCode.OK


def _read(target: Target, catalogue: Catalogue) -> Part:
    signature, component = target.signature, target.component
    docs = argument_docs(signature.origin)
    return Part(
        target.selector,
        target.value,
        component.distribution if component else "wmplatform",
        component.version if component else __version__,
        summary(signature.origin),
        [_setting(each, docs, catalogue) for each in signature.settings.values()],
        [_wired(each, docs) for each in signature.wiring.values()],
        signature.open,
    )


def _lines(found: Part) -> Iterator[str]:
    yield f"{found.selector}: {found.summary}" if found.summary else found.selector
    yield f"  {found.value} ({found.distribution} {found.version})"
    yield from ("", "settings", *_entries(found.settings, f"{found.selector}."))
    if found.open:
        yield "  and further keyword arguments, which the source does not name"
    if found.wiring:
        yield from ("", "wiring, which the platform supplies", *_entries(found.wiring, ""))


def _entries(arguments: Iterable[Argument], prefix: str) -> Iterator[str]:
    """A line as in a gin file, then what is known about it."""
    for each in arguments:
        needed = "required" if prefix and each.default is None else ""
        kind = ", ".join(filter(None, [each.type, each.range, needed]))
        yield f"  {prefix}{each.name}" + ("" if each.default is None else f" = {each.default}")
        text = kind + (f": {each.doc}" if each.doc else "")
        yield textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _setting(setting: Setting, docs: dict[str, str], catalogue: Catalogue) -> Argument:
    annotation, default = _declared(setting.declaration)
    if setting.default is not MISSING:
        default = repr(setting.default)
    elif reference := catalogue.default_reference(setting):
        default = f"@{reference.selector}"
    return Argument(
        setting.name,
        _type(setting.type) or annotation or "any value",
        ", ".join(dict.fromkeys(_ranges(setting.type))),
        None if setting.required else default,
        docs.get(setting.name, ""),
    )


def _wired(argument: Setting, docs: dict[str, str]) -> Argument:
    annotation, default = _declared(argument.declaration)
    given = None if argument.required else default
    return Argument(argument.name, annotation, "", given, docs.get(argument.name, ""))


def _declared(declaration: str) -> tuple[str, str]:
    """Annotation and default of `depth: int = 48`, as text."""
    name, colon, rest = declaration.partition(": ")
    if not colon:
        return "", name.partition("=")[2].strip()
    annotation, _, default = rest.partition(" = ")
    return annotation, default


def _type(kind: Any) -> str:
    """A type in words; empty where the annotation says more than it."""
    if kind is Any:
        return ""
    if kind in (None, types.NoneType):
        return "None"
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _reference(inner[1:]) or _type(inner[0])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(filter(None, map(_type, inner)))
    if origin is None:
        return str(getattr(kind, "__name__", kind))
    names = [_type(each) or "any value" for each in inner if each is not ...]
    joint = " to " if len(names) == 2 and issubclass(origin, Mapping) else ", "
    name = "dict" if issubclass(origin, Mapping) else origin.__name__
    return f"{name} of {joint.join(names)}"


def _reference(metadata: Iterable[Any]) -> str:
    """`@Encoder` for a setting that takes a reference to a part."""
    for each in metadata:
        if isinstance(each, PlainValidator) and isinstance(each.func, Wants):
            return f"@{each.func.kind or 'name'}{'()' * each.func.call}"
    return ""


_SIGNS = {ranges.Ge: ">=", ranges.Gt: ">", ranges.Le: "<=", ranges.Lt: "<"}


def _ranges(kind: Any) -> Iterator[str]:
    """Limits that a type and the types inside it set."""
    for each in getattr(kind, "__metadata__", ()):
        for limit in each if isinstance(each, ranges.GroupedMetadata) else [each]:
            match limit:
                case ranges.Ge(bound) | ranges.Gt(bound) | ranges.Le(bound) | ranges.Lt(bound):
                    # Types that compare equal are one object: 0 and 0.0 cannot be told apart.
                    if isinstance(bound, float) and bound.is_integer():
                        bound = int(bound)
                    yield f"{_SIGNS[type(limit)]} {bound}"
                case ranges.MinLen(length):
                    yield f"length >= {length}"
                case ranges.MaxLen(length):
                    yield f"length <= {length}"
                case ranges.MultipleOf(base):
                    yield f"a multiple of {base}"
    for inner in typing.get_args(kind):
        if typing.get_origin(kind) is not Literal and not isinstance(inner, str):
            yield from _ranges(inner)
