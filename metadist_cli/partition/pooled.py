"""The rows of all training nodes as one node's: what a federation is compared with, and could not do itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metadist_cli.data.types import stack, take
from metadist_cli.partition.shards import Shard


def union(shards: Sequence[Shard]) -> Shard:
    """One node, number 0, with the rows of all shards as they lie there, turned and scaled by node.

    Classes have one numbering, the data set's; rows are in the order that a single node would have them in.
    """
    label = np.concatenate([s.label if s.labels is None else np.argsort(s.labels)[s.label] for s in shards])
    row = np.concatenate([s.row for s in shards])
    order = np.lexsort((row, label))
    targets = [s.target for s in shards if s.target is not None]
    target = np.concatenate(targets)[order] if targets else None
    x = take(stack([s.x for s in shards]), order)
    return Shard(0, "all training nodes", "train", x, label[order], target, row[order])
