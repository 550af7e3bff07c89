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
_DEEPEST = 20
"""Levels of a tree; `$dict` makes three levels of JSON of one, and `parse_json` reads 64."""


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
        TypeError: names the path of a key or leaf of another type, or below 20 levels.
    """
    tensors: dict[str, Tensor] = {}
    return _plain(tree, (), name, tensors), tensors


def from_plain(plain: Any, tensors: Mapping[str, Any]) -> Any:
    """Put together what `to_plain` took apart.

    Args:
        plain: the value; as `parse_json` gives it, it has few levels.
        tensors: by path; or what stands for them.

    Raises:
        ValueError: it is nothing that `to_plain` gives, or its tensors are others.
    """
    left = dict(tensors)
    tree = _tree(plain, left)
    if left:
        raise ValueError(f"the tensor {next(iter(left))!r} belongs nowhere")
    return tree


def _tree(plain: Any, left: dict[str, Any]) -> Any:
    """Put a part together, taking its tensors out of those that are left."""
    if isinstance(plain, list):
        return [_tree(item, left) for item in plain]
    if not isinstance(plain, dict):
        return plain
    special = next((key for key in plain if key.startswith("$")), None)
    if special is None:
        return {key: _tree(value, left) for key, value in plain.items()}
    inner = plain[special]
    if len(plain) == 1:
        if special == "$tensor" and isinstance(inner, str) and inner in left:
            return left.pop(inner)
        if special == "$float" and inner in ("nan", "inf", "-inf"):
            return float(inner)
        if special == "$dict" and _are_pairs(inner):
            return {key: _tree(value, left) for key, value in inner}
    raise ValueError(f"{special!r} does not stand for a tensor, a float or a dict: {inner!r:.60}")


def _are_pairs(value: Any) -> bool:
    """Whether a value lists keys, none of them twice, with their values."""
    pairs = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int) for pair in value
    )
    return pairs and len({key for key, _ in value}) == len(value)


def _plain(tree: Any, path: tuple[str | int, ...], name: str, tensors: dict[str, Tensor]) -> Any:
    if len(path) > _DEEPEST:
        raise TypeError(f"{_shown(name, path)} lies too deep to be saved")
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
