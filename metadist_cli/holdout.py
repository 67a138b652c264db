"""What is kept for new tasks: classes with all their turns, or whole nodes. Nothing of it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from metadist_cli import seeds
from metadist_cli.datasets.types import Dataset
from metadist_cli.errors import CONFIG, Problem

ROLES = ("train", "validation", "test")


class Held(NamedTuple):
    """What is kept for new tasks.

    source: "classes" or "nodes"; test: how many, their names, or None for the data set's own split.
    """

    source: str
    test: int | Sequence[str] | None
    validation: int


def class_roles(data: Dataset, held: Held, seed: int) -> np.ndarray:
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


def node_roles(names: list[str], held: Held, seed: int) -> list[str]:
    """The role of each node."""
    drawn = _draw_roles(len(names), held, lambda name: _index(name, tuple(names), "node"), seed)
    return [ROLES[role] for role in drawn]


def _draw_roles(count: int, held: Held, place: Callable[[str], int], seed: int) -> np.ndarray:
    """(count,) 0 train, 1 validation, 2 test: the named ones, or so many drawn by the seed. place: of a name."""
    if held.test is None:
        hint = f"for example {max(1, count // 4)} of the {count} {held.source}"
        raise Problem(f"how many {held.source} are kept for new tasks is not said", "task.new.test", hint, CONFIG)
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


def _index(name: str, names: tuple[str, ...], what: str) -> int:
    if name not in names:
        raise Problem(f"there is no {what} {name!r}", "task.new.test", f"there are {', '.join(names[:8])} ...", CONFIG)
    return names.index(name)
