"""Who gets what: ways to deal the items of a data set out to nodes.

To deal whole tasks is no way of its own: where a label is a task, `by_class` does it, and episodic tasks deal whole
classes with every partitioner. Nodes whose features differ are made by `partition.rotate`.
"""

from collections.abc import Callable

from metadist_cli.partition.partitioners.by_class import by_class
from metadist_cli.partition.partitioners.dirichlet import dirichlet
from metadist_cli.partition.partitioners.iid import iid
from metadist_cli.partition.partitioners.label_shards import shards
from metadist_cli.partition.partitioners.natural import natural
from metadist_cli.partition.partitioners.quantity import quantity
from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner

__all__ = ["PARTITIONERS", "Assignment", "Items", "Partitioner"]

PARTITIONERS: dict[str, Callable[..., Partitioner]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "shards": shards,
    "quantity": quantity,
    "by_class": by_class,
    "natural": natural,
}
