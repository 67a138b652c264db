"""A run that is ready to be trained: who trains, on which rows, and how a round is closed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from metadist_cli.commands.support.round_log import job_files, job_seconds, mean_metrics, note, sizes
from metadist_cli.commands.support.run_context import open_setting
from metadist_cli.config import Config
from metadist_cli.core.console import Console
from metadist_cli.core.tree import Params
from metadist_cli.experiment import start, training_nodes
from metadist_cli.federated.aggregators import Updates
from metadist_cli.federated.rounds import Room, choose, close_round
from metadist_cli.runtime.execution import Setting
from metadist_cli.storage import checkpoints, run_directory
from metadist_cli.storage.run_directory import Run


class Training(NamedTuple):
    """A run that is ready to be trained."""

    setting: Setting
    run: Run
    weights: dict[int, int]  # rows of every node that trains, from the partition manifest
    first: Params  # round 0's global parameters, and the template of all others
    first_own: Params
    template: Params  # of what a node sends: the global parameters without the server's state
    up: int  # bytes of the file in which it sends them

    def chosen(self, number: int) -> list[int]:
        config = self.setting.experiment.config
        return choose(config.seed, number, sorted(self.weights), config.train.nodes_per_round)


def open_training(config: Config, run: Run, console: Console) -> Training:
    """Shards and settings checked, and round 0 in place."""
    run_directory.agree(config, run)
    setting = open_setting(config, run, console)
    weights = training_nodes(config, training_rows(setting.manifest))
    first, own = start(setting.experiment)
    template = {k: v for k, v in first.items() if not k.startswith("server/")}
    up = checkpoints.node_bytes(template, setting.experiment.loss.metric)
    return Training(setting, run, weights, first, own, template, up)


def training_rows(manifest: dict[str, Any]) -> dict[int, int]:
    """The rows of every training node of a partition."""
    return {n["node"]: n["rows"] for n in manifest["nodes"] if n["role"] == "train"}


def close(
    training: Training,
    number: int,
    parent: Params,
    parent_sha256: str,
    updates: Iterable[Updates],
    clock: float,
    dropped: list[int] | None = None,
    room: Room | None = None,
    jobs: float | None = 0.0,
) -> tuple[Params, str, dict[str, float]]:
    """Close a round: aggregate, commit what nodes keep, commit the global checkpoint, and note the metrics.

    room: of the process that trains; what is less than a block is noted, for the last bits depend on it. jobs: seconds
    that others took to train those that are read from their files, None where nobody knows.
    """
    run, experiment = training.run, training.setting.experiment
    seen: list[Updates] = []
    trained = time.monotonic() - clock  # where the updates are there already

    def watch() -> Iterator[Updates]:
        nonlocal trained
        coming = iter(updates)
        while True:
            began = time.monotonic()
            some = next(coming, None)
            trained += time.monotonic() - began
            if some is None:
                return
            seen.append(some._replace(shared={}))
            yield some

    rows = list(training.weights.values())
    result = close_round(experiment.aggregator, experiment.server, parent, watch(), number, rows)
    combined = time.monotonic()
    checkpoints.write_state(run, number, seen)
    metrics = mean_metrics(seen, ("loss", experiment.loss.metric))
    count = sum(len(some.nodes) for some in seen)
    header = {"parent": parent_sha256, "nodes": count, "dropped": dropped or [], "metrics": metrics}
    sha256 = checkpoints.write_global(run, number, result, header)
    if training.first_own:  # it looks through all rounds: 0.2 s after 5,000 of them
        checkpoints.prune_states(run, number)
    _tidy(training, number)
    seconds = {} if jobs is None else {"train": trained + jobs}
    seconds |= {"aggregate": combined - clock - trained, "files": time.monotonic() - combined}
    times = {kind: round(spent, 6) for kind, spent in seconds.items()}
    fewer = {} if room is None or room.nodes >= training.setting.block else {"room": room.nodes}
    told = {"bytes": sizes(run, number, training.up), "seconds": times, **fewer}
    note(run, {"round": number, "nodes": count, **metrics, **told})
    return result, sha256, metrics


def close_frozen(
    training: Training, number: int, parent: Params, parent_sha256: str, inputs: dict[str, Any]
) -> tuple[Params, str, dict[str, float]]:
    """Close a round with the node files that were frozen for it."""
    weights = {n: training.weights[n] for n in training.chosen(number)}
    updates = checkpoints.frozen_updates(training.run, number, parent_sha256, training.template, weights, inputs)
    jobs = job_seconds(training.run, number, inputs["files"])
    return close(training, number, parent, parent_sha256, updates, time.monotonic(), inputs["dropped"], jobs=jobs)


def _tidy(training: Training, number: int) -> None:
    """Node files of closed rounds go, as train.keep_nodes says, and what jobs said of them."""
    keep = training.setting.experiment.config.train.keep_nodes
    old = {"none": number, "last": number - 1, "all": 0}[keep]
    if old > 0:
        for path in (*checkpoints.update_files(training.run, old), *job_files(training.run, old)):
            path.unlink(missing_ok=True)
