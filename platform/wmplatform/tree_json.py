"""Trees of tensors and plain values, taken apart into JSON and named tensors, and put together.

JSON knows no tensors, no NaN and no int keys; these become objects with one reserved key:

    {"$tensor": name}    the tensor of that name
    {"$float": "nan"}    also "inf" and "-inf"
    {"$dict": [[key, value], ...]}    where a key is an int or begins with "$"
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["from_plain", "to_plain"]

_RESERVED = "__metadata__"  # the one name that a safetensors file keeps for itself


def to_plain(tree: Any, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Take a tree apart.

    Args:
        tree: dicts (keys strings or ints), lists and tuples, with leaves that are tensors, None,
            bools, ints, floats or strings. A tuple becomes a list.
        name: what messages call the tree.

    Returns:
        A value that strict JSON can hold, and the tensors by path: keys joined by "/" (which,
        within a key, is written "~1", and "~" is written "~0").

    Raises:
        TypeError: names the path of a key or leaf of another type.
    """
    tensors: dict[str, Tensor] = {}
    return _plain(tree, (), name, tensors), tensors


def from_plain(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `to_plain` took apart.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(plain, list):
        return [from_plain(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "$tensor" in plain:
        return tensors[plain["$tensor"]]
    if "$float" in plain:
        return float(plain["$float"])
    pairs = plain["$dict"] if "$dict" in plain else plain.items()
    return {key: from_plain(value, tensors) for key, value in pairs}


def _plain(tree: Any, path: tuple[str | int, ...], name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        flat = _flat_name(path)
        tensors[flat] = tree
        return {"$tensor": flat}
    if isinstance(tree, Mapping):
        return _plain_dict(tree, path, name, tensors)
    if isinstance(tree, list | tuple):
        return [_plain(item, (*path, i), name, tensors) for i, item in enumerate(tree)]
    if type(tree) is float and not math.isfinite(tree):
        return {"$float": repr(tree)}
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    raise TypeError(f"{_shown(name, path)} is a {type(tree).__name__}, which cannot be saved")


def _plain_dict(
    tree: Mapping[Any, Any], path: tuple[str | int, ...], name: str, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    for key in tree:
        if type(key) not in (str, int):
            raise TypeError(f"{_shown(name, path)} has the key {key!r}, which cannot be saved")
    values = {key: _plain(value, (*path, key), name, tensors) for key, value in tree.items()}
    if any(type(key) is int or key.startswith("$") for key in tree):
        return {"$dict": [[key, value] for key, value in values.items()]}
    return values


def _flat_name(path: tuple[str | int, ...]) -> str:
    """Name a tensor by its path; equal names come from equal paths only."""
    # An int key is marked where a string of the same digits could be its neighbour.
    keys = [f"{key}" if type(key) is int else _escaped(str(key)) for key in path]
    flat = "/".join(keys)
    return f"~2{flat}" if flat == _RESERVED or not path else flat


def _escaped(key: str) -> str:
    key = key.replace("~", "~0").replace("/", "~1")
    return f"~3{key}" if key.lstrip("-").isdigit() else key


def _shown(name: str, path: tuple[str | int, ...]) -> str:
    return "/".join([name, *map(str, path)])
