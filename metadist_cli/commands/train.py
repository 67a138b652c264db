"""train: rounds of local meta-learning on every node's own shard, or some nodes' part of the open round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from metadist_cli.commands.support.node_selection import warn_of_few_nodes
from metadist_cli.commands.support.round_log import collect_node_metrics, job_seconds, note_job, repair, round_metrics
from metadist_cli.commands.support.run_context import command
from metadist_cli.commands.support.stopwatch import Stopwatch
from metadist_cli.commands.support.training_run import (
    Training,
    close_frozen,
    combine,
    commit,
    local_updates,
    log,
    newest,
    open_training,
    read_ready,
    with_validation,
)
from metadist_cli.commands.support.validation import stopped, why_stopped
from metadist_cli.config import Config
from metadist_cli.config.step_sizes import idle_rounds, stretches
from metadist_cli.core import files
from metadist_cli.core.console import Console
from metadist_cli.core.errors import RETRY, USAGE, Problem
from metadist_cli.federated.updates import Updates
from metadist_cli.runtime import memory
from metadist_cli.runtime.torchrun import ranks
from metadist_cli.runtime.workers import team
from metadist_cli.storage import checkpoints, node_files, run_directory
from metadist_cli.storage.checkpoints import GlobalModel
from metadist_cli.storage.run_directory import Run, frozen_inputs


def train(config: Config, run: Run, console: Console, close_last: bool = False, label: str = "train") -> dict[str, Any]:
    """Train all nodes up to round train.rounds; the last round stays open for `aggregate`, unless close_last.

    Args:
        config: the experiment.
        run: its run directory, with shards.
        console: where to report.
        close_last: close the last round too.
        label: what messages and the manifest call this model: "train", or a baseline's name.

    Returns:
        The manifest's entry: the newest closed round, its checkpoint's SHA-256, seconds, and the next command.
    """
    training = open_training(config, run, console)
    rounds = config.train.rounds
    _warn_of_schedules(config, run, console, label)
    with command(label, config, run, training.experiment) as result:
        model = newest(training)
        repair(run, training.first, training.up)
        if model.round >= rounds:
            asked = f" (train.rounds is {rounds})" if model.round > rounds else ""
            console.say(f"{label}: already done, round {model.round} is closed{asked}")
            result |= {"round": model.round, "global": model.sha256, "next": "finetune"}
            return result
        if stopped(config, model):
            console.say(f"{label}: already done, {why_stopped(model)}")
            result |= {"round": model.round, "stopped": True, "global": model.sha256, "next": "finetune"}
            return result
        training = with_validation(training, baseline=label != "train")
        began = time.monotonic()
        _report_plan(training, console, label)
        warn_of_few_nodes(config, len(training.weights), console)
        kept = training.kept(model.round + 1, training.weights)
        with (
            team(training.setting, run, console, _known_to_fit(run)) as crew,
            console.progress(f"{label}: round", rounds, model.round) as progress,
        ):
            while model.round < rounds and not stopped(config, model):
                if (inputs := frozen_inputs(run, model.round + 1)) is not None:
                    model = close_frozen(training, model, inputs)  # with these nodes, whatever came later
                    kept = training.kept(model.round + 1, training.weights)
                    progress.advance()
                    continue
                clock = Stopwatch()
                nodes = training.sample(model.round + 1)
                with clock("train"):
                    ready = read_ready(training, model)
                updates = local_updates(training, crew, model, nodes, ready, kept)
                if model.round + 1 == rounds and not close_last:
                    _leave_open(training, model, _fresh(updates, ready))
                    progress.advance()
                    break
                if config.train.keep_nodes != "none":
                    updates = _with_files(training, model, updates, ready, clock)
                done = combine(training, model, updates, clock)
                clock.add("train", _job_seconds(run, done.number) if ready else 0.0)
                model = commit(training, model, done, clock)
                log(training, model, clock.seconds, crew.leader.limit.nodes)
                kept = kept | done.kept
                if ready:
                    kept |= training.kept(model.round + 1, ready)
                progress.advance(1, **{name: f"{value:.3f}" for name, value in model.header["metrics"].items()})
        if config.train.node_metrics:
            collect_node_metrics(run)
        early = model.round < rounds and stopped(config, model)
        left_open = model.round < rounds and not early
        result |= {
            "round": model.round,
            "open": rounds if left_open else None,
            "next": "aggregate" if left_open else "finetune",
            "global": model.sha256,
            "seconds": round(time.monotonic() - began, 3),
            "peak_memory_of_others": crew.peaks,
        }
        result |= {"stopped": True} if early else {}
    if early:
        console.say(f"{label}: {why_stopped(model)}")
    if left_open:
        console.say(f"{label}: round {rounds} is trained and open; next it has to be aggregated")
    return result


def train_nodes(
    config: Config, run: Run, console: Console, which: Callable[[list[int]], list[int]], number: int | None
) -> dict[str, Any]:
    """Train some nodes of the open round, for another machine or a scheduler; repeating it is harmless.

    Args:
        config: the experiment.
        run: its run directory, with the shards of these nodes.
        console: where to report.
        which: (all training nodes) -> the nodes to train.
        number: the round to train for; None: the open one.

    Returns:
        The round, the nodes that were trained, and the names of their files.
    """
    training = open_training(config, run, console)
    _warn_of_schedules(config, run, console, "train")
    nodes = which(sorted(training.weights))
    strangers = [n for n in nodes if n not in training.weights]
    if strangers:
        last = max(training.weights)
        raise Problem(f"node {strangers[0]} is not a training node", "--nodes", f"training nodes: 0 to {last}", USAGE)
    if run.last_closed() < 0:
        newest(training)
    closed = run.last_closed()
    open_round = closed + 1
    number = open_round if number is None else number
    if number <= closed or number > config.train.rounds:
        why = "is already closed" if number <= closed else f"is beyond train.rounds={config.train.rounds}"
        console.say(f"train: round {number} {why}, nothing to do")
        return {"round": closed, "nodes": []}
    # by number: another process may close the round in the meantime
    model = checkpoints.read_global(run, closed, training.first)
    if stopped(config, model):
        console.say(f"train: nothing to do in round {number}, {why_stopped(model)}")
        return {"round": closed, "nodes": []}
    if number > open_round:
        hint = "run `metadist aggregate` for the round before, or wait and try again"
        raise Problem(f"round {number} needs the checkpoint of round {number - 1}", str(run.path), hint, RETRY)
    ready = read_ready(training, model)
    wanted = set(nodes)
    sampled = [n for n in training.sample(number) if n in wanted]
    todo = [n for n in sampled if n not in ready]
    if not todo:
        what = "already trained" if sampled else "not sampled for this round"
        console.say(f"train: round {number}, nodes {_named(nodes)}: {what}, nothing to do")
        return {"round": number, "nodes": []}
    with files.lock(run.round(number) / f".lock-{todo[0]:03d}"):
        kept = training.kept(number, todo)
        with team(training.setting, run, console) as crew:
            names = _leave_open(training, model, local_updates(training, crew, model, todo, {}, kept))
    late = [name for name in node_files.late_files(run, number) if name in names]
    if late:
        console.warn(f"round {number} was closed in the meantime, so these files are not used: {', '.join(late)}")
    console.say(f"train: round {number}, nodes {_named(todo)}: {', '.join(names)}")
    return {"round": number, "nodes": todo, "files": names, "late": late}


def _warn_of_schedules(config: Config, run: Run, console: Console, label: str) -> None:
    """Warn of rounds that would change nothing, and of a schedule that changes because train.rounds did."""
    for text in idle_rounds(config):
        console.warn(f"{label}: {text}")
    before, closed = run_directory.rounds_asked(run), run.last_closed()
    if stretches(config) and closed > 0 and before not in (None, config.train.rounds):
        console.warn(
            f"{label}: train.rounds was {before} and is {config.train.rounds}: from round {closed + 1} on, the step "
            "size follows the longer run, unlike in a run that has this many rounds from the beginning"
        )


def _fresh(updates: Iterable[Updates], ready: dict[int, Updates]) -> Iterator[Updates]:
    """The updates that no node file holds yet."""
    return (some for some in updates if some.nodes[0] not in ready)


def _leave_open(training: Training, model: GlobalModel, updates: Iterable[Updates]) -> list[str]:
    """Write node files for `aggregate`, and a note of what the job took. Returns the files' names."""
    began, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    number = model.round + 1
    names = node_files.leave_open(training.run, number, model.sha256, updates)
    if names:
        seconds = round(time.monotonic() - clock, 3)
        note = {"files": names, "began": began, "seconds": seconds, "peak_memory": memory.peak()}
        note_job(training.run, number, note | {"execution": training.setting.execution})
    return names


