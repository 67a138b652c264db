"""The features of shards on the scale that `partition.scale` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metadist_cli.data.preprocessing import Preprocessing
from metadist_cli.data.standardise import SHARED, moments
from metadist_cli.data.types import Dataset

if TYPE_CHECKING:
    from metadist_cli.partition.shards import Shard


def fit(data: Dataset, shards: Sequence[Shard], scale: str, clip: float | None) -> Preprocessing:
    """The data set's preprocessing with the scale of its training rows. scale, clip: as in `PartitionSpec`."""
    needed = scale in SHARED or (scale == "none" and data.preprocessing.missing == "fill")
    rows = [data.x[s.row] for s in shards if s.role == "train"] if needed else []
    return data.preprocessing.fitted(rows, scale, clip)


def scaled(shards: list[Shard], by: Preprocessing, scale: str, clip: float | None) -> list[Shard]:
    """The shards with scaled features, and the mean in place of missing cells.

    Args:
        shards: of all nodes.
        by: of the data set.
        scale: as in `PartitionSpec`; "none" only fills missing cells.
        clip: the largest standardised value, either way.
    """
    by = by.fitted([s.x[:] for s in shards if s.role == "train"], scale, clip)
    if scale not in ("node", "support"):
        return [s._replace(x=by.scaled(s.x[:])) for s in shards]
    known = [s for s in shards if s.role == "train" or (scale == "node" and s.home is None)]
    own = {s.node: moments([s.x[:]]) for s in known}
    shards = [s._replace(scale=own.get(s.node if s.home is None else s.home)) for s in shards]
    return [s if s.scale is None else s._replace(x=by.settled(s.scale).scaled(s.x[:])) for s in shards]
