"""IID nodes: no skew."""

from __future__ import annotations

import numpy as np

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, lists, node_count, unnamed


def iid() -> Partitioner:
    """Assign every item to a node at random; sizes differ by at most one."""

    def assign(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = node_count(len(items.label), nodes, minimum)
        return unnamed(lists(rng.permutation(np.arange(len(items.label)) % count), count))

    return assign
