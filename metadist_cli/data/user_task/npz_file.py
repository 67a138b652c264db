"""A task as numpy arrays: sizes before types and shapes, those before data (npy.py)."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import BYTES, NAME, ROWS, Part, nearest
from metadist_cli.data.readers.npy import check_entry, check_finite, check_text, head, sound, unpacked

_NAMES = ("support_x", "support_y", "query_x", "query_y")
_ENTRIES = 100


def read_npz(path: Path, kind: str, shape: tuple[int, ...], outputs: int) -> tuple[Part, Part]:
    """(support, query) of the arrays support_x, support_y, query_x and perhaps query_y, in the data set's units.

    x (n, *shape) numbers; y (n,) whole numbers or text, for regression (n, outputs) numbers. Raises Problem(DATA).
    """
    data = files.read(os.path.realpath(path), BYTES, "task")
    wanted = {"x": shape, "y": (outputs,) if kind == "regression" else ()}
    with sound(path):
        arrays = _arrays(data, path, wanted, kind)
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
            check_entry(info, f"{path}: {name}")
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
                heads[name] = head(file, info.file_size, f"{path}: {name}")
            dtype, found = heads[name].dtype, heads[name].shape
            _check_array(dtype, found, wanted[name[-1]], kind if name[-1] == "y" else "x", f"{path}: {name}")
        return {name: unpacked(archive.read(info), heads[name]) for name, info in infos.items()}


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


def _part(part: str, arrays: dict[str, np.ndarray], path: Path, kind: str) -> Part:
    x, y = arrays[f"{part}_x"], arrays.get(f"{part}_y")
    names = [f"row {i}" for i in range(len(x))]
    if y is not None and len(y) != len(x):
        message = f"there are {len(y):,} labels for {len(x):,} rows"
        raise Problem(message, f"{path}: {part}_y", f"{part}_x and {part}_y must be equally long", DATA)
    x = _numbers(x, f"{path}: {part}_x")
    if y is None or kind == "classification":
        if y is not None:
            check_text(y, f"{path}: {part}_y")
        labels = None if y is None else [str(label) for label in y.tolist()]
        return Part(x, labels, names, lambda i: f"{path}: {part}_y[{i}]")
    return Part(x, _numbers(y.reshape(len(y), -1), f"{path}: {part}_y").astype(np.float32), names, str)


def _numbers(array: np.ndarray, where: str) -> np.ndarray:
    """The array as uint8 where it is that already, else float32. Raises Problem where that is not finite."""
    if array.dtype == np.uint8:
        return array
    with np.errstate(all="ignore"):
        array = array.astype(np.float32)
    check_finite(array, where)
    return array
