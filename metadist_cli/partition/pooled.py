"""Centralized training, the reference for federated training: the rows of all training nodes pooled into one node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metadist_cli.data.types import stack, take
from metadist_cli.partition.shards import Shard


def union(shards: Sequence[Shard]) -> Shard:
    """Pool the rows of all shards into one node, number 0, for centralized training.

    Rows keep their node's rotation and scaling. Classes get the data set's numbering, and rows the order that they
    would have in a single node: by class, then by row number.
    """
    label = np.concatenate([s.label if s.labels is None else np.argsort(s.labels)[s.label] for s in shards])
    row = np.concatenate([s.row for s in shards])
    order = np.lexsort((row, label))
    targets = [s.target for s in shards if s.target is not None]
    target = np.concatenate(targets)[order] if targets else None
    x = take(stack([s.x for s in shards]), order)
    return Shard(0, "all training nodes", "train", x, label[order], target, row[order])
