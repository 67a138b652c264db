"""aggregate: the node files of the open round become the next global checkpoint."""

from __future__ import annotations

from typing import Any

from metadist_cli.commands.support.round_log import collect_node_metrics
from metadist_cli.commands.support.run_context import command
from metadist_cli.commands.support.training_run import Training, close_frozen, open_training, with_validation
from metadist_cli.commands.support.validation import stopped, why_stopped
from metadist_cli.config import Config
from metadist_cli.core import files
from metadist_cli.core.console import Console
from metadist_cli.core.errors import RETRY, Problem
from metadist_cli.storage import checkpoints, node_files
from metadist_cli.storage.checkpoints import GlobalModel
from metadist_cli.storage.run_directory import Run, frozen_inputs


def aggregate(
    config: Config,
    run: Run,
    console: Console,
    min_nodes: int | None = None,
    wanted: int | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Close the open round with every sampled node, or at least min_nodes; the others are recorded as dropped.

    What goes in is frozen in inputs.json before the sum, so that neither a crash nor a late node changes the result.

    Args:
        config: the experiment.
        run: its run directory.
        console: where to report.
        min_nodes: close the round with at least this many nodes; None: with all.
        wanted: the round to close, for jobs that may be restarted: a closed round is left unchanged, and one that has
            not begun is waited for. None: the open one, if it has begun.
        again: the caller will try again, so files are not read before their names cover all nodes.

    Returns:
        The round, whether it was closed now, its checkpoint's SHA-256, the nodes that were dropped, and the metrics.

    Raises:
        Problem: RETRY, naming the nodes that are missing.
    """
    training = open_training(config, run, console)
    closed = run.last_closed()
    late = _warn_late(run, closed, console)
    number = closed + 1
    if wanted is not None and wanted <= closed:
        console.say(f"aggregate: round {wanted} is already closed, nothing to do")
        return {"round": closed, "closed": False}
    if wanted is not None and wanted > config.train.rounds and not node_files.update_files(run, wanted):
        console.say(f"aggregate: round {wanted} is beyond train.rounds={config.train.rounds}, nothing to do")
        return {"round": max(closed, 0), "closed": False}
    if wanted is None and (closed < 0 or not node_files.update_files(run, number)):
        console.say(f"aggregate: no round is open; round {max(closed, 0)} is closed")
        return {"round": max(closed, 0), "closed": False}
    model = checkpoints.read_global(run, closed, training.first) if closed >= 0 else None
    if model is not None and stopped(config, model):
        console.say(f"aggregate: nothing to do, {why_stopped(model)}")
        return {"round": closed, "closed": False}
    asked = number if wanted is None else wanted
    if model is None or asked > number:
        hint = "wait until the nodes have begun" if closed < 0 else "close the round before"
        raise Problem(f"round {asked} needs the checkpoint of round {asked - 1}", str(run.path), hint, RETRY)
    training = with_validation(training)
    with command("aggregate", config, run, training.setting.experiment) as result:
        inputs = _freeze(training, model, min_nodes, console, again)
        model = close_frozen(training, model, inputs)
        if config.train.node_metrics:
            collect_node_metrics(run)
        result |= {"round": number, "closed": True, "global": model.sha256}
        result |= {"dropped": inputs["dropped"], "metrics": model.header["metrics"]}
        result |= {"late": late} if late else {}
        early = number < config.train.rounds and stopped(config, model)
        result["next"] = "finetune" if number >= config.train.rounds or early else "train"
    console.say(f"aggregate: round {number} is closed, {model.header['nodes']} nodes, sha256 {model.sha256[:12]}")
    if early:
        console.say(f"aggregate: {why_stopped(model)}")
    return result


def _freeze(
    training: Training, model: GlobalModel, min_nodes: int | None, console: Console, again: bool
) -> dict[str, Any]:
    """inputs.json of the round: {files: {name: sha256}, dropped: [node], rejected: {name: why}}."""
    number = model.round + 1
    frozen = frozen_inputs(training.run, number)
    if frozen is not None:
        return frozen
    weights = {n: training.weights[n] for n in training.sample(number)}
    if again and (named := node_files.named_nodes(training.run, number)) is not None:
        _enough(training, number, named, None)
    there: set[int] = set()
    accepted: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for file in node_files.update_files(training.run, number):
        try:
            nodes = node_files.read_updates(file, number, model.sha256, training.payload, weights).nodes
        except Problem as problem:
            rejected[file.name] = problem.message
            console.warn(f"{file.name} is not used: {problem.message}")
            continue
        accepted[file.name] = node_files.file_sha256(file)
        there.update(nodes)
    missing = _enough(training, number, there, min_nodes)
    inputs = {"files": accepted, "dropped": missing, "rejected": rejected}
    files.publish(training.run.round(number) / "inputs.json", files.to_json(inputs))
    return inputs


def _enough(training: Training, number: int, there: set[int], min_nodes: int | None) -> list[int]:
    """The nodes that are missing. Raises Problem(RETRY) if too many are."""
    chosen = training.sample(number)
    missing = [n for n in chosen if n not in there]
    have = len(chosen) - len(missing)
    if have < (len(chosen) if min_nodes is None else min(min_nodes, len(chosen))) or not have:
        named = ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else "")
        raise Problem(
            f"round {number} lacks {len(missing)} of {len(chosen)} nodes: {named}",
            str(training.run.round(number)),
            f"train them (metadist train {training.run.path} --nodes {','.join(map(str, missing[:20]))}), wait"
            + (f", or allow it with --min-nodes {have}" if have else ""),
            RETRY,
        )
    return missing


def _warn_late(run: Run, closed: int, console: Console) -> list[str]:
    """Warn of node files that came after the newest round was closed, which are never used. Returns their names."""
    late = node_files.late_files(run, closed) if closed > 0 else []
    if late:
        console.warn(f"too late for round {closed}, not used: {', '.join(late)}")
    return late
