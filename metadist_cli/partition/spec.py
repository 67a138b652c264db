"""What models and tasks need to know about the data of a partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metadist_cli.data.standardise import Moments, moments
from metadist_cli.data.types import Dataset
from metadist_cli.partition.shards import Shard, pool
from metadist_cli.tasks.episodes import Pool


class Spec(NamedTuple):
    """What models and tasks need to know about the data; stored in the partition manifest."""

    kind: str  # classification | regression
    shape: tuple[int, ...]  # of one row
    divide: float  # models see the stored values divided by this
    classes: tuple[str, ...]  # names
    targets: int  # outputs of a regression, 0 for classification
    smallest: int  # rows of the smallest training node
    largest: int  # rows of the largest training node
    rows: int  # rows of all training nodes
    nodes: int  # number of training nodes
    target_mean: tuple[float, ...] = ()  # of the training nodes' targets, by which models see targets standardised
    target_deviation: tuple[float, ...] = ()  # the same; both () where models see targets as they are

    def pool(self, shards: Sequence[Shard], device: torch.device | str = "cpu") -> Pool:
        """The rows of some shards as models see them."""
        return pool(shards, self.divide, device, self._target_moments)

    def in_units(self, outputs: Tensor) -> Tensor:
        """A model's outputs (..., out), on the CPU, in the units of the data."""
        by = self._target_moments
        return outputs if by is None else torch.from_numpy((outputs.numpy() * by.deviation + by.mean).astype("float32"))

    @property
    def _target_moments(self) -> Moments | None:
        return Moments(np.array(self.target_mean), np.array(self.target_deviation)) if self.target_mean else None


def spec_of(data: Dataset, shards: Sequence[Shard], targets: str = "train") -> Spec:
    """The Spec of a data set and its shards.

    Args:
        data: the data set.
        shards: of all nodes.
        targets: "train" standardises a regression's targets by those of the training nodes, "none" leaves them.
    """
    training = [s for s in shards if s.role == "train"]
    rows = [len(s.label) for s in training]
    count = 0 if data.target is None else data.target.shape[1]
    spec = Spec(
        data.kind, data.x.shape[1:], data.divide, data.classes, count, min(rows), max(rows), sum(rows), len(rows)
    )
    if data.target is None or targets == "none":
        return spec
    found = moments([s.target for s in training if s.target is not None])
    return spec._replace(target_mean=tuple(found.mean.tolist()), target_deviation=tuple(found.deviation.tolist()))
