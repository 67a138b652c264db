"""Arrays by name in .npz and .safetensors files, and in folders of .npy files: what they are, before any is read."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.mapped import mapped, opened
from metadist_cli.data.readers.npy import Head, check_entry, head, sound, unpacked

_PACKED, _UNPACKED = 2 << 30, 4 << 30  # bytes of an .npz file, which is read whole, and of one array in it
_ARRAYS = 1000  # of an .npz file
_HEADER = 1 << 20  # bytes of a safetensors header
_TYPES = {"BOOL": "?", **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}}
_TYPES |= {f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)}


class Stored(NamedTuple):
    """An array in a file. load: all of it; memory-mapped, but for .npz."""

    dtype: np.dtype
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]


def stored(path: Path, names: Iterable[str]) -> dict[str, Stored]:
    """The arrays of these names in a file or folder: heads are read and checked against the file's size, data are not.

    Raises Problem(DATA) for a name that is not there, and what is broken, a link, too large, or holds Python objects.
    """
    readers = {".npz": _npz, ".safetensors": _safetensors}
    if path.is_dir():
        return _folder(path, names)
    if path.suffix.lower() not in readers:
        hint = "give an .npz or .safetensors file, or a folder of .npy files"
        raise Problem(f"arrays cannot be read from a {path.suffix or 'nameless'} file", str(path), hint, DATA)
    return readers[path.suffix.lower()](path, names)


def _folder(folder: Path, names: Iterable[str]) -> dict[str, Stored]:
    there = {name.removesuffix(".npy") for name in os.listdir(folder) if name.endswith(".npy")}
    out = {}
    for name in names:
        path = folder / f"{_known(name, there, folder)}.npy"
        with sound(path), opened(path) as file:
            found = head(file, os.fstat(file.fileno()).st_size, str(path))
        out[name] = Stored(found.dtype, found.shape, partial(_mapped, path, found))
    return out


def _mapped(path: Path, found: Head) -> np.ndarray:
    with sound(path), opened(path) as file:
        return mapped(file, found)


def _npz(path: Path, names: Iterable[str]) -> dict[str, Stored]:
    data = files.read(path.resolve(), _PACKED, ".npz file")
    if data.count(b"PK\x01\x02") > _ARRAYS:  # each entry has this signature; zipfile makes an object of every one
        raise Problem(f"the .npz file has more than {_ARRAYS:,} arrays", str(path), "is this the right file?", DATA)
    out: dict[str, Stored] = {}
    with sound(path):
        archive = zipfile.ZipFile(io.BytesIO(data))
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}  # numpy too takes the last
        for name in names:
            info, where = infos[_known(name, infos, path)], f"{path}: {name}"
            check_entry(info, where)
            if info.file_size > _UNPACKED:
                message = f"the array takes {info.file_size:,} bytes, more than {_UNPACKED:,}"
                raise Problem(message, where, "save it as an .npy file in a folder: such are not unpacked", DATA)
            with archive.open(info) as file:
                found = head(file, info.file_size, where)
            out[name] = Stored(found.dtype, found.shape, partial(_unpacked, archive, info, found, path))
    return out


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, found: Head, path: Path) -> np.ndarray:
    with sound(path):
        return unpacked(archive.read(info), found)


def _safetensors(path: Path, names: Iterable[str]) -> dict[str, Stored]:
    """Eight bytes of length, that many of JSON, then the data: https://huggingface.co/docs/safetensors.

    Its own library reads whole tensors, or slices of them, but no chosen rows.
    """
    with sound(path), opened(path.resolve()) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(_HEADER, size - 8):
            raise ValueError(f"its header would have {length:,} bytes")
        table = files.from_json(file.read(length), str(path))
        if not isinstance(table, dict):
            raise ValueError("its header is no table")
    out = {}
    for name in names:
        found = _tensor(table[_known(name, table, path)], 8 + length, size, f"{path}: {name}")
        out[name] = Stored(found.dtype, found.shape, partial(_mapped, path.resolve(), found))
    return out


def _tensor(entry: Any, start: int, size: int, where: str) -> Head:
    """What the header says of a tensor; start: where the data begin, size: of the file."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if kind not in _TYPES:
                raise Problem(f"the array is of type {kind[:NAME]!r}", where, f"save it as {', '.join(_TYPES)}", DATA)
            dtype = np.dtype(_TYPES[kind])
            whole = all(type(n) is int and 0 <= n < 1 << 48 for n in shape) and len(shape) <= 32
            if whole and 0 <= begin <= end <= size - start and end - begin == math.prod(shape) * dtype.itemsize:
                return Head(dtype, tuple(shape), False, start + begin)
    raise Problem("the header of the file describes this array wrongly", where, "save it again", DATA)


def _known(name: str, there: Collection[str], path: Path) -> str:
    if name not in there or name == "__metadata__":
        names = [one[:NAME] for one in there if one != "__metadata__"]
        hint = nearest(name, names) if names else "save x and y there"
        raise Problem(f"there is no array {name[:NAME]!r}", str(path), hint, DATA)
    return name
