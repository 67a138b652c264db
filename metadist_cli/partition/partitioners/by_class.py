"""Extreme label skew: nodes that share no label."""

from __future__ import annotations

import numpy as np

from metadist_cli.partition.partitioners.types import (
    Assignment,
    Items,
    Partitioner,
    at_least,
    lists,
    node_count,
    unnamed,
)


def by_class() -> Partitioner:
    """Assign whole labels in turn: no two nodes share a label or, with more nodes than labels, each node has one."""

    def assign(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = node_count(len(items.label), nodes, minimum)
        members = lists(np.unique(items.label, return_inverse=True)[1])
        owner = np.empty(len(items.label), dtype=np.int64)
        for place, label in enumerate(rng.permutation(len(members))):
            sharers = np.arange(place % count, count, len(members))  # one node, unless nodes outnumber labels
            owner[rng.permutation(members[label])] = np.resize(sharers, len(members[label]))
        return at_least(unnamed(lists(owner, count)), minimum, f"{len(members):,} labels assigned whole")

    return assign
