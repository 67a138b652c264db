"""aggregate: the node files of the open round become the next global checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metadist_cli import files, store
from metadist_cli.aggregators import NodeUpdate
from metadist_cli.config import Config
from metadist_cli.console import Console
from metadist_cli.errors import RETRY, Problem
from metadist_cli.stages.setting import command
from metadist_cli.stages.train import Training, close, open_training
from metadist_cli.store import Run


def aggregate(config: Config, run: Run, console: Console, min_nodes: int | None = None) -> dict[str, Any]:
    """Close the open round. Wants every chosen node, or at least min_nodes; others are recorded as dropped.

    What goes in is frozen in inputs.json before the sum, so that neither a crash nor a late node changes the result.
    Raises Problem(RETRY) naming the nodes that are missing.
    """
    training = open_training(config, run, console)
    closed = store.last_closed(run)
    _tell_late(run, closed, console)
    number = closed + 1
    if closed < 0 or not store.update_files(run, number):
        console.say(f"aggregate: nothing is open, round {max(closed, 0)} is closed")
        return {"round": max(closed, 0), "closed": False}
    with command("aggregate", config, run, training.setting.experiment) as result:
        clock = time.monotonic()
        parent, _, sha256 = store.read_global(run, closed, training.first)
        inputs = _freeze(training, number, sha256, min_nodes, console)
        updates = _frozen(training, number, sha256, inputs)
        _, sha256, metrics = close(training, number, parent, sha256, updates, clock, inputs["dropped"])
        result |= {"round": number, "closed": True, "global": sha256, "dropped": inputs["dropped"], "metrics": metrics}
        result["next"] = "finetune" if number >= config.train.rounds else "train"
    used = len(training.chosen(number)) - len(inputs["dropped"])
    console.say(f"aggregate: round {number} is closed, {used} nodes, sha256 {sha256[:12]}")
    return result


def _freeze(training: Training, number: int, parent: str, min_nodes: int | None, console: Console) -> dict[str, Any]:
    """inputs.json of the round: {files: {name: sha256}, dropped: [node], rejected: {name: why}}."""
    path = training.run.round(number) / "inputs.json"
    if path.exists():
        return store.read_json(path, "frozen inputs")
    chosen = training.chosen(number)
    weights = {n: training.weights[n] for n in chosen}
    there: set[int] = set()
    accepted: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for file in store.update_files(training.run, number):
        try:
            nodes = {u.node for u in store.read_updates(file, number, parent, training.template, weights)}
        except Problem as problem:
            rejected[file.name] = problem.message
            console.warn(f"{file.name} is not used: {problem.message}")
            continue
        accepted[file.name] = _sha256(file)
        there |= nodes
    missing = [n for n in chosen if n not in there]
    if len(there) < (len(chosen) if min_nodes is None else min(min_nodes, len(chosen))) or not there:
        named = ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else "")
        raise Problem(
            f"round {number} lacks {len(missing)} of {len(chosen)} nodes: {named}",
            str(training.run.round(number)),
            f"train them (metadist train ... --nodes {missing[0]}), wait"
            + (f", or allow it with --min-nodes {len(there)}" if there else ""),
            RETRY,
        )
    inputs = {"files": accepted, "dropped": missing, "rejected": rejected}
    files.publish(path, files.to_json(inputs))
    return inputs


def _frozen(training: Training, number: int, parent: str, inputs: dict[str, Any]) -> Iterator[NodeUpdate]:
    """The updates of the frozen files in the order of nodes; a node that two files hold counts once, the first."""
    weights = {n: training.weights[n] for n in training.chosen(number)}
    found: dict[int, NodeUpdate] = {}
    for name, told in inputs["files"].items():
        path = training.run.round(number) / name
        if not path.exists() or _sha256(path) != told:
            raise Problem(
                "this node file is not the one that the round was to be closed with",
                str(path),
                f"put the file back, or delete {path.with_name('inputs.json')} to take stock anew",
            )
        for update in store.read_updates(path, number, parent, training.template, weights):
            found.setdefault(update.node, update)
    yield from (found[node] for node in sorted(found))


def _sha256(path: Path) -> str:
    return files.sha256(files.read(path, 1 << 40, "node file"))


def _tell_late(run: Run, closed: int, console: Console) -> None:
    """Node files that came after their round was closed are named, never used."""
    path = run.round(closed) / "inputs.json"
    if closed < 1 or not path.exists():
        return
    used = store.read_json(path, "frozen inputs")["files"]
    late = [file.name for file in store.update_files(run, closed) if file.name not in used]
    if late:
        console.warn(f"too late for round {closed}, not used: {', '.join(late)}")
