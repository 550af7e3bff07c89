"""Values of bindings: checked against an annotation, written as gin."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from wmplatform.config.annotations import Wants
from wmplatform.config.parsing import Ref
from wmplatform.config.signatures import Setting

__all__ = ["BadValue", "check_value", "write_value"]


class BadValue(Exception):  # noqa: N818 - becomes a Problem
    """A value that its setting does not take.

    Attributes:
        reference: the reference inside it that is wrong, if that is the reason.
    """

    def __init__(self, what: str, reference: Ref | None = None) -> None:
        self.reference = reference
        super().__init__(what)


def check_value(value: Any, setting: Setting, judge: Callable[[object, Wants], str]) -> Any:
    """Return a value as its setting wants it: an int as a float, a list as a tuple.

    Raises:
        BadValue: the type or the range is wrong.
    """
    adapter = _adapter(setting)
    if adapter is None:
        return value
    try:
        return adapter.validate_python(value, context={"judge": judge})
    except ValidationError as error:
        errors = error.errors(include_url=False)
        reasons = list(dict.fromkeys(_reason(e, value) for e in errors))
        wrong = [e["input"] for e in errors if isinstance(e["input"], Ref)]
        raise BadValue(" or ".join(reasons[:3]), wrong[0] if wrong else None) from error


@lru_cache(maxsize=1024)
def _adapter(setting: Setting) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(setting.type, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, TypeError):  # an annotation that pydantic cannot check
        return None


def _reason(error: Any, value: Any) -> str:
    message = str(error["msg"]).removeprefix("Input ")
    where = "".join(f"[{part!r}]" for part in _path(error["loc"], value))
    return f"{where} {message}".strip() if where else message


def _path(location: tuple[Any, ...], value: Any) -> list[Any]:
    """The part of pydantic's path that leads into the value; the rest names alternatives."""
    found = []
    for part in location:
        keys = range(len(value)) if isinstance(value, list | tuple) else value
        if isinstance(keys, range | dict) and part in keys:
            value = value[part]
            found.append(part)
    return found


def write_value(value: Any) -> str:
    """A value as gin source that reads back equal, bit for bit."""
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # gin has no word for infinity
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{write_value(k)}: {write_value(v)}" for k, v in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(write_value, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(write_value, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)
