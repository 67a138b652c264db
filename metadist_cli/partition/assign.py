"""Assign rows of a data set to nodes: single rows for local tasks, whole classes for episodic tasks."""

from __future__ import annotations

import numpy as np

from metadist_cli.data.types import Dataset, Group
from metadist_cli.partition.partitioners import Assignment, Items, Partitioner
from metadist_cli.partition.partitioners.types import lists


def rows_by_class(data: Dataset) -> list[np.ndarray]:
    """Row numbers of each class, ascending; empty for a class without rows."""
    return lists(data.label, len(data.classes))


def classes_of(data: Dataset, roles: np.ndarray, code: int) -> np.ndarray:
    """The classes of a role, ascending, without those that have no rows (synthetic data has such).

    Args:
        data: the data set.
        roles: (C,) from `held_out.class_roles`.
        code: 0 train, 1 validation, 2 test.
    """
    return np.unique(data.label[roles[data.label] == code])


def assign_rows(
    data: Dataset, partitioner: Partitioner, nodes: int | None, minimum: int, rng: np.random.Generator
) -> Assignment:
    """Assign single rows to nodes.

    Args:
        data: the data set.
        partitioner: decides.
        nodes: how many to make; None where the partitioner knows.
        minimum: rows that each node must get.
        rng: source of randomness.

    Returns:
        The rows of each node, and the name of the group that it is, or "".

    Raises:
        Problem: where some node cannot get `minimum` rows.
    """
    return partitioner(Items(data.label, data.groups), nodes, minimum, rng)


def assign_classes(
    data: Dataset,
    partitioner: Partitioner,
    nodes: int | None,
    minimum: int,
    roles: np.ndarray,
    rng: np.random.Generator,
) -> Assignment:
    """Assign whole training classes to nodes; a base class comes with all its rotated copies and all its rows.

    Args:
        data: the data set.
        partitioner: decides.
        nodes: how many to make; None where the partitioner knows.
        minimum: classes that each node must get, rotated copies included.
        roles: (C,) from `held_out.class_roles`; only classes of role 0 are assigned.
        rng: source of randomness.

    Returns:
        The rows of each node, and the name of the group that it is, or "".

    Raises:
        Problem: where some node cannot get `minimum` classes.
    """
    train = classes_of(data, roles, 0)
    bases, first, copies = np.unique(data.base[train], return_index=True, return_counts=True)
    some = np.zeros(len(data.classes), dtype=np.int64)  # one row of each class
    some[data.label] = np.arange(len(data.label))
    sample = some[train[first]]
    kept = np.flatnonzero(roles[data.label] == 0)
    groups = {
        name: Group(group.code[sample], group.names)
        for name, group in data.groups.items()
        if _whole(group, some, data.label, kept)
    }
    cluster = groups[data.cluster].code if data.cluster in groups else np.zeros(len(bases), dtype=np.int64)
    parts, names = partitioner(Items(cluster, groups), nodes, -(-minimum // int(copies.min())), rng)
    owner = np.empty(int(data.base.max()) + 1, dtype=np.int64)
    owner[bases[np.concatenate(parts)]] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Assignment([kept[rows] for rows in lists(owner[data.base[data.label[kept]]], len(parts))], names)


def _whole(group: Group, some: np.ndarray, label: np.ndarray, kept: np.ndarray) -> bool:
    """Whether all rows of each class share one group (an alphabet, not a drawer). some: one row of each class."""
    return bool((group.code[kept] == group.code[some[label[kept]]]).all())


def class_runs(label: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where classes begin among the concatenated rows of N nodes, each sorted by class.

    Args:
        label: (R,) class of each row.
        count: (N,) rows of each node.

    Returns:
        (first (K,), bounds (N + 1,)): node i's classes begin at rows first[bounds[i] : bounds[i + 1]].
    """
    start = np.cumsum(count) - count
    begins = np.diff(label, prepend=-1) != 0
    begins[start[count > 0]] = True
    first = np.flatnonzero(begins)
    return first, np.searchsorted(first, np.append(start, len(label)))
