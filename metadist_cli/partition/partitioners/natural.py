"""Nodes that the data set itself knows: hospitals, people, alphabets, roles of a play."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.types import Group
from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, enough, lists, possible, unnamed

_Levels = Annotated[list[str], Field(min_length=1)]


def natural(
    *,
    by: Annotated[
        str | _Levels,
        Field(description="group of the data set that makes a node, such as drawer, or several: [alphabet, drawer]"),
    ],
) -> Partitioner:
    """One node a natural group; with fewer nodes whole groups are merged, at random, to sizes as even as may be.

    With several names a group is what has all of them in common, and is called such as "Latin > drawer 3".
    """
    levels = [by] if isinstance(by, str) else by
    what = " > ".join(levels)

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        groups = [_group(items, name) for name in levels]
        members = _together(groups)
        count = len(members) if nodes is None else nodes
        if count > len(members):
            raise Problem(
                f"{count:,} nodes asked for, but {what!r} has only {len(members):,} groups",
                "partition.nodes",
                f"ask for at most {len(members):,} nodes, or leave partition.nodes out: one node a group",
                CONFIG,
            )
        possible(len(items.label), count, minimum)
        if count < len(members):
            dealt = unnamed(_merged(members, count, rng))
        else:
            names = (" > ".join(group.names[group.code[part[0]]] for group in groups) for part in members)
            dealt = Assignment(members, list(names))
        return enough(dealt, minimum, f"{what!r} groups dealt whole")

    return deal


def _group(items: Items, name: str) -> Group:
    if name not in items.groups:
        known = ", ".join(sorted(items.groups))
        own = "this data set has no natural groups for this task; those of your own files are named in data.groups"
        hint = f"groups here: {known}" if known else own
        raise Problem(f"there is no group {name!r} to partition by", "partition.by", hint, CONFIG)
    return items.groups[name]


def _together(groups: Sequence[Group]) -> list[np.ndarray]:
    """The items that are in the same group at every level, in the order of the levels' codes."""
    code = np.zeros(len(groups[0].code), dtype=np.int64)
    for group in groups:
        code = np.unique(code * len(group.names) + group.code, return_inverse=True)[1]
    return lists(code)


def _merged(members: list[np.ndarray], nodes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Groups merged to fewer nodes: the largest first, each to the smallest node so far (Graham 1969)."""
    shuffled = [members[i] for i in rng.permutation(len(members))]
    heap = [(0, node) for node in range(nodes)]
    parts: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for group in sorted(shuffled, key=len, reverse=True):
        size, node = heap[0]
        parts[node].append(group)
        heapq.heapreplace(heap, (size + len(group), node))
    return [np.sort(np.concatenate(part)) for part in parts]
