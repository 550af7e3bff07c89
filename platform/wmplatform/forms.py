"""Forms: what a saved tree has to look like, compared before anything of it is used.

A form is written like the tree that it describes:

    {"updates": Whole(), "moments": [Array("float32", (3, 4))], "faults": Maybe(Many(Whole()))}

A dict stands for a dict with these keys, a list for a list of these items, None and other plain
values for themselves. This file imports no torch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "ANY",
    "FLAG",
    "REAL",
    "TENSOR",
    "TEXT",
    "Array",
    "Either",
    "Form",
    "Holding",
    "Many",
    "Maybe",
    "Named",
    "OtherForm",
    "Whole",
    "check_form",
    "form_of",
]

Path: TypeAlias = tuple[str | int, ...]
_FLOATING = ("float64", "float32", "float16", "bfloat16")
LARGEST_COUNT = 2**53
"""Counters are exact as floats, too: plots and schedules take them for such."""


class OtherForm(ValueError):
    """A saved tree is not of the form that it should be.

    Args:
        path: keys that lead to the place.
        reason: what is there, as the end of a sentence.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        where = "/".join(str(key) for key in path) or "it"
        super().__init__(f"{where} {reason}")


class Form(ABC):
    """What may stand in one place of a tree, beside dicts, lists and plain values."""

    @abstractmethod
    def check(self, saved: Any, path: Path) -> None:
        """Compare what stands there.

        Raises:
            OtherForm: it is something else.
        """


@dataclass(frozen=True)
class Array(Form):
    """A tensor. Stands for one, too, where only the header of its file was read."""

    dtype: str
    """As torch and NumPy call it, e.g. `float32`; `floating` for any of them."""
    shape: tuple[int | None, ...]
    """None where any length will do."""

    @classmethod
    def of(cls, tensor: Any) -> "Array":
        """Describe a tensor of torch, an array of NumPy, or an `Array`."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

    def check(self, saved: Any, path: Path) -> None:
        """Compare dtype and shape."""
        TENSOR.check(saved, path)
        found = Array.of(saved)
        dtypes = _FLOATING if self.dtype == "floating" else (self.dtype,)
        alike = len(found.shape) == len(self.shape) and found.dtype in dtypes
        if not alike or any(
            want not in (None, has) for want, has in zip(self.shape, found.shape, strict=True)
        ):
            raise OtherForm(path, f"is {found}, not {self}")

    def __str__(self) -> str:
        lengths = ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.dtype} [{lengths}]"


@dataclass(frozen=True)
class Whole(Form):
    """A whole number, a counter unless limits are given."""

    least: int = 0
    most: int = LARGEST_COUNT

    def check(self, saved: Any, path: Path) -> None:
        """Compare type and size."""
        if type(saved) is not int or not self.least <= saved <= self.most:
            limits = f"a whole number {self.least} .. {self.most}"
            raise OtherForm(path, f"is {_shown(saved)}, not {limits}")


@dataclass(frozen=True)
class Many(Form):
    """A list of items of one form."""

    item: Any
    count: int | None = None
    """How many; any number unless given."""
    least: int = 0
    """Or, at least so many."""

    def check(self, saved: Any, path: Path) -> None:
        """Compare each item."""
        fits = type(saved) is list and self.count in (None, len(saved))
        if not fits or len(saved) < self.least:
            size = f"{self.least} or more" if self.count is None else f"{self.count}"
            raise OtherForm(path, f"is {_shown(saved)}, not a list of {size}")
        for index, item in enumerate(saved):
            check_form(item, self.item, (*path, index))


@dataclass(frozen=True)
class Named(Form):
    """A dict whose keys are strings, and its values of one form."""

    value: Any
    words: bool = False
    """Keys are words of letters, digits and underscores, as names of counters are."""

    def check(self, saved: Any, path: Path) -> None:
        """Compare each value."""
        if type(saved) is not dict:
            raise OtherForm(path, f"is {_shown(saved)}, not a dict")
        for key, value in saved.items():
            if type(key) is not str or (self.words and not key.isidentifier()):
                raise OtherForm(path, f"has the key {_shown(key)}, which is no name")
            check_form(value, self.value, (*path, key))


@dataclass(frozen=True)
class Holding(Form):
    """A dict that has at least these entries."""

    entries: Mapping[str, Any]

    def check(self, saved: Any, path: Path) -> None:
        """Compare these entries."""
        if type(saved) is not dict:
            raise OtherForm(path, f"is {_shown(saved)}, not a dict")
        known = {key: value for key, value in saved.items() if key in self.entries}
        check_form(known, self.entries, path)


class Either(Form):
    """What is of one form or of another; `Either(None, Whole())` for what may be absent."""

    def __init__(self, *forms: Any) -> None:
        self.forms = forms

    def check(self, saved: Any, path: Path) -> None:
        """Compare with each; the last one's complaint counts."""
        for form in self.forms[:-1]:
            try:
                return check_form(saved, form, path)
            except OtherForm:
                continue
        return check_form(saved, self.forms[-1], path)


