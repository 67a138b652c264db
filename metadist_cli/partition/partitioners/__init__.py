"""The partitioners, one file each. To add one, write a file that returns a Partitioner and register it here.

No partitioner is special to whole tasks: where a label is a task, `by_class` assigns tasks, and with episodic tasks
every partitioner assigns whole classes. For feature skew see `partition.rotate`.
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
