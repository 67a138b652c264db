"""Arrays by name in .npz and .safetensors files and in folders of .npy files; types and shapes come before any data."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.mapped import mapped, opened
from metadist_cli.data.readers.npy import Head, check_entry, head, sound, unpacked

SUFFIXES = (".npz", ".safetensors")
_PACKED, _UNPACKED = 2 << 30, 4 << 30  # bytes of an .npz file, which is read whole, and of one array in it
_ARRAYS = 1000  # of an .npz file
_HEADER = 1 << 20  # bytes of a safetensors header
_TYPES = {"BOOL": "?", **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}}
_TYPES |= {f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)}


class Stored(NamedTuple):
    """An array in a file.

    where: file and array, for messages. load: reads all of it; memory-mapped, except from an .npz file.
    """

    where: str
    dtype: np.dtype
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    def at(self, row: int) -> str:
        """Where a row is, for messages."""
        return f"{self.where}[{row}]"


Arrays = Mapping[str, Callable[[], Stored]]


def list_arrays(path: Path) -> Arrays:
    """The arrays of a file or folder.

    Args:
        path: an .npz or .safetensors file, which may be a link, or a folder of .npy files.

    Returns:
        By the name of each array a function that reads and checks its type and shape, but not its data.

    Raises:
        Problem(DATA): the file is of another kind, too large or broken. The functions raise it for an array that is
            broken, a link, too large, or holds Python objects.
    """
    readers = {".npz": _npz, ".safetensors": _safetensors}
    if path.is_dir():
        names = sorted(name.removesuffix(".npy") for name in os.listdir(path) if name.endswith(".npy"))
        return {name: partial(_npy, path / f"{name}.npy") for name in names}
    if path.suffix.lower() not in readers:
        hint = "use an .npz or .safetensors file, or a folder of .npy files"
        raise Problem(f"cannot read arrays from a {path.suffix or 'nameless'} file", str(path), hint, DATA)
    return readers[path.suffix.lower()](path)


def stored(arrays: Arrays, name: str, path: Path) -> Stored:
    """One of a file's arrays. Raises Problem(DATA) where the file has none of this name, and as `list_arrays` says."""
    if name not in arrays:
        hint = nearest(name, [one[:NAME] for one in arrays]) if arrays else "save x and y in it"
        raise Problem(f"the array {name[:NAME]!r} is missing", str(path), hint, DATA)
    return arrays[name]()


def _npy(path: Path) -> Stored:
    with sound(path), opened(path) as file:
        found = head(file, os.fstat(file.fileno()).st_size, str(path))
    return Stored(str(path), found.dtype, found.shape, partial(_mapped, path, found))


def _mapped(path: Path, found: Head) -> np.ndarray:
    with sound(path), opened(path) as file:
        return mapped(file, found)


def _npz(path: Path) -> Arrays:
    data = files.read(path.resolve(), _PACKED, ".npz file")
    if data.count(b"PK\x01\x02") > _ARRAYS:  # each entry has this signature; zipfile makes an object of every one
        raise Problem(f"the .npz file has more than {_ARRAYS:,} arrays", str(path), "is this the right file?", DATA)
    out: dict[str, Callable[[], Stored]] = {}
    with sound(path):
        archive = zipfile.ZipFile(io.BytesIO(data))
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in out:
                message = f"the file has two arrays {name[:NAME]!r}"
                raise Problem(message, str(path), "save it again with numpy.savez_compressed", DATA)
            out[name] = partial(_entry, archive, info, path, f"{path}: {name}")
    return out


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, where: str) -> Stored:
    check_entry(info, where)
    if info.file_size > _UNPACKED:
        message = f"the array takes {info.file_size:,} bytes, more than {_UNPACKED:,}"
        raise Problem(message, where, "save it as an .npy file in a folder, which is never unpacked", DATA)
    with sound(path), archive.open(info) as file:
        found = head(file, info.file_size, where)
    return Stored(where, found.dtype, found.shape, partial(_unpacked, archive, info, found, path))


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, found: Head, path: Path) -> np.ndarray:
    with sound(path):
        return unpacked(archive.read(info), found)


def _safetensors(path: Path) -> Arrays:
    """Eight bytes of length, that many of JSON, then the data: https://huggingface.co/docs/safetensors.

    Its own library reads whole tensors, or slices of them, but not the rows that one picks.
    """
    with sound(path), opened(path.resolve()) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(_HEADER, size - 8):
            raise ValueError(f"its header claims {length:,} bytes")
        table = files.from_json(file.read(length), str(path))
        if not isinstance(table, dict):
            raise ValueError("its header is not a JSON object")
    names = [name for name in table if name != "__metadata__"]
    return {name: partial(_tensor, table[name], 8 + length, size, path, f"{path}: {name}") for name in names}


def _tensor(entry: Any, start: int, size: int, path: Path, where: str) -> Stored:
    """A tensor as the header describes it. start: where the data begin; size: of the file; both in bytes."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if kind not in _TYPES:
                raise Problem(f"the array is of type {kind[:NAME]!r}", where, f"save it as {', '.join(_TYPES)}", DATA)
            dtype = np.dtype(_TYPES[kind])
            whole = all(type(n) is int and 0 <= n < 1 << 48 for n in shape) and len(shape) <= 32
            if whole and 0 <= begin <= end <= size - start and end - begin == math.prod(shape) * dtype.itemsize:
                found = Head(dtype, tuple(shape), False, start + begin)
                return Stored(where, dtype, found.shape, partial(_mapped, path.resolve(), found))
    raise Problem("the header of the file describes this array wrongly", where, "save it again", DATA)
