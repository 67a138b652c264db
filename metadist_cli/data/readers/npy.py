"""NumPy's arrays in files: sizes are checked before types and shapes, and those before data; nothing runs code."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem

_RATIO, _SMALL = 200, 16 << 20  # an array packed better than 200:1 is refused above 16 MiB
_HEADER = 10_000  # bytes, numpy's own limit


class Head(NamedTuple):
    """What an array is, and where its data begin in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    start: int


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Turns whatever zipfile and numpy raise on a broken file, a dozen types, into a Problem(DATA)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of headers from Python 2
            yield
    except Problem:
        raise
    except Exception as error:
        writer = "numpy.savez_compressed" if path.suffix.lower() == ".npz" else "the program that wrote it"
        message = f"the {path.suffix} file is broken: {error}"
        raise Problem(message, str(path), f"save it again with {writer}", DATA) from error


def check_entry(info: zipfile.ZipInfo, where: str) -> None:
    """Raises Problem(DATA) for an array packed suspiciously small, or in a way that is not numpy's."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise Problem("the array is packed in an unusual way", where, "save it with numpy.savez_compressed", DATA)
    if info.file_size > max(_SMALL, _RATIO * info.compress_size):
        message = f"{info.compress_size:,} bytes would unpack to {info.file_size:,}"
        raise Problem(message, where, "save it with numpy.savez, uncompressed", DATA)


def head(file: IO[bytes], size: int, where: str) -> Head:
    """The head of a .npy file of `size` bytes, from its first bytes.

    Raises:
        Problem(DATA): the array holds Python objects, or `size` does not match type and shape.
        ValueError: by numpy, the head is broken.
    """
    start = io.BytesIO(file.read(_HEADER + 12))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(start)
    if version not in readers:
        message = f"the array is in version {version} of the format"
        raise Problem(message, where, "save plain arrays of numbers or text", DATA)
    shape, fortran, dtype = readers[version](start, max_header_size=_HEADER)
    if dtype.hasobject:
        raise Problem("the array holds Python objects", where, "save numbers, or text with .astype(str)", DATA)
    needs = start.tell() + math.prod(shape) * dtype.itemsize
    if needs != size:
        message = f"an array of type {dtype} and shape {shape} needs {needs:,} bytes, the file has {size:,}"
        raise Problem(message, where, "save it again with numpy", DATA)
    return Head(dtype, shape, fortran, start.tell())


def unpacked(data: bytes, found: Head) -> np.ndarray:
    """The array in the bytes of a .npy file whose head was read by `head`."""
    values = np.frombuffer(data, found.dtype, offset=found.start)
    return values.reshape(found.shape, order="F" if found.fortran else "C")
