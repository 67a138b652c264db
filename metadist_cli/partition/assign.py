"""Which rows of a data set go to which node: single rows for local tasks, whole classes for episodic ones."""

from __future__ import annotations

import numpy as np

from metadist_cli.data.types import Dataset, Group
from metadist_cli.partition.partitioners import Assignment, Items, Partitioner
from metadist_cli.partition.partitioners.types import lists


def rows_by_class(data: Dataset) -> list[np.ndarray]:
    """The rows of each class, ascending; a class may have none."""
    return lists(data.label, len(data.classes))


def classes_of(data: Dataset, roles: np.ndarray, code: int) -> np.ndarray:
    """The classes of a role, ascending; a class may have no rows (synthetic data), and is then nobody's.

    roles: (C,) as holdout.class_roles gives them.
    """
    return np.unique(data.label[roles[data.label] == code])


def assign_rows(
    data: Dataset, partitioner: Partitioner, nodes: int | None, minimum: int, rng: np.random.Generator
) -> Assignment:
    """The rows of each node and its natural name or "": rows are dealt one by one, at least `minimum` to a node."""
    return partitioner(Items(data.label, data.groups), nodes, minimum, rng)


def assign_classes(
    data: Dataset,
    partitioner: Partitioner,
    nodes: int | None,
    minimum: int,
    roles: np.ndarray,
    rng: np.random.Generator,
) -> Assignment:
    """The same with whole base classes that train, each with all its turns and rows; at least `minimum` classes."""
    train = classes_of(data, roles, 0)
    bases, first, turns = np.unique(data.base[train], return_index=True, return_counts=True)
    some = np.zeros(len(data.classes), dtype=np.int64)  # a row of each class
    some[data.label] = np.arange(len(data.label))
    sample = some[train[first]]
    kept = np.flatnonzero(roles[data.label] == 0)
    groups = {
        name: Group(group.code[sample], group.names)
        for name, group in data.groups.items()
        if _whole(group, some, data.label, kept)
    }
    cluster = groups[data.cluster].code if data.cluster in groups else np.zeros(len(bases), dtype=np.int64)
    parts, names = partitioner(Items(cluster, groups), nodes, -(-minimum // int(turns.min())), rng)
    owner = np.empty(int(data.base.max()) + 1, dtype=np.int64)
    owner[bases[np.concatenate(parts)]] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Assignment([kept[rows] for rows in lists(owner[data.base[data.label[kept]]], len(parts))], names)


def _whole(group: Group, some: np.ndarray, label: np.ndarray, kept: np.ndarray) -> bool:
    """True where all rows of a class share the group: an alphabet, not a drawer. some: a row of each class."""
    return bool((group.code[kept] == group.code[some[label[kept]]]).all())


def class_runs(label: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where classes begin among the rows of N nodes, one node after the other, each sorted by class.

    label: (R,), count: (N,) rows of each node. Returns (first rows (K,), bounds (N + 1,)): those of node i are
    first[bounds[i] : bounds[i + 1]].
    """
    start = np.cumsum(count) - count
    begins = np.diff(label, prepend=-1) != 0
    begins[start[count > 0]] = True
    first = np.flatnonzero(begins)
    return first, np.searchsorted(first, np.append(start, len(label)))
