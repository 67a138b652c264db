"""No skew at all."""

from __future__ import annotations

import numpy as np

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, lists, possible, unnamed


def iid() -> Partitioner:
    """Every item to a node at random; the sizes differ by one at most."""

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = possible(len(items.label), nodes, minimum)
        return unnamed(lists(rng.permutation(np.arange(len(items.label)) % count), count))

    return deal
