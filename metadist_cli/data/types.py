"""What a data set is to the rest of the program."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from metadist_cli.data.preprocessing import Preprocessing

_PIECE = 16 << 20  # numbers that are copied in one go


@dataclass(frozen=True, eq=False)
class Windows:
    """n rows of `length` bytes that may overlap in one long row of m, which is held once: the windows of a text.

    What may be asked of rows, of an array as of these: len, shape, dtype, ndim, and x[row], x[array of rows] and
    x[slice], which give an array. `take` and `stack` below do for either what gives rows again.
    """

    source: np.ndarray  # (m,) uint8
    start: np.ndarray  # (n,) int64, row i is source[start[i] : start[i] + length]
    length: int

    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)
    ndim: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.start), self.length

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(self.source, self.length)[self.start[rows]]


@dataclass(frozen=True, eq=False)
class Cast:
    """n rows of any type of number that become float32 when they are read, so that they may stay in their file."""

    source: np.ndarray  # (n, ...)

    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return self.source.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        return self.source[rows].astype(np.float32)


Rows = np.ndarray | Windows


def take(x: Rows | Cast, rows: np.ndarray) -> Rows:
    """Some rows, (m,) of them, in this order; of windows just the pieces of the source that they cover."""
    if not isinstance(x, Windows):
        return x[rows]
    order = np.argsort(x.start[rows], kind="stable")
    begin = x.start[rows][order]
    size = np.minimum(np.diff(begin, append=begin[-1:] + x.length), x.length)  # what each adds to the one before
    at = np.cumsum(size) - size
    start = np.empty_like(at)
    start[order] = at
    return Windows(x.source[np.repeat(begin - at, size) + np.arange(size.sum())], start, x.length)


def stack(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, which are of one kind and shape, one below the other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(cast(Sequence[np.ndarray], parts))
    some = cast(Sequence[Windows], parts)
    ends = np.cumsum([len(part.source) for part in some])
    start = [part.start + (end - len(part.source)) for part, end in zip(some, ends, strict=True)]
    return Windows(np.concatenate([part.source for part in some]), np.concatenate(start), some[0].length)


class Group(NamedTuple):
    """A natural grouping of n rows (or items): who drew, wrote or measured them."""

    code: np.ndarray  # (n,) int64, indices into names
    names: tuple[str, ...]


class Feature(NamedTuple):
    """What people call a part of a row: a column of a table."""

    name: str
    kind: str  # number | category | date | indicator (of a missing cell) | row number (which is left out)
    size: int  # numbers that it is in a row of x
    unit: str  # of its numbers, such as % or days; empty where it is not known
    missing: float  # share of the rows of all files that lack it
    first: tuple[str, ...]  # its first different values; not for files that travel


class Dataset(NamedTuple):
    """n rows of C classes. A class is what a task tells apart: a digit, a character, one function."""

    kind: str  # "classification" | "regression"
    x: Rows | Cast  # (n, ...) uint8 or float32; the model sees x.float() / divide
    divide: float
    label: np.ndarray  # (n,) int64, class of each row
    classes: tuple[str, ...]  # C names
    target: np.ndarray | None  # (n, out) float32 for regression, else None: the label is the target
    base: np.ndarray  # (C,) int64; classes with the same base belong together (quarter turns of one character)
    groups: dict[str, Group]
    cluster: str | None  # name of the group that clusters whole classes
    role: np.ndarray | None  # (C,) int8, 0 train, 1 validation, 2 test, where the data set brings its own split
    row_role: np.ndarray | None  # (n,) int8, the same for its own split of rows: held-back rows of known classes
    rotated: np.ndarray  # (C,) bool, a rotated copy of its base
    rotate_held_out: bool  # whether rotated classes stay where their base is held out for new tasks
    sha256: str  # of all the above
    preprocessing: Preprocessing  # from raw rows to x, and from outputs to targets; its scale is not yet fitted
    features: tuple[Feature, ...] = ()  # in the order of x; () where rows have no named parts
    notes: tuple[str, ...] = ()  # for people: what the reader left out


def build(
    kind: str,
    x: Rows | Cast,
    label: np.ndarray,
    classes: tuple[str, ...],
    *,
    divide: float = 1.0,
    target: np.ndarray | None = None,
    base: np.ndarray | None = None,
    groups: dict[str, Group] | None = None,
    cluster: str | None = None,
    role: np.ndarray | None = None,
    row_role: np.ndarray | None = None,
    rotated: np.ndarray | None = None,
    rotate_held_out: bool = True,
    features: tuple[Feature, ...] = (),
    raw: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A Dataset with the plain case filled in (every class its own base, none rotated) and its hash.

    x (n, ...), label and row_role (n,), target (n, out), base, role and rotated (C,); raw: fields of Preprocessing that
    say how x came from raw rows. The hash covers everything but what features are called, how rows were written and
    notes, so that two copies of a data set, however they were read, are known to be equal.
    """
    count = len(classes)
    base = np.arange(count) if base is None else base
    rotated = np.zeros(count, dtype=bool) if rotated is None else rotated
    groups = groups or {}
    digest = hashlib.sha256()
    names = {name: group.names for name, group in groups.items()}
    digest.update(json.dumps([kind, divide, classes, names, cluster, rotate_held_out]).encode())
    rows = (x.source, x.start, np.array(x.length)) if isinstance(x, Windows) else (x,)
    arrays = [*rows, label, target, base, role, rotated, *(group.code for group in groups.values())]
    if row_role is not None:  # the hashes of data sets without one stay what they were
        arrays.append(row_role)
    for array in arrays:
        if array is None:
            digest.update(b"none")
        else:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for piece in _pieces(array):
                digest.update(piece)
    return Dataset(
        kind,
        x,
        divide,
        label,
        classes,
        target,
        base,
        groups,
        cluster,
        role,
        row_role,
        rotated,
        rotate_held_out,
        digest.hexdigest(),
        _preprocessing(kind, x.shape[1:], divide, classes, raw or {}),
        features,
        notes,
    )


def _preprocessing(
    kind: str, shape: tuple[int, ...], divide: float, classes: tuple[str, ...], raw: Mapping[str, Any]
) -> Preprocessing:
    names = classes if kind == "classification" else ()
    fields = {"kind": kind, "shape": shape, "divide": float(divide), "classes": tuple(names)}
    return Preprocessing(**fields, **raw)


def _pieces(array: np.ndarray | Cast) -> Iterator[memoryview]:
    """The bytes in the order of the rows; what is in a file, or in another order, is copied a part at a time."""
    if isinstance(array, np.ndarray) and array.flags.c_contiguous:
        yield array.data
        return
    step = max(1, _PIECE // max(1, math.prod(array.shape[1:])))
    for first in range(0, len(array), step):
        yield np.ascontiguousarray(array[first : first + step]).data
