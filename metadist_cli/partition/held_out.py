"""Hold out data for new tasks: classes with all their rotated copies, whole nodes, or rows of every node."""

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
    """What to hold out for new tasks.

    Attributes:
        source: "classes", "nodes" or "rows".
        test: how many classes or nodes, or their names; for rows the fraction of each node's, a float in (0, 1). None
            for the data set's own split.
        validation: how many, or the fraction; 0 for none.
    """

    source: str
    test: int | float | Sequence[str] | None
    validation: int | float


def class_roles(data: Dataset, present: np.ndarray, held: HoldOut, seed: int) -> np.ndarray:
    """The role of each class: (C,) 0 train, 1 validation, 2 test, -1 left out.

    A base class and its rotated copies share one role.

    Args:
        data: the data set.
        present: the classes that are used.
        held: what to hold out; all classes train unless it is classes.
        seed: the experiment's.

    Raises:
        Problem: where the request does not fit the data set.
    """
    roles = np.full(len(data.classes), -1, dtype=np.int8)
    if held.source != "classes":
        roles[present] = 0
        return roles
    if data.role is not None:
        if held.test is not None or held.validation:
            raise Problem(
                "the data set already splits its classes into training and new ones",
                "task.new.test",
                "remove test and validation, or use data.split: random",
                CONFIG,
            )
        roles[present] = data.role[present]
        return roles
    names = tuple(data.classes[c] for c in present)
    bases, place = np.unique(data.base[present], return_inverse=True)
    drawn = _draw_roles(len(bases), held, lambda name: int(place[_index(name, names, "class")]), seed)
    roles[present] = drawn[place]
    return roles


def node_roles(names: list[str], held: HoldOut, seed: int) -> list[str]:
    """The role of each node; names: "" for one that has none. Raises Problem where the request does not fit."""
    if isinstance(held.test, list | tuple) and not any(names):
        message = "the nodes of this partition have no names by which to hold them out"
        hint = f"write how many, such as test: {len(held.test)}; only partition.name natural gives nodes names"
        raise Problem(message, "task.new.test", hint, CONFIG)
    drawn = _draw_roles(len(names), held, lambda name: _index(name, tuple(names), "node"), seed)
    return [ROLES[role] for role in drawn]


def _draw_roles(count: int, held: HoldOut, place: Callable[[str], int], seed: int) -> np.ndarray:
    """(count,) 0 train, 1 validation, 2 test: test as named or drawn by the seed. place: (name) -> its index."""
    if held.test is None:
        message = f"task.new.test is missing: how many of the {count} {held.source} to hold out for new tasks"
        raise Problem(message, "task.new.test", f"for example test: {max(1, count // 4)}", CONFIG)
    if isinstance(held.test, float) or isinstance(held.validation, float):
        message = f"{held.source} are held out by number or name, not by fraction"
        raise Problem(message, "task.new", "use a whole number, or for test a list of names", CONFIG)
    names = () if isinstance(held.test, int) else held.test
    named = list(dict.fromkeys(place(name) for name in names))
    test = held.test if isinstance(held.test, int) else len(named)
    if test + held.validation >= count:
        most = f"{test} {held.source} for test and {held.validation} for validation"
        more = ", or raise partition.nodes, which counts held-out nodes too" if held.source == "nodes" else ""
        message = f"holding out {most} leaves none of {count} to train on"
        raise Problem(message, "task.new", f"hold out fewer{more}", CONFIG)
    rest = seeds.numpy_generator(seed, "held out").permutation(np.setdiff1d(np.arange(count), named))
    order = np.concatenate([named, rest]).astype(np.int64)
    roles = np.zeros(count, dtype=np.int8)
    roles[order[:test]] = ROLES.index("test")
    roles[order[test : test + held.validation]] = ROLES.index("validation")
    return roles


def row_roles(data: Dataset, rows: np.ndarray, held: HoldOut, seed: int, node: int) -> np.ndarray:
    """The role of each row of a training node (source "rows"): (n,) 0 train, 1 validation, 2 test.

    The data set's own roles where held.test is None. Otherwise a stratified draw of round(test * n) rows (halves up):
    classes contribute in proportion to their rows (largest remainder, ties at random); each keeps at least one row in
    training, and others make up for what it cannot give. Then round(validation * n) of the remaining rows in the same
    way. The test rows do not depend on `validation`.

    Args:
        data: the data set.
        rows: (n,) the node's row numbers.
        held: the fractions.
        seed: the experiment's.
        node: the node's number.

    Returns:
        The roles; a small node may have no row for one of them.
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
    return roles


def rows_needed(data: Dataset, held: HoldOut, least: int) -> int:
    """Rows that a node must get so that `least` remain for training after some are held out (source "rows")."""
    kept = [fraction for fraction in _fractions(data, held) if fraction]
    below = (least - 1 + len(kept) / 2) / (1 - sum(kept))  # each rounding takes at most half a row more
    return max(least + 1, math.floor(below + 1e-9) + 1, *(math.ceil(0.5 / fraction) for fraction in kept))


def _fractions(data: Dataset, held: HoldOut) -> tuple[float, float]:
    """(test, validation) fractions of each node's rows to draw. Raises Problem where they are invalid."""
    test, validation, own = held.test, held.validation, data.row_role
    if own is not None and (test is not None or (validation and (own == 1).any())):
        raise Problem(
            "the data set already splits its rows into training and test",
            "task.new.test",
            "remove test, or use data.split: random",
            CONFIG,
        )
    test = _fraction("test", test) if own is None else 0.0
    validation = _fraction("validation", validation) if validation else 0.0
    if test + validation >= 1:
        message = f"holding out {test:g} of the rows for test and {validation:g} for validation leaves none to train on"
        raise Problem(message, "task.new", "hold out less than 1 in all", CONFIG)
    return test, validation


def _fraction(key: str, value: object) -> float:
    if isinstance(value, float) and 0 < value < 1:
        return value
    what = f"`{key}` is missing" if value is None else f"`{key}: {value}` is not a fraction"
    message = f"{what}; with `from: rows` it must be a number between 0 and 1"
    raise Problem(message, f"task.new.{key}", f"for example {key}: 0.2", CONFIG)


def _draw_rows(label: np.ndarray, roles: np.ndarray, size: int, order: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Up to `size` rows of role 0, stratified by class; order: (n,) in which rows are taken."""
    counts = np.bincount(label, minlength=len(ties))
    room = np.maximum(np.bincount(label[roles == 0], minlength=len(ties)) - 1, 0)
    shares = _apportion(size, counts, room, ties)
    free = order[roles[order] == 0]
    free = free[np.argsort(label[free], kind="stable")]
    first = np.searchsorted(label[free], label[free])  # where the class of each row begins
    return free[np.arange(len(free)) - first < shares[label[free]]]


def _apportion(size: int, counts: np.ndarray, room: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """(C,) whole numbers in proportion to counts, at most room each, that sum to `size` (or to all the room)."""
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
        some = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        raise Problem(f"unknown {what} {name!r}", "task.new.test", f"known: {some}", CONFIG)
    return names.index(name)
