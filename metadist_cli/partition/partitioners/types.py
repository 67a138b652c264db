"""The Partitioner contract, and helpers that the partitioners share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.types import Group


class Items(NamedTuple):
    """The m items to assign: rows (local tasks) or whole base classes (episodic tasks).

    Attributes:
        label: (m,) int64 class of the row, or cluster of the base class (all 0 where the data set has no clusters).
        groups: groupings that the data set comes with, by name ("drawer"), with one code per item.
    """

    label: np.ndarray
    groups: dict[str, Group]


class Assignment(NamedTuple):
    """The items of each of N nodes.

    Attributes:
        parts: for each node int64 indices of its items, ascending. Every item is at exactly one node.
        names: for each node the name of the group that it is, or "".
    """

    parts: list[np.ndarray]
    names: list[str]


Partitioner = Callable[[Items, int | None, int, np.random.Generator], Assignment]
"""(items, nodes, minimum, generator) -> an assignment with at least `minimum` items at every node.

Groups of the data that are nodes as they are may have fewer. nodes is None where the config leaves it out. Raises
Problem where no such assignment exists.

Example, the whole of a partitioner that deals items like cards:

    def round_robin() -> Partitioner:
        def assign(items, nodes, minimum, rng):
            count = node_count(len(items.label), nodes, minimum)
            return unnamed(lists(np.arange(len(items.label)) % count, count))
        return assign
"""


def node_count(items: int, nodes: int | None, minimum: int) -> int:
    """The number of nodes, checked.

    Raises:
        Problem: where it is missing, or the items are too few to give each node the minimum.
    """
    if nodes is None:
        raise Problem("the number of nodes is missing", "partition.nodes", "set partition.nodes", CONFIG)
    if items < nodes * minimum:
        most = items // minimum
        fewer = f"use at most {most:,} node{'s' * (most != 1)}, or smaller tasks" if most else "use smaller tasks"
        message = (
            f"{nodes:,} nodes with at least {minimum:,} items each need {nodes * minimum:,}, but only {items:,} exist"
        )
        raise Problem(message, "partition.nodes", fewer, CONFIG)
    return nodes


def unnamed(parts: list[np.ndarray]) -> Assignment:
    """An assignment to nodes that are not groups of the data set."""
    return Assignment(parts, [""] * len(parts))


def at_least(assignment: Assignment, minimum: int, how: str) -> Assignment:
    """The same assignment, checked, for partitioners that cannot enforce the minimum themselves.

    Args:
        assignment: to check.
        minimum: items that each node needs.
        how: what limited the partitioner, for the message ("3 labels assigned whole").

    Raises:
        Problem: where a node has fewer.
    """
    sizes = np.array([len(part) for part in assignment.parts])
    if sizes.min(initial=minimum) < minimum:
        raise Problem(
            f"{how} leave {np.sum(sizes < minimum):,} of {len(sizes):,} nodes below the minimum of {minimum:,} items "
            f"(the smallest has {sizes.min():,})",
            "partition",
            "use fewer nodes or smaller tasks, or partition.name iid or dirichlet",
            CONFIG,
        )
    return assignment


def lists(owner: np.ndarray, nodes: int | None = None) -> list[np.ndarray]:
    """From owners (m,), one per item, to the items of each owner, ascending."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=nodes or 0)).tolist()
    return [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
