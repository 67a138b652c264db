"""A task as numpy arrays: sizes before types and shapes, those before data, and nothing that runs code."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from metadist_cli import files
from metadist_cli.datasets.own_part import BYTES, NAME, ROWS, Part, nearest
from metadist_cli.errors import DATA, Problem

_NAMES = ("support_x", "support_y", "query_x", "query_y")
_ENTRIES = 100
_RATIO, _SMALL = 200, 16 << 20  # an array packed better than 200:1 is refused above 16 MiB
_HEADER = 10_000  # bytes, numpy's own limit


def read_npz(path: Path, kind: str, shape: tuple[int, ...], outputs: int) -> tuple[Part, Part]:
    """(support, query) of the arrays support_x, support_y, query_x and perhaps query_y, in the data set's units.

    x (n, *shape) numbers; y (n,) whole numbers or text, for regression (n, outputs) numbers. Raises Problem(DATA).
    """
    data = files.read(os.path.realpath(path), BYTES, "task")
    wanted = {"x": shape, "y": (outputs,) if kind == "regression" else ()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of headers from the age of Python 2
            arrays = _arrays(data, path, wanted, kind)
    except Problem:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen types on broken files
        hint = "save it again with numpy.savez_compressed"
        raise Problem(f"the .npz file is broken: {error}", str(path), hint, DATA) from error
    return _part("support", arrays, path, kind), _part("query", arrays, path, kind)


def _arrays(data: bytes, path: Path, wanted: dict[str, tuple[int, ...]], kind: str) -> dict[str, np.ndarray]:
    if data.count(b"PK\x01\x02") > _ENTRIES:  # each entry has this signature; zipfile makes an object of every one
        raise Problem(f"the .npz file has more than {_ENTRIES} arrays", str(path), f"save {', '.join(_NAMES)}", DATA)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name not in _NAMES or name in infos:
                message = f"there is {'a second' if name in infos else 'no use for an'} array {name[:NAME]!r}"
                raise Problem(message, str(path), nearest(name[:NAME], _NAMES), DATA)
            infos[name] = info
            _check_entry(info, f"{path}: {name}")
        for name in _NAMES[:3]:
            if name not in infos:
                hint = f"save {', '.join(_NAMES[:3])} and, where known, query_y"
                raise Problem(f"the array {name} is missing", str(path), hint, DATA)
        total = sum(info.file_size for info in infos.values())
        if total > BYTES:
            message = f"the arrays take {total:,} bytes, more than {BYTES:,}"
            raise Problem(message, str(path), "use fewer rows, or uint8 or float32", DATA)
        heads = {}
        for name, info in infos.items():
            with archive.open(info) as file:
                heads[name] = _head(file, info.file_size, f"{path}: {name}")
            dtype, found, _, _ = heads[name]
            _check_array(dtype, found, wanted[name[-1]], kind if name[-1] == "y" else "x", f"{path}: {name}")
        return {name: _array(archive.read(info), *heads[name]) for name, info in infos.items()}


def _check_entry(info: zipfile.ZipInfo, where: str) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise Problem("the array is packed in an unusual way", where, "save it with numpy.savez_compressed", DATA)
    if info.file_size > max(_SMALL, _RATIO * info.compress_size):
        message = f"{info.compress_size:,} bytes would unpack to {info.file_size:,}"
        raise Problem(message, where, "save it with numpy.savez, not packed", DATA)


def _head(file: IO[bytes], size: int, where: str) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """(type, shape, Fortran order, where the data begin) of an array, from its first bytes."""
    start = io.BytesIO(file.read(_HEADER + 12))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(start)
    if version not in readers:
        raise Problem(f"the array is of version {version}", where, "save plain arrays of numbers or text", DATA)
    shape, fortran, dtype = readers[version](start, max_header_size=_HEADER)
    if dtype.hasobject:
        raise Problem("the array holds Python objects", where, "save numbers, or text with .astype(str)", DATA)
    needs = start.tell() + math.prod(shape) * dtype.itemsize
    if needs != size:
        message = f"an array of type {dtype} and shape {shape} has {needs:,} bytes, here are {size:,}"
        raise Problem(message, where, "save it again with numpy.savez_compressed", DATA)
    return dtype, shape, fortran, start.tell()


def _check_array(dtype: np.dtype, found: tuple[int, ...], wanted: tuple[int, ...], kind: str, where: str) -> None:
    """kind: x, or classification or regression for y."""
    if kind == "classification":
        if dtype.kind not in "iuU":
            hint = "save whole numbers or text: .astype(int) or .astype(str)"
            raise Problem(f"the labels are of type {dtype}", where, hint, DATA)
        if dtype.kind == "U" and not 0 < dtype.itemsize <= 4 * NAME:
            message = f"the labels are texts of up to {dtype.itemsize // 4:,} characters"
            raise Problem(message, where, f"use 1 to {NAME}", DATA)
    elif dtype.kind not in "uif":
        raise Problem(f"the array is of type {dtype}, not numbers", where, "save it as float32 or uint8", DATA)
    flat = kind == "regression" and wanted == (1,) and len(found) == 1
    if not found or (found[1:] != wanted and not flat):
        rows = f"(n{''.join(f', {size}' for size in wanted)}{'' if wanted else ','})"
        raise Problem(f"the array has the shape {found}, not {rows}", where, "n is the number of rows", DATA)
    if not 1 <= found[0] <= ROWS:
        raise Problem(f"the array has {found[0]:,} rows", where, f"a task has 1 to {ROWS:,} rows", DATA)


def _array(data: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, start: int) -> np.ndarray:
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def _part(part: str, arrays: dict[str, np.ndarray], path: Path, kind: str) -> Part:
    x, y = arrays[f"{part}_x"], arrays.get(f"{part}_y")
    names = [f"row {i}" for i in range(len(x))]
    if y is not None and len(y) != len(x):
        message = f"there are {len(y):,} labels for {len(x):,} rows"
        raise Problem(message, f"{path}: {part}_y", f"{part}_x and {part}_y must be equally long", DATA)
    x = _numbers(x, f"{path}: {part}_x")
    if y is None or kind == "classification":
        labels = None if y is None else _texts(y, f"{path}: {part}_y")
        return Part(x, labels, names, lambda i: f"{path}: {part}_y[{i}]")
    return Part(x, _numbers(y.reshape(len(y), -1), f"{path}: {part}_y").astype(np.float32), names, str)


def _texts(array: np.ndarray, where: str) -> list[str]:
    codes = array.view(np.dtype("u4").newbyteorder(array.dtype.byteorder)) if array.dtype.kind == "U" else array[:0]
    if (codes > 0x10FFFF).any():
        hint = "save it again with numpy.savez_compressed"
        raise Problem("the labels hold characters that there are not", where, hint, DATA)
    return [str(label) for label in array.tolist()]


def _numbers(array: np.ndarray, where: str) -> np.ndarray:
    """The array as uint8 where it is that already, else float32. Raises Problem where that is not finite."""
    if array.dtype == np.uint8:
        return array
    with np.errstate(all="ignore"):
        array = array.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        place = ", ".join(map(str, wrong[0].tolist()))
        raise Problem("this is no finite number, or too large", f"{where}[{place}]", "mend or leave out the row", DATA)
    return array
