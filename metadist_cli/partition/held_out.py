"""What is kept for new tasks: classes with all their turns, whole nodes, or rows of every node. None is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from metadist_cli.core import seeds
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.types import Dataset

ROLES = ("train", "validation", "test")


class HoldOut(NamedTuple):
    """What is kept for new tasks.

    source: "classes", "nodes" or "rows". test: how many classes or nodes or their names, or the fraction of each node's
    rows (a float in (0, 1)); None for the data set's own split. validation: how many, or the fraction (0 for none).
    """

    source: str
    test: int | float | Sequence[str] | None
    validation: int | float


def class_roles(data: Dataset, held: HoldOut, seed: int) -> np.ndarray:
    """(C,) 0 train, 1 validation, 2 test; all turns of a base class on one side."""
    if data.role is not None:
        if held.test is not None or held.validation:
            raise Problem(
                "the data set brings its own split into classes for training and for new tasks",
                "task.new.test",
                "leave test and validation out, or choose data.split: random",
                CONFIG,
            )
        return data.role
    present = np.unique(data.label)
    names = tuple(data.classes[c] for c in present)
    bases, place = np.unique(data.base[present], return_inverse=True)
    drawn = _draw_roles(len(bases), held, lambda name: int(place[_index(name, names, "class")]), seed)
    roles = np.zeros(len(data.classes), dtype=np.int8)
    roles[present] = drawn[place]
    return roles


def node_roles(names: list[str], held: HoldOut, seed: int) -> list[str]:
    """The role of each node."""
    drawn = _draw_roles(len(names), held, lambda name: _index(name, tuple(names), "node"), seed)
    return [ROLES[role] for role in drawn]


def _draw_roles(count: int, held: HoldOut, place: Callable[[str], int], seed: int) -> np.ndarray:
    """(count,) 0 train, 1 validation, 2 test: the named ones, or so many drawn by the seed. place: of a name."""
    if held.test is None:
        hint = f"for example {max(1, count // 4)} of the {count} {held.source}"
        raise Problem(f"how many {held.source} are kept for new tasks is not said", "task.new.test", hint, CONFIG)
    if isinstance(held.test, float) or isinstance(held.validation, float):
        hint = "write a whole number, or names"
        raise Problem(f"{held.source} are kept for new tasks whole, not a fraction", "task.new", hint, CONFIG)
    names = () if isinstance(held.test, int) else held.test
    named = list(dict.fromkeys(place(name) for name in names))
    test = held.test if isinstance(held.test, int) else len(named)
    if test + held.validation >= count:
        raise Problem(
            f"{test} {held.source} for test and {held.validation} for validation leave none of {count} to train on",
            "task.new",
            "keep fewer, or make more nodes (partition.nodes counts all of them)",
            CONFIG,
        )
    rest = seeds.numpy_generator(seed, "held out").permutation(np.setdiff1d(np.arange(count), named))
    order = np.concatenate([named, rest]).astype(np.int64)
    roles = np.zeros(count, dtype=np.int8)
    roles[order[:test]] = ROLES.index("test")
    roles[order[test : test + held.validation]] = ROLES.index("validation")
    return roles


def row_roles(data: Dataset, rows: np.ndarray, held: HoldOut, seed: int, node: int, name: str) -> np.ndarray:
    """(n,) 0 train, 1 validation, 2 test for the n rows that a training node was dealt (source "rows").

    The data set's own roles where test is None. Else round(test * n) rows (halves up), dealt to the classes in
    proportion to their rows (largest remainder, ties by lot; every class leaves one row in training, and others give
    more where it has no more to give), and drawn at random within each; then round(validation * n) rows of those left
    in the same way. The test rows do not depend on validation. Raises Problem where a part stays empty.
    """
    test, validation = _fractions(data, held)
    label, count = data.label[rows], len(rows)
    roles = np.zeros(count, dtype=np.int8) if data.row_role is None else data.row_role[rows]
    rng = seeds.numpy_generator(seed, "rows", node)
    order = rng.permutation(count)
    for code, fraction in ((2, test), (1, validation)):
        ties = rng.random(len(data.classes))
        if fraction:
            roles[_draw_rows(label, roles, math.floor(fraction * count + 0.5), order, ties)] = code
    needed = {0: "training", 2: "test"} | ({1: "validation"} if validation else {})
    for code, what in needed.items():
        if not (roles == code).any():
            raise Problem(
                f"{name} has {count} rows of {len(np.unique(label))} classes, which leaves none for {what}",
                f"node {node}",
                "make fewer nodes, or change task.new.test and task.new.validation",
                CONFIG,
            )
    return roles


def rows_needed(data: Dataset, held: HoldOut, least: int) -> int:
    """How many rows a node must be dealt so that `least` stay in training and some are kept (source "rows")."""
    kept = [fraction for fraction in _fractions(data, held) if fraction]
    below = (least - 1 + len(kept) / 2) / (1 - sum(kept))  # rounding takes half a row more at most, each time
    return max(least + 1, math.floor(below + 1e-9) + 1, *(math.ceil(0.5 / fraction) for fraction in kept))


def _fractions(data: Dataset, held: HoldOut) -> tuple[float, float]:
    """(test, validation) of each node's rows that are to be drawn. Raises Problem where they make no sense."""
    test, validation, own = held.test, held.validation, data.row_role
    if own is not None and (test is not None or (validation and (own == 1).any())):
        raise Problem(
            "the data set brings its own split into rows for training and for testing",
            "task.new.test",
            "leave test out, or choose data.split: random",
            CONFIG,
        )
    test = _fraction("test", test) if own is None else 0.0
    validation = _fraction("validation", validation) if validation else 0.0
    if test + validation >= 1:
        message = f"{test:g} of the rows for test and {validation:g} for validation leave none to train on"
        raise Problem(message, "task.new", "keep less", CONFIG)
    return test, validation


def _fraction(key: str, value: object) -> float:
    if isinstance(value, float) and 0 < value < 1:
        return value
    message = f"a fraction of each node's rows is kept for {key}, above 0 and below 1, not {value}"
    raise Problem(message.removesuffix(", not None"), f"task.new.{key}", f"for example {key}: 0.2", CONFIG)


def _draw_rows(label: np.ndarray, roles: np.ndarray, size: int, order: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """`size` of the rows of role 0, or as many as there may be; order: (n,) in which rows are taken."""
    counts = np.bincount(label, minlength=len(ties))
    room = np.maximum(np.bincount(label[roles == 0], minlength=len(ties)) - 1, 0)
    shares = _apportion(size, counts, room, ties)
    free = order[roles[order] == 0]
    free = free[np.argsort(label[free], kind="stable")]
    first = np.searchsorted(label[free], label[free])  # where the class of each row begins
    return free[np.arange(len(free)) - first < shares[label[free]]]


def _apportion(size: int, counts: np.ndarray, room: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """(C,) whole numbers in proportion to counts that add up to `size` (or to all room), none above its room."""
    size = min(size, int(room.sum()))
    quota = size * counts / counts.sum()
    shares = np.minimum(np.floor(quota).astype(np.int64), room)
    while left := size - int(shares.sum()):
        ready = np.flatnonzero(shares < room)
        best = np.lexsort((ties[ready], (shares - quota)[ready]))
        shares[ready[best[:left]]] += 1
    return shares


def _index(name: str, names: tuple[str, ...], what: str) -> int:
    if name not in names:
        raise Problem(f"there is no {what} {name!r}", "task.new.test", f"there are {', '.join(names[:8])} ...", CONFIG)
    return names.index(name)
