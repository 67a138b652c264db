"""What a partitioner is, and what all of them need."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.types import Group


class Items(NamedTuple):
    """What is dealt out, m of them: rows (local tasks) or whole base classes (episodic tasks)."""

    label: np.ndarray  # (m,) int64, class of the row, or cluster of the base class (0 everywhere if it has none)
    groups: dict[str, Group]  # natural groups, one code an item


class Assignment(NamedTuple):
    """What each node gets."""

    parts: list[np.ndarray]  # its items, int64, ascending
    names: list[str]  # of the natural group that it is, or ""


# (items, nodes, minimum, generator) -> every item at one node, every node with >= minimum items
Partitioner = Callable[[Items, int | None, int, np.random.Generator], Assignment]


def possible(items: int, nodes: int | None, minimum: int) -> int:
    """The number of nodes; Problem where it is missing or the items cannot give each node the minimum."""
    if nodes is None:
        raise Problem("the number of nodes is missing", "partition.nodes", "set partition.nodes", CONFIG)
    if items < nodes * minimum:
        raise Problem(
            f"{nodes:,} nodes need at least {minimum:,} each, {nodes * minimum:,} in all; there are {items:,}",
            "partition.nodes",
            f"ask for at most {items // minimum:,} nodes, or for smaller tasks",
            CONFIG,
        )
    return nodes


def unnamed(parts: list[np.ndarray]) -> Assignment:
    """Nodes that are no natural groups."""
    return Assignment(parts, [""] * len(parts))


def enough(dealt: Assignment, minimum: int, how: str) -> Assignment:
    """The same; Problem where a node has less than the minimum, which `how` it was dealt does not let it be given."""
    sizes = np.array([len(part) for part in dealt.parts])
    if sizes.min(initial=minimum) < minimum:
        raise Problem(
            f"{how} leave {np.sum(sizes < minimum):,} of {len(sizes):,} nodes with fewer than the {minimum:,} they need"
            f" (the poorest has {sizes.min():,})",
            "partition",
            "ask for fewer nodes or smaller tasks, or take partition.name iid or dirichlet",
            CONFIG,
        )
    return dealt


def lists(owner: np.ndarray, nodes: int | None = None) -> list[np.ndarray]:
    """(m,) owner of each item -> per owner its items, ascending."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=nodes or 0)).tolist()
    return [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
