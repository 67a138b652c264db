"""The partition: which node holds what, as a heat map."""

from __future__ import annotations

from metadist_cli.report.heatmap import partition_png, partition_text
from metadist_cli.report.types import Picture, Results


def partition(results: Results) -> Picture:
    """The heat map of the partition."""
    text = partition_text(results.shards)
    alt = f"Heat map of nodes by classes, with each node's rows and distance. {text}"
    return Picture(partition_png(results.shards), alt, text)
