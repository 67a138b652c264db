"""The features of shards on the scale that `partition.scale` asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metadist_cli.data.standardise import SHARED, fill, moments, standardise

if TYPE_CHECKING:
    from metadist_cli.partition.shards import Shard


def scaled(shards: list[Shard], scale: str, clip: float | None) -> list[Shard]:
    """The shards with scaled features, and the mean in place of missing cells.

    Args:
        shards: of all nodes.
        scale: as in `PartitionSpec`; "none" only fills missing cells.
        clip: the largest standardised value, either way.
    """
    if scale in ("node", "support"):
        known = [s for s in shards if s.role == "train" or (scale == "node" and s.home is None)]
        own = {s.node: moments([s.x[:]]) for s in known}
        homes = {s.node: s.node if s.home is None else s.home for s in shards}
        return [
            s._replace(x=standardise(s.x[:], own[homes[s.node]], clip)) if homes[s.node] in own else s for s in shards
        ]
    training = [s.x[:] for s in shards if s.role == "train"]
    if scale == "none":
        mean = moments(training)
        return [s._replace(x=fill(s.x[:], mean)) for s in shards]
    shared = SHARED[scale](training)
    return [s._replace(x=standardise(s.x[:], shared, clip)) for s in shards]