def _with_files(
    training: Training, model: GlobalModel, updates: Iterable[Updates], ready: dict[int, Updates], clock: Stopwatch
) -> list[Updates]:
    """All updates, once the node files that train.keep_nodes asks for are written."""
    with clock("train"):
        updates = list(updates)
        node_files.leave_open(training.run, model.round + 1, model.sha256, _fresh(updates, ready))
    return updates


def _job_seconds(run: Run, number: int) -> float:
    """Seconds that jobs took to train the nodes whose files are there."""
    return job_seconds(run, number, {path.name for path in node_files.update_files(run, number)}) or 0.0


def _known_to_fit(run: Run) -> int | None:
    """How many nodes at a time memory held in the last round, where it was less than a block."""
    lines = round_metrics(run)
    return lines[-1].get("at_once") if lines else None


def _report_plan(training: Training, console: Console, label: str) -> None:
    """Report what was chosen, and warn if some processes would idle."""
    chosen, nodes = training.setting.execution, len(training.sample(1))
    blocks = -(-nodes // chosen["block"])
    processes = max(ranks(), training.experiment.config.execution.workers)
    size = "1 node" if chosen["block"] == 1 else f"{chosen['block']} nodes"
    sizes = f"blocks of {size}" if blocks > 1 else "all nodes as one block"
    threads = f", {chosen['threads']} threads" if chosen["threads"] > 1 else ""
    crew = f", {processes} processes" if processes > 1 else ""
    tasks = f"{chosen['tasks_at_once']} tasks at once" if chosen["tasks_at_once"] > 1 else "task by task"
    console.say(f"{label}: on {chosen['device']}, {sizes}, {tasks}{threads}{crew}")
    if blocks < min(processes, nodes):  # a smaller block gives more of them something to do
        have, least = "one block" if blocks == 1 else f"{blocks} blocks", max(1, nodes // processes)
        console.warn(f"{processes} processes share {have} of nodes: try execution.block={least}")


def _named(nodes: list[int]) -> str:
    shown = ", ".join(map(str, nodes[:8]))
    return shown + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")
