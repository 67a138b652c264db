"""The steps of a round, as `train` and `aggregate` take them: sample, train, combine, commit, log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from metadist_cli.commands.support.round_log import (
    job_files,
    job_seconds,
    mean_metrics,
    note,
    sizes,
    write_node_metrics,
)
from metadist_cli.commands.support.run_context import open_setting
from metadist_cli.commands.support.stopwatch import Stopwatch
from metadist_cli.commands.support.validation import (
    Validation,
    open_validation,
    record_of,
    record_with,
    score,
)
from metadist_cli.config import Config
from metadist_cli.core import tree
from metadist_cli.core.console import Console
from metadist_cli.core.tree import Params
from metadist_cli.experiment import Experiment, initial_state, training_nodes
from metadist_cli.federated.early_stopping import Record
from metadist_cli.federated.node_training import in_blocks
from metadist_cli.federated.rounds import sample_nodes, shared_part
from metadist_cli.federated.updates import Updates
from metadist_cli.runtime.execution import Setting
from metadist_cli.runtime.workers import Order, Team
from metadist_cli.storage import checkpoints, node_files, node_states, run_directory
from metadist_cli.storage.checkpoints import GlobalModel
from metadist_cli.storage.run_directory import Run


class Training(NamedTuple):
    """A run that is ready to be trained."""

    setting: Setting
    run: Run
    weights: dict[int, int]  # rows of every training node, from the partition manifest
    first: Params  # round 0's global parameters, and the template of all others
    first_own: Params  # what every node keeps before its first round
    payload: Params  # the template of what a node sends
    up: int  # bytes of the file in which it sends them
    validation: Validation | None = None  # what rounds are evaluated by, in the process that closes them

    @property
    def experiment(self) -> Experiment:
        return self.setting.experiment

    def sample(self, number: int) -> list[int]:
        """The nodes of a round."""
        config = self.experiment.config
        return sample_nodes(config.seed, number, sorted(self.weights), config.train.nodes_per_round)

    def kept(self, before: int, nodes: Iterable[int]) -> dict[int, Params]:
        """What nodes kept from the last round before `before` that they took part in. Raises Problem if it is lost."""
        return node_states.read_kept(self.run, before, nodes, self.first_own, self.sample)


class RoundResult(NamedTuple):
    """A round that is trained and combined, but not yet committed.

    number: of the round. params: the next global model. reports: the nodes' updates without their parameters.
    """

    number: int
    params: Params
    reports: list[Updates]

    @property
    def nodes(self) -> int:
        return sum(len(some.nodes) for some in self.reports)

    @property
    def kept(self) -> dict[int, Params]:
        """What each node keeps, of those that were trained here."""
        return {n: tree.index(some.own, i) for some in self.reports if some.own for i, n in enumerate(some.nodes)}


def open_training(config: Config, run: Run, console: Console) -> Training:
    """Check shards and settings."""
    run_directory.agree(config, run)
    setting = open_setting(config, run, console)
    weights = training_nodes(config, training_rows(setting.manifest))
    first, own = initial_state(setting.experiment)
    payload = setting.experiment.server.payload(first)
    up = node_files.node_bytes(payload, setting.experiment.loss.metric)
    return Training(setting, run, weights, first, own, payload, up)


def with_validation(training: Training, baseline: bool = False) -> Training:
    """The run with what rounds are evaluated by. Raises Problem if nothing is held out for that."""
    return training._replace(validation=open_validation(training.setting, training.run, baseline))


def training_rows(manifest: dict[str, Any]) -> dict[int, int]:
    """The rows of every training node of a partition."""
    return {n["node"]: n["rows"] for n in manifest["nodes"] if n["role"] == "train"}


def newest(training: Training) -> GlobalModel:
    """The global model of the newest closed round; round 0 is written if it is missing."""
    run, closed = training.run, training.run.last_closed()
    if closed >= 0:
        return checkpoints.read_global(run, closed, training.first)
    run_directory.save_config(training.experiment.config, run)  # what all later calls are compared with
    return checkpoints.write_global(run, 0, training.first, {})


def read_ready(training: Training, model: GlobalModel) -> dict[int, Updates]:
    """The updates that node files of the open round hold already."""
    number = model.round + 1
    weights = {n: training.weights[n] for n in training.sample(number)}
    found: dict[int, Updates] = {}
    for path in node_files.update_files(training.run, number):
        some = node_files.read_updates(path, number, model.sha256, training.payload, weights)
        for i, node in enumerate(some.nodes):
            found.setdefault(node, some.take([i]))
    return found


def read_frozen(training: Training, model: GlobalModel, inputs: dict[str, Any]) -> Iterator[Updates]:
    """The updates in the node files with which `aggregate` began to close the open round."""
    number = model.round + 1
    weights = {n: training.weights[n] for n in training.sample(number)}
    return node_files.frozen_updates(training.run, number, model.sha256, training.payload, weights, inputs)


def local_updates(
    training: Training,
    team: Team,
    model: GlobalModel,
    nodes: list[int],
    ready: dict[int, Updates],
    kept: dict[int, Params],
) -> Iterator[Updates]:
    """Train the nodes of the open round, block by block as their updates are asked for, and give them in order.

    A node whose update is ready is not trained again, unless its block lacks another one: a block's size decides the
    last bits, so it is trained whole, and what is ready takes its place.

    Args:
        training: the run.
        team: the processes that train.
        model: the global model that the nodes start from.
        nodes: of the round, in ascending order.
        ready: by node, what node files hold already.
        kept: by node, what each node keeps from its last round.
    """
    blocks = in_blocks(nodes, training.setting.block)
    to_train = [node for block in blocks if not _all_in(ready, block) for node in block]
    order = Order(model.round + 1, model.round * training.experiment.steps, shared_part(model.params), kept)
    trained = team.updates(to_train, order)
    for block in blocks:
        if _all_in(ready, block):
            yield from (ready[node] for node in block)
            continue
        left = len(block)
        while left:  # in parts, where memory was short
            some = next(trained)
            left -= len(some.nodes)
            yield from _replaced(some, ready)


def _all_in(ready: dict[int, Updates], block: list[int]) -> bool:
    return all(node in ready for node in block)


def _replaced(trained: Updates, ready: dict[int, Updates]) -> Iterator[Updates]:
    """Updates with those that are ready in their place."""
    if ready.keys().isdisjoint(trained.nodes):
        yield trained
        return
    for i, node in enumerate(trained.nodes):
        yield ready[node] if node in ready else trained.take([i])


def combine(training: Training, model: GlobalModel, updates: Iterable[Updates], clock: Stopwatch) -> RoundResult:
    """The next global model from the nodes' updates, which are taken one block at a time.

    The time in which an update is waited for counts as training, the rest as aggregation.
    """
    server, number = training.experiment.server, model.round + 1
    so_far, reports = server.open(model.params), []
    for some in clock.waiting("train", updates):
        with clock("aggregate"):
            so_far = server.add(so_far, model.params, some)
        reports.append(some._replace(shared={}))
    with clock("aggregate"):
        params = server.close(so_far, model.params, number, list(training.weights.values()))
    return RoundResult(number, params, reports)


def commit(
    training: Training, model: GlobalModel, result: RoundResult, clock: Stopwatch, dropped: list[int] | None = None
) -> GlobalModel:
    """Write what nodes keep, then the global checkpoint, which closes the round; remove what it makes superfluous."""
    run, number = training.run, result.number
    with clock("files"):
        node_states.write_state(run, number, result.reports)
        if training.experiment.config.train.node_metrics:
            write_node_metrics(run, number, result.reports)
    metrics = mean_metrics(result.reports, ("loss", training.experiment.loss.metric))
    found, record = {}, record_of(model)
    if training.validation is not None and number % training.validation.every == 0:
        with clock("validate"):
            found, record = _validated(training, training.validation, model, result)
    header = {"parent": model.sha256, "nodes": result.nodes, "dropped": dropped or [], "metrics": metrics | found}
    header |= {} if record is None else {"validation": record._asdict()}
    with clock("files"):
        closed = checkpoints.write_global(run, number, result.params, header)
        if training.first_own:  # it looks through all rounds: 0.2 s after 5,000 of them
            node_states.prune_states(run, number, record and record.round)
        _remove_node_files(training, number)
    return closed


def _validated(
    training: Training, validation: Validation, model: GlobalModel, result: RoundResult
) -> tuple[dict[str, float], Record]:
    """A round's score on validation tasks, if it is finite, and the run's record with it."""
    number, homes = result.number, validation.homes
    owns = training.kept(number + 1, homes) if homes else {}
    value = score(validation, result.params, training.first_own, owns)
    record = record_with(validation, model, number, value)
    return {"validation": value} if math.isfinite(value) else {}, record


def log(training: Training, closed: GlobalModel, seconds: dict[str, float], at_once: int | None = None) -> None:
    """Append a closed round to metrics.jsonl.

    at_once: nodes that memory held as one program, which decides the last bits where it is less than a block.
    """
    line = {"round": closed.round, "nodes": closed.header["nodes"], **closed.header["metrics"]}
    line |= {"bytes": sizes(training.run, closed.round, training.up)}
    line |= {"seconds": {kind: round(spent, 6) for kind, spent in seconds.items()}}
    line |= {"at_once": at_once} if at_once is not None and at_once < training.setting.block else {}
    note(training.run, line)


def close_frozen(training: Training, model: GlobalModel, inputs: dict[str, Any]) -> GlobalModel:
    """Close the open round with the node files that were frozen for it, and log it."""
    clock = Stopwatch()
    seconds = job_seconds(training.run, model.round + 1, inputs["files"])  # commit removes the jobs' notes
    done = combine(training, model, read_frozen(training, model, inputs), clock)
    model = commit(training, model, done, clock, inputs["dropped"])
    if seconds is None:  # nobody knows how long the nodes trained
        del clock.seconds["train"]
    else:
        clock.add("train", seconds)
    log(training, model, clock.seconds)
    return model


def _remove_node_files(training: Training, number: int) -> None:
    """Remove node files of closed rounds, as train.keep_nodes says, and the notes of the jobs that wrote them."""
    keep = training.experiment.config.train.keep_nodes
    old = {"none": number, "last": number - 1, "all": 0}[keep]
    if old > 0:
        for path in (*node_files.update_files(training.run, old), *job_files(training.run, old)):
            path.unlink(missing_ok=True)
