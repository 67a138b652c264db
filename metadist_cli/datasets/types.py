"""What a data set is to the rest of the program."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    """A natural grouping of n rows (or items): who drew, wrote or measured them."""

    code: np.ndarray  # (n,) int64, indices into names
    names: tuple[str, ...]


class Dataset(NamedTuple):
    """n rows of C classes in memory. A class is what a task tells apart: a digit, a character, one function."""

    kind: str  # "classification" | "regression"
    x: np.ndarray  # (n, ...) uint8 or float32; the model sees x.float() / divide
    divide: float
    label: np.ndarray  # (n,) int64, class of each row
    classes: tuple[str, ...]  # C names
    target: np.ndarray | None  # (n, out) float32 for regression, else None: the label is the target
    base: np.ndarray  # (C,) int64; classes with the same base belong together (quarter turns of one character)
    groups: dict[str, Group]
    cluster: str | None  # name of the group that clusters whole classes
    role: np.ndarray | None  # (C,) int8, 0 train, 1 validation, 2 test, where the data set brings its own split
    row_role: np.ndarray | None  # (n,) int8, the same for its own split of rows: held-back rows of known classes
    turned: np.ndarray  # (C,) bool, a turned copy of its base
    turn_held_out: bool  # whether turned classes stay where their base is held out for new tasks
    sha256: str  # of all the above


def build(
    kind: str,
    x: np.ndarray,
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
    turned: np.ndarray | None = None,
    turn_held_out: bool = True,
) -> Dataset:
    """A Dataset with the plain case filled in (every class its own base, none turned) and its hash.

    x (n, ...), label and row_role (n,), target (n, out), base, role and turned (C,). The hash covers everything, so
    that two copies of a data set, however they were read, are known to be equal.
    """
    count = len(classes)
    base = np.arange(count) if base is None else base
    turned = np.zeros(count, dtype=bool) if turned is None else turned
    groups = groups or {}
    digest = hashlib.sha256()
    names = {name: group.names for name, group in groups.items()}
    digest.update(json.dumps([kind, divide, classes, names, cluster, turn_held_out]).encode())
    arrays = [x, label, target, base, role, turned, *(group.code for group in groups.values())]
    if row_role is not None:  # the hashes of data sets without one stay what they were
        arrays.append(row_role)
    for array in arrays:
        if array is None:
            digest.update(b"none")
        else:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
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
        turned,
        turn_held_out,
        digest.hexdigest(),
    )
