"""Which rows of a data set go to which node: single rows for local tasks, whole classes for episodic ones."""

from __future__ import annotations

import numpy as np

from metadist_cli.datasets.types import Dataset, Group
from metadist_cli.partitioners import Items, Partitioner


def rows_by_class(data: Dataset) -> list[np.ndarray]:
    """The rows of each class, ascending; a class may have none."""
    order = np.argsort(data.label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(data.label, minlength=len(data.classes)))[:-1])


def classes_of(data: Dataset, roles: np.ndarray, code: int) -> np.ndarray:
    """The classes of a role, ascending; a class may have no rows (synthetic data), and is then nobody's.

    roles: (C,) as holdout.class_roles gives them.
    """
    return np.unique(data.label[roles[data.label] == code])


def deal_rows(
    data: Dataset, partitioner: Partitioner, nodes: int | None, minimum: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[str]]:
    """(the rows of each node, its natural name or ""): rows are dealt one by one, at least `minimum` to a node."""
    parts = partitioner(Items(data.label, data.groups), nodes, minimum, rng)
    return parts, _names(parts, data.groups)


def deal_classes(
    data: Dataset,
    partitioner: Partitioner,
    nodes: int | None,
    minimum: int,
    roles: np.ndarray,
    rng: np.random.Generator,
) -> tuple[list[np.ndarray], list[str]]:
    """The same with whole base classes that train, each with all its turns and rows; at least `minimum` classes."""
    rows_of = rows_by_class(data)
    train = classes_of(data, roles, 0)
    bases, members = np.unique(data.base[train], return_inverse=True)
    sample = np.array([rows_of[c][0] for c in train[np.unique(members, return_index=True)[1]]])
    groups = {name: Group(g.code[sample], g.names) for name, g in data.groups.items() if _constant(g, rows_of, train)}
    cluster = groups[data.cluster].code if data.cluster in groups else np.zeros(len(bases), dtype=np.int64)
    turns = int(np.bincount(members).min())
    parts = partitioner(Items(cluster, groups), nodes, -(-minimum // turns), rng)
    names = _names(parts, groups)
    rows = []
    for part in parts:
        mine = train[np.isin(members, part)]
        rows.append(np.sort(np.concatenate([rows_of[c] for c in mine])))
    return rows, names


def _constant(group: Group, rows_of: list[np.ndarray], classes: np.ndarray) -> bool:
    """True where all rows of a class share the group: an alphabet, not a drawer."""
    return all((group.code[rows_of[c]] == group.code[rows_of[c][0]]).all() for c in classes)


def _names(parts: list[np.ndarray], groups: dict[str, Group]) -> list[str]:
    """The natural names where every node is one group of some grouping, else "" for each."""
    for group in groups.values():
        codes = [np.unique(group.code[part]) for part in parts]
        if all(len(c) == 1 for c in codes) and len({int(c[0]) for c in codes}) == len(parts):
            return [group.names[int(c[0])] for c in codes]
    return [""] * len(parts)
