"""The pictures of a report, one file each. To add one, write a file with a function of Results and register it here."""

from collections.abc import Callable

from metadist_cli.report.pictures.adaptation import adaptation
from metadist_cli.report.pictures.nodes import nodes
from metadist_cli.report.pictures.partition import partition
from metadist_cli.report.pictures.rounds import rounds
from metadist_cli.report.pictures.task import task
from metadist_cli.report.types import Picture, Results

PICTURES: dict[str, tuple[str, Callable[[Results], Picture | None]]] = {
    "adaptation": ("Adaptation to new tasks", adaptation),
    "nodes": ("Adaptation to new tasks", nodes),
    "rounds": ("Training", rounds),
    "partition": ("Training", partition),
    "task": ("One task", task),
}
"""By file name: the section of the page, and the function that draws it (None: nothing to show)."""
