"""The header of a safetensors file: which tensors it holds, before any of them is read.

The header is JSON after eight bytes that give its length; for each tensor it has `dtype`, `shape`
and `data_offsets`, where it begins and ends after the header.
"""

import math
from typing import Any, BinaryIO

from wmplatform.files import parse_json
from wmplatform.forms import TEXT, Array, Many, Named, Whole, check_form

__all__ = ["read_header"]

_LONGEST_BYTES = 1 << 25
_DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
}
"""Names and bytes of an element."""
_MOST_AXES = 64
_ENTRIES = Named({"dtype": TEXT, "shape": Many(Whole()), "data_offsets": [Whole(), Whole()]})


def read_header(file: BinaryIO, size: int) -> dict[str, Array]:
    """Read which tensors a file holds, and compare their sizes with the file's.

    Args:
        file: at its beginning.
        size: of the file, in bytes.

    Raises:
        ValueError: the header is damaged, or declares more or less than the file has.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LONGEST_BYTES):
        raise ValueError(f"its header would have {length} bytes")
    header = parse_json(file.read(length))
    if isinstance(header, dict):
        header.pop("__metadata__", None)
    check_form(header, _ENTRIES)
    found = {name: _array(name, entry) for name, entry in header.items()}
    declared = sum(end - start for start, end in (e["data_offsets"] for e in header.values()))
    if declared != size - 8 - length:
        raise ValueError(f"its header declares {declared} bytes, it has {size - 8 - length}")
    return found


def _array(name: str, entry: dict[str, Any]) -> Array:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{name!r} is of the unknown dtype {entry['dtype'][:20]!r}")
    dtype, each = _DTYPES[entry["dtype"]]
    start, end = entry["data_offsets"]
    if len(entry["shape"]) > _MOST_AXES:
        raise ValueError(f"{name!r} has {len(entry['shape'])} axes")
    if end - start != math.prod(entry["shape"]) * each:
        raise ValueError(f"{name!r} has {end - start} bytes for {dtype} {entry['shape']}")
    return Array(dtype, tuple(entry["shape"]))
