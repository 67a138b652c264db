"""Nodes that the data set defines: hospitals, people, alphabets, roles in a play."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.types import Group
from metadist_cli.partition.partitioners.types import (
    Assignment,
    Items,
    Partitioner,
    at_least,
    lists,
    node_count,
    unnamed,
)

_Levels = Annotated[list[str], Field(min_length=1)]


def natural(
    *,
    by: Annotated[
        str | _Levels,
        Field(description="Grouping whose groups become nodes, such as drawer, or several: [alphabet, drawer]."),
    ],
) -> Partitioner:
    """One node per group; with fewer nodes, whole groups are merged at random to sizes as even as possible.

    With several names, items that agree in all of them form a group, named for example "Latin > drawer 3".
    """
    levels = [by] if isinstance(by, str) else by
    what = " > ".join(levels)

    def assign(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        groups = [_group(items, name) for name in levels]
        members = _together(groups)
        count = len(members) if nodes is None else nodes
        if count > len(members):
            raise Problem(
                f"{count:,} nodes requested, but {what!r} has only {len(members):,} groups",
                "partition.nodes",
                f"use at most {len(members):,} nodes, or remove partition.nodes for one node per group",
                CONFIG,
            )
        node_count(len(items.label), count, minimum)
        if count < len(members):
            assignment = unnamed(_merged(members, count, rng))
        else:
            names = (" > ".join(group.names[group.code[part[0]]] for group in groups) for part in members)
            assignment = Assignment(members, list(names))
        return at_least(assignment, minimum, f"{what!r} groups assigned whole")

    return assign


def _group(items: Items, name: str) -> Group:
    if name not in items.groups:
        known = ", ".join(sorted(items.groups))
        none = "this data set defines no groups for this task; for your own files, name group columns in data.groups"
        hint = f"known: {known}" if known else none
        raise Problem(f"unknown group {name!r}", "partition.by", hint, CONFIG)
    return items.groups[name]


def _together(groups: Sequence[Group]) -> list[np.ndarray]:
    """Items that share a group at every level, in the order of the levels' codes."""
    code = np.zeros(len(groups[0].code), dtype=np.int64)
    for group in groups:
        code = np.unique(code * len(group.names) + group.code, return_inverse=True)[1]
    return lists(code)


def _merged(members: list[np.ndarray], nodes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Merge groups into nodes: the largest first, each into the node that is smallest so far (Graham 1969)."""
    shuffled = [members[i] for i in rng.permutation(len(members))]
    heap = [(0, node) for node in range(nodes)]
    parts: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for group in sorted(shuffled, key=len, reverse=True):
        size, node = heap[0]
        parts[node].append(group)
        heapq.heapreplace(heap, (size + len(group), node))
    return [np.sort(np.concatenate(part)) for part in parts]