@dataclass(frozen=True)
class Maybe:
    """An entry of a dict that may be missing, since older versions did not write it."""

    form: Any


class _Any(Form):
    def check(self, saved: Any, path: Path) -> None:
        """Accept it."""


class _Real(Form):
    def check(self, saved: Any, path: Path) -> None:
        """Accept a number, NaN and infinity included."""
        if type(saved) not in (int, float) or (type(saved) is int and abs(saved) > 2**1000):
            raise OtherForm(path, f"is {_shown(saved)}, not a number")


class _Tensor(Form):
    def check(self, saved: Any, path: Path) -> None:
        """Accept any tensor."""
        if not _is_array(saved):
            raise OtherForm(path, f"is {_shown(saved)}, not a tensor")


@dataclass(frozen=True)
class _OfType(Form):
    kind: type

    def check(self, saved: Any, path: Path) -> None:
        """Compare the type."""
        if type(saved) is not self.kind:
            raise OtherForm(path, f"is {_shown(saved)}, not a {self.kind.__name__}")


ANY = _Any()
"""Anything: whoever reads it checks it."""
REAL = _Real()
TENSOR = _Tensor()
"""A tensor of any dtype and shape."""
TEXT = _OfType(str)
FLAG = _OfType(bool)


def check_form(saved: Any, form: Any, path: Path = ()) -> None:
    """Compare a saved tree with a form.

    Args:
        saved: dicts, lists, plain values, and tensors or `Array`s.
        form: see the module's docstring.
        path: of the tree, for messages.

    Raises:
        OtherForm: names the first place that differs.
    """
    if isinstance(form, Form):
        form.check(saved, path)
    elif isinstance(form, Mapping):
        _check_dict(saved, form, path)
    elif isinstance(form, list | tuple):
        Many(ANY, len(form)).check(saved, path)
        for index, (item, expected) in enumerate(zip(saved, form, strict=True)):
            check_form(item, expected, (*path, index))
    elif type(saved) is not type(form) or saved != form:
        raise OtherForm(path, f"is {_shown(saved)}, not {form!r}")


def form_of(tree: Any, *, any_float: bool = False) -> Any:
    """Give the form of a tree: the same dicts, lists and tensors; anything in other places.

    Args:
        tree: such as the saved ones are to be.
        any_float: where it has floats, they may be of another precision.
    """
    if _is_array(tree):
        found = Array.of(tree)
        opened = any_float and found.dtype in _FLOATING
        return Array("floating", found.shape) if opened else found
    if isinstance(tree, Mapping):
        return {key: form_of(value, any_float=any_float) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [form_of(item, any_float=any_float) for item in tree]
    return None if tree is None else ANY


def _check_dict(saved: Any, form: Mapping[Any, Any], path: Path) -> None:
    if type(saved) is not dict:
        raise OtherForm(path, f"is {_shown(saved)}, not a dict")
    for key in saved:
        if key not in form:
            raise OtherForm(path, f"has the entry {_shown(key)}, which does not belong there")
    for key, expected in form.items():
        optional = isinstance(expected, Maybe)
        if key in saved:
            check_form(saved[key], expected.form if optional else expected, (*path, key))
        elif not optional:
            raise OtherForm(path, f"lacks the entry {key!r}")


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _shown(value: Any) -> str:
    """Show a value in a few words, whatever its size."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    if _is_array(value):
        return str(Array.of(value))
    if type(value) is int and abs(value) >= 10**20:
        return f"a number of about {round(math.log10(2) * value.bit_length())} digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
