"""Nodes that the data set defines: hospitals, people, alphabets, roles in a play."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.names import NAME
from metadist_cli.data.types import Group
from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, lists

_Levels = Annotated[list[str], Field(min_length=1)]


def natural(
    *,
    by: Annotated[
        str | _Levels,
        Field(description="Grouping whose groups become nodes, such as drawer, or several: [alphabet, drawer]."),
    ],
) -> Partitioner:
    """One node per group; with fewer nodes, whole groups are merged at random to sizes as even as possible.

    A node is called what its groups are called, joined by +. Where each group is a node, the minimum is not seen to:
    `partition.too_small` says what happens to small ones. With several names, items that agree in all of them form a
    group, named for example "Latin > drawer 3".
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
        names = [" > ".join(group.names[group.code[part[0]]] for group in groups) for part in members]
        if count == len(members):
            return Assignment(members, names)
        sizes = [len(part) for part in members]
        if (smallest := _smallest(sizes, count)) < minimum:
            message = f"{len(members):,} {what!r} groups merged into {count:,} nodes leave one with {smallest:,} items"
            raise Problem(f"{message}, but each needs {minimum:,}", "partition.nodes", _fewer(sizes, minimum), CONFIG)
        return _merged(members, names, count, rng)

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


def _merged(members: list[np.ndarray], names: Sequence[str], nodes: int, rng: np.random.Generator) -> Assignment:
    """Merge groups into nodes at random; nodes come in the order in which they got their first group."""
    order = rng.permutation(len(members))
    parts: list[list[int]] = [[] for _ in range(nodes)]
    ranked = sorted(order.tolist(), key=lambda i: len(members[i]), reverse=True)
    for i, node in zip(ranked, _owners([len(members[i]) for i in ranked], nodes), strict=True):
        parts[node].append(i)
    called = [_joined([names[i] for i in sorted(part)]) for part in parts]
    return Assignment([np.sort(np.concatenate([members[i] for i in part])) for part in parts], called)


def _owners(sizes: Sequence[int], nodes: int) -> list[int]:
    """The node of each group; sizes fall: each goes into the node that is smallest so far (Graham 1969)."""
    heap, owners = [(0, node) for node in range(nodes)], []
    for group in sizes:
        size, node = heap[0]
        owners.append(node)
        heapq.heapreplace(heap, (size + group, node))
    return owners


def _smallest(sizes: Sequence[int], nodes: int) -> int:
    """Items of the smallest of the merged nodes, which does not hang on chance."""
    falling = sorted(sizes, reverse=True)
    return int(np.bincount(_owners(falling, nodes), falling, nodes).min())


def _fewer(sizes: Sequence[int], minimum: int) -> str:
    """A hint with a number of nodes for which each has the minimum."""
    fits, fails = 0, len(sizes)
    while fails - fits > 1:
        tried = (fits + fails) // 2
        fits, fails = (tried, fails) if _smallest(sizes, tried) >= minimum else (fits, tried)
    return f"use at most {fits:,} node{'s' * (fits != 1)}, or smaller tasks" if fits else "use smaller tasks"


def _joined(names: Sequence[str]) -> str:
    """The names of merged groups as one, as many as fit."""
    for shown in range(len(names), 0, -1):
        left = len(names) - shown
        text = " + ".join([*names[:shown], *([f"{left:,} more"] if left else [])])
        if len(text) <= NAME:
            return text
    return names[0]
