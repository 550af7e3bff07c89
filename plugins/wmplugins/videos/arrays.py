"""Arrays in .npz files: their headers are read first, so that nobody has to believe a size.

An .npz is a zip of .npy files; each is a header that tells dtype, order and shape, then the
elements. Nothing is unpickled.

Shape letters: T rows of the first axis.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.errors import PlatformError
from wmplatform.files import open_regular

__all__ = ["BadArray", "StoredArray", "open_array"]

_HEADER = re.compile(
    rb"\{ *'descr': *'(?P<dtype>[<>|=]?[biufc][0-9]{1,2})', *"
    rb"'fortran_order': *(?P<fortran>True|False), *"
    rb"'shape': *\((?P<shape>[0-9L, ]*)\),? *\} *\n?"
)
_LONGEST_HEADER = 1 << 16
_MOST_AXES = 32


class BadArray(ValueError):
    """A file is no .npz, is damaged, or does not hold the array that it should."""


@dataclass(frozen=True)
class StoredArray:
    """An array of which the header has been read; the elements follow in `stream`."""

    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]
    stream: IO[bytes]

    def rows(self) -> Iterator[NDArray[Any]]:
        """Read one row after the other; none but the one that is given is in memory.

        Raises:
            BadArray: the file ends before them, or its checksum differs.
        """
        row = self.shape[1:]
        size = math.prod(row) * self.dtype.itemsize
        for _ in range(self.shape[0]):
            content = self.stream.read(size)
            if len(content) != size:
                raise BadArray("it ends early")
            yield np.frombuffer(content, self.dtype).reshape(row)


@contextmanager
def open_array(path: Path, name: str, *, most_bytes: int) -> Iterator[StoredArray]:
    """Open an array of an .npz file; links are followed, as datasets are laid out with them.

    Args:
        path: the file.
        name: of the array.
        most_bytes: that its elements may take.

    Raises:
        CannotRead: there is no such file, or it is no regular one.
        BadArray: it is damaged, holds no such array, or one that is in no order of rows or larger.
    """
    try:
        with open_regular(path, links=True) as file, zipfile.ZipFile(file) as archive:
            if f"{name}.npy" not in archive.namelist():
                raise BadArray(f"it has no array {name!r}")
            with archive.open(f"{name}.npy") as stream:
                stored = _with_header(stream)
                size = math.prod(stored.shape) * stored.dtype.itemsize
                if size > most_bytes:
                    raise BadArray(f"its array {name!r} would take {size} bytes")
                yield stored
    except (BadArray, PlatformError):
        raise
    # Half a file, an unknown compression, a password, a name that is no text, ...
    except (
        EOFError,
        MemoryError,
        OSError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise BadArray("it is damaged, or no .npz file") from error


def _with_header(stream: IO[bytes]) -> StoredArray:
    """Read the header of an .npy file, such as NumPy writes.

    Raises:
        BadArray: it is none, or of an array that is no table of numbers.
    """
    magic = stream.read(8)
    digits = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(magic)
    if digits is None:
        raise BadArray("it is damaged, or no .npz file")
    length = int.from_bytes(stream.read(digits), "little")
    header = stream.read(length) if length <= _LONGEST_HEADER else b""
    match = _HEADER.fullmatch(header)
    if match is None:
        raise BadArray("it has an array of which the header is damaged, or one of objects")
    shape = tuple(int(each.strip(b" L")) for each in match["shape"].split(b",") if each.strip())
    if not 1 <= len(shape) <= _MOST_AXES:
        raise BadArray(f"it has an array of {len(shape)} axes")
    try:
        dtype = np.dtype(match["dtype"].decode())
    except TypeError as error:
        raise BadArray(f"it has an array of an unknown dtype: {error}") from None
    return StoredArray(dtype, match["fortran"] == b"True", shape, stream)
