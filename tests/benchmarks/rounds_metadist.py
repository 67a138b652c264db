"""The federated rounds of rounds.py through metadist's own stages, in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from rounds_reference import BATCH, INNER_LR, LR, norm

from metadist_cli import config
from metadist_cli.commands.partition import partition
from metadist_cli.commands.support.round_log import round_metrics
from metadist_cli.commands.support.training_run import Training, open_training
from metadist_cli.commands.train import train
from metadist_cli.core.console import Console, Progress
from metadist_cli.storage import checkpoints, run_directory

CONFIG = """\
data: {data}
task: {{kind: local, support: {support}, query: {query}, new: {{from: nodes, test: 1}}}}
partition: {{name: natural, by: {group}}}
model: {{name: mlp, hidden: [128]}}
learner: {learner}
train: {{rounds: {rounds}, local_epochs: 1, meta_batch: 1, {batch}outer: {{name: sgd, lr: {lr}}}}}
execution: {{threads: 1}}
"""


class MarkedConsole(Console):
    """A silent console that says when a round is closed."""

    def __init__(self, mark: Callable[[], None]):
        super().__init__(quiet=True)
        self._mark = mark

    @contextlib.contextmanager
    def progress(self, description: str, total: int | None, done: int = 0) -> Iterator[Progress]:
        with super().progress(description, total, done) as progress:
            advance = progress.advance

            def marked(n: int = 1, **figures: object) -> None:
                advance(n, **figures)
                self._mark()

            progress.advance = marked
            yield progress


def settings(work: dict[str, Any]) -> str:
    """The config of some work, as text."""
    size = min(work["rows"], BATCH)
    averaging = work["algorithm"] == "fedavg"
    first = "first_order: true, " if work["algorithm"] == "first" else ""
    data, group = f"{{name: arrays, path: {work['data']}, groups: [node]}}", "node"
    if work["data"] is None:
        nodes = f"nodes: {work['nodes'] + 1}, rows: {work['rows']}"
        data, group = f"{{name: synthetic, {nodes}, features: 64, classes: 10}}", "user"
    return CONFIG.format(
        data=data,
        group=group,
        support=1 if averaging else size // 2,
        query=1 if averaging else size // 2,
        batch=f"batch: {size}, " if averaging else "",
        learner="{name: supervised}" if averaging else f"{{name: maml, {first}inner_lr: {INNER_LR}}}",
        rounds=work["rounds"],
        lr=LR,
    )


def trained(work: dict[str, Any], mark: Callable[[], None]) -> tuple[Training, float]:
    """(the run with all its rounds closed, seconds that the partition took)."""
    folder = Path(work["folder"])
    (folder / "config.yaml").write_text(settings(work))
    told, run, console = config.load(folder / "config.yaml"), run_directory.Run.at(folder / "run"), MarkedConsole(mark)
    clock = time.perf_counter()
    partition(told, run, console)
    seconds = time.perf_counter() - clock
    train(told, run, console, close_last=True)
    return open_training(told, run, console), seconds


def play(work: dict[str, Any], mark: Callable[[], None]) -> dict[str, Any]:
    """All rounds; the CPU time of each kind of work in rounds 3 and later, as the run's own metrics tell it."""
    with patch("time.monotonic", time.process_time):  # the clock of metrics.jsonl: waiting for the disk is no work
        training, partitioning = trained(work, mark)
    lines = [line["seconds"] for line in round_metrics(training.run)[2:]]
    last = checkpoints.read_global(training.run, work["rounds"], training.first).params
    return {
        "norm": norm(last),
        "partition_s": partitioning,
        "noted_ms": {kind: 1e3 * median(line[kind] for line in lines) for kind in lines[0]},
        "block": training.setting.block,
    }
