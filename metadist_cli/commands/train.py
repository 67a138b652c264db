"""train: rounds of local meta-learning on every node's own shard, or one node's part of the open round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from metadist_cli.commands.support.round_log import job_seconds, mend, note_job, round_metrics
from metadist_cli.commands.support.run_context import command
from metadist_cli.commands.support.training_run import Training, close, close_frozen, open_training
from metadist_cli.config import Config
from metadist_cli.core import files, tree
from metadist_cli.core.console import Console
from metadist_cli.core.errors import RETRY, USAGE, Problem
from metadist_cli.core.tree import Params
from metadist_cli.federated.aggregators import Updates
from metadist_cli.runtime import memory
from metadist_cli.runtime.torchrun import ranks
from metadist_cli.runtime.workers import Team, team
from metadist_cli.storage import checkpoints, run_directory
from metadist_cli.storage.run_directory import Run


def train(config: Config, run: Run, console: Console, close_last: bool = False, label: str = "train") -> dict[str, Any]:
    """All nodes, up to round train.rounds; the last round stays open for `aggregate`, unless close_last."""
    training = open_training(config, run, console)
    rounds = config.train.rounds
    with command(label, config, run, training.setting.experiment) as result:
        parent, sha256 = _parent(training)
        mend(run, training.first, training.up)
        done = run.last_closed()
        if done >= rounds:
            asked = f" (train.rounds is {rounds})" if done > rounds else ""
            console.say(f"{label}: already done, round {done} is closed{asked}")
            result |= {"round": done, "global": sha256, "next": "finetune"}
            return result
        began = time.monotonic()
        _tell_how(training, console, label)
        owns = _owns(training, done + 1, sorted(training.weights))
        with (
            team(training.setting, run, console, _fits(run)) as crew,
            console.progress(f"{label}: round", rounds, done) as progress,
        ):
            for number in range(done + 1, rounds + 1):
                chosen = training.chosen(number)
                clock = time.monotonic()
                inputs = checkpoints.frozen_inputs(run, number)
                if inputs is not None:  # `aggregate` has begun to close the round: with these, whatever came later
                    parent, sha256, _ = close_frozen(training, number, parent, sha256, inputs)
                    owns = _owns(training, number + 1, sorted(training.weights))
                    progress.advance()
                    continue
                ready = _ready(training, number, sha256)
                updates = _updates(training, crew, chosen, ready, parent, owns, number)
                last = number == rounds and not close_last
                if last:
                    _leave_open(training, number, sha256, _not_in(ready, updates))
                    progress.advance()
                    break
                if config.train.keep_nodes != "none":
                    updates = list(updates)
                    checkpoints.leave_open(run, number, sha256, _not_in(ready, updates))
                room, jobs = crew.leader.room, _jobs(run, number) if ready else 0.0
                parent, sha256, metrics = close(training, number, parent, sha256, updates, clock, room=room, jobs=jobs)
                progress.advance(1, **{k: f"{v:.3f}" for k, v in metrics.items()})
        result |= {
            "round": run.last_closed(),
            "open": rounds if run.last_closed() < rounds else None,
            "next": "aggregate" if run.last_closed() < rounds else "finetune",
            "global": sha256,
            "seconds": round(time.monotonic() - began, 3),
            "peak_memory_of_others": crew.peaks,
        }
    if run.last_closed() < rounds:
        console.say(f"{label}: round {rounds} is trained and open, it waits to be aggregated")
    return result


def train_nodes(
    config: Config, run: Run, console: Console, which: Callable[[list[int]], list[int]], number: int | None
) -> dict[str, Any]:
    """The part of some nodes in the open round, for another machine or a scheduler; repeating it is harmless.

    which: of all training nodes.
    """
    training = open_training(config, run, console)
    nodes = which(sorted(training.weights))
    strangers = [n for n in nodes if n not in training.weights]
    if strangers:
        last = max(training.weights)
        raise Problem(f"node {strangers[0]} does not train here", "--nodes", f"training nodes: 0 to {last}", USAGE)
    if run.last_closed() < 0:
        _parent(training)
    closed = run.last_closed()
    open_round = closed + 1
    number = open_round if number is None else number
    if number <= closed or number > config.train.rounds:
        why = "is already closed" if number <= closed else f"is beyond train.rounds={config.train.rounds}"
        console.say(f"train: round {number} {why}, nothing to do")
        return {"round": closed, "nodes": []}
    if number > open_round:
        hint = "run `metadist aggregate` for the round before, or wait and try again"
        raise Problem(f"round {number} needs the checkpoint of round {number - 1}", str(run.path), hint, RETRY)
    parent, _, sha256 = checkpoints.read_global(
        run, closed, training.first
    )  # by number: another may close this one meanwhile
    ready = _ready(training, number, sha256)
    wanted = set(nodes)
    chosen = [n for n in training.chosen(number) if n in wanted]
    todo = [n for n in chosen if n not in ready]
    if not todo:
        what = "already trained" if chosen else "not drawn in this round"
        console.say(f"train: round {number}, nodes {_named(nodes)}: {what}, nothing to do")
        return {"round": number, "nodes": []}
    with files.lock(run.round(number) / f".lock-{todo[0]:03d}"):
        owns = _owns(training, number, todo)
        with team(training.setting, run, console) as crew:
            updates = _updates(training, crew, todo, {}, parent, owns, number)
            names = _leave_open(training, number, sha256, updates)
    late = [name for name in checkpoints.late_files(run, number) if name in names]
    if late:
        console.warn(f"round {number} was closed meanwhile, so these are not used: {', '.join(late)}")
    console.say(f"train: round {number}, nodes {_named(todo)}: {', '.join(names)}")
    return {"round": number, "nodes": todo, "files": names, "late": late}


def _updates(
    training: Training,
    crew: Team,
    chosen: list[int],
    ready: dict[int, Updates],
    parent: Params,
    owns: dict[int, Params],
    number: int,
) -> Iterator[Updates]:
    """The chosen nodes' updates in order: those in node files as they are, the others trained now.

    A block that lacks a node is run whole, since its size decides the last bits; `owns` follows what nodes keep.
    """
    size = training.setting.block
    blocks = [chosen[i : i + size] for i in range(0, len(chosen), size)]
    todo = [node for nodes in blocks if any(n not in ready for n in nodes) for node in nodes]
    shared = {k: parent[k] for k in training.template}
    fresh = crew.updates(todo, number, (number - 1) * training.setting.experiment.steps, shared, owns)
    for nodes in blocks:
        if all(node in ready for node in nodes):
            yield from (ready[node] for node in nodes)
            continue
        left = len(nodes)
        while left:
            some = next(fresh)
            left -= len(some.nodes)
            places = {node: i for i, node in enumerate(some.nodes) if node not in ready}
            if some.own:
                owns |= {node: tree.index(some.own, i) for node, i in places.items()}
            if len(places) == len(some.nodes):
                yield some
            else:
                yield from (some.take([places[node]]) if node in places else ready[node] for node in some.nodes)
    if ready:
        owns |= _owns(training, number + 1, ready)


def _leave_open(training: Training, number: int, parent_sha256: str, updates: Iterable[Updates]) -> list[str]:
    """Node files for `aggregate`, and what they took. Returns their names."""
    began, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    names = checkpoints.leave_open(training.run, number, parent_sha256, updates)
    if names:
        seconds = round(time.monotonic() - clock, 3)
        told = {"files": names, "began": began, "seconds": seconds, "peak_memory": memory.peak()}
        note_job(training.run, number, told | {"execution": training.setting.execution})
    return names


def _not_in(ready: dict[int, Updates], updates: Iterable[Updates]) -> Iterator[Updates]:
    return (some for some in updates if some.nodes[0] not in ready)


def _ready(training: Training, number: int, parent_sha256: str) -> dict[int, Updates]:
    """The updates that node files of the open round hold already."""
    weights = {n: training.weights[n] for n in training.chosen(number)}
    found: dict[int, Updates] = {}
    for path in checkpoints.update_files(training.run, number):
        there = checkpoints.read_updates(path, number, parent_sha256, training.template, weights)
        for i, node in enumerate(there.nodes):
            found.setdefault(node, there.take([i]))
    return found


def _jobs(run: Run, number: int) -> float:
    """Seconds that jobs took to train the nodes whose files are there."""
    return job_seconds(run, number, {path.name for path in checkpoints.update_files(run, number)}) or 0.0


def _fits(run: Run) -> int | None:
    """How many nodes at a time memory had room for in the last round, where it was less than a block."""
    lines = round_metrics(run)
    return lines[-1].get("room") if lines else None


def _tell_how(training: Training, console: Console, label: str) -> None:
    """What was chosen, and whether all processes have something to do."""
    told, nodes = training.setting.execution, len(training.chosen(1))
    blocks, processes = -(-nodes // told["block"]), max(ranks(), training.setting.experiment.config.execution.workers)
    sizes = f"blocks of {told['block']} nodes" if blocks > 1 else "all nodes as one block"
    threads = f", {told['threads']} threads" if told["threads"] > 1 else ""
    crew = f", {processes} processes" if processes > 1 else ""
    tasks = f"{told['tasks_at_once']} tasks at once" if told["tasks_at_once"] > 1 else "task by task"
    console.say(f"{label}: on {told['device']}, {sizes}, {tasks}{threads}{crew}")
    if blocks < min(processes, nodes):  # a smaller block gives more of them something to do
        have, least = "one block" if blocks == 1 else f"{blocks} blocks", max(1, nodes // processes)
        console.warn(f"{processes} processes share {have} of nodes: try execution.block={least}")


def _owns(training: Training, before: int, nodes: Iterable[int]) -> dict[int, Params]:
    return checkpoints.read_owns(training.run, before, nodes, training.first_own, training.chosen)


def _parent(training: Training) -> tuple[Params, str]:
    """(parameters, SHA-256) of the newest closed round; round 0 is made where it is missing."""
    run = training.run
    closed = run.last_closed()
    if closed < 0:
        run_directory.save_config(training.setting.experiment.config, run)  # what all later calls are compared with
        return training.first, checkpoints.write_global(run, 0, training.first, {})
    params, _, sha256 = checkpoints.read_global(run, closed, training.first)
    return params, sha256


def _named(nodes: list[int]) -> str:
    shown = ", ".join(map(str, nodes[:8]))
    return shown + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")
