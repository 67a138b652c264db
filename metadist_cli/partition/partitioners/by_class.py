"""Label skew at its utmost: nodes that share no label."""

from __future__ import annotations

import numpy as np

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, enough, lists, possible, unnamed


def by_class() -> Partitioner:
    """Whole labels dealt in turn: no two nodes share a label, or, with more nodes than labels, each node has one."""

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = possible(len(items.label), nodes, minimum)
        members = lists(np.unique(items.label, return_inverse=True)[1])
        owner = np.empty(len(items.label), dtype=np.int64)
        for turn, label in enumerate(rng.permutation(len(members))):
            sharers = np.arange(turn % count, count, len(members))  # one node unless there are more nodes than labels
            owner[rng.permutation(members[label])] = np.resize(sharers, len(members[label]))
        return enough(unnamed(lists(owner, count)), minimum, f"{len(members):,} labels dealt whole")

    return deal
