"""--dry-run: the whole experiment in figures, by the same code as the real thing up to the first write."""

from __future__ import annotations

from typing import Any

from metadist_cli.commands.partition import check_new_tasks, complete, show
from metadist_cli.commands.support.new_tasks import new_tasks
from metadist_cli.config import Config
from metadist_cli.core import tree
from metadist_cli.core.console import Console
from metadist_cli.experiment import (
    Experiment,
    assemble_all,
    deal,
    initial_state,
    load_data,
    spec_of,
    task_size,
    training_nodes,
)
from metadist_cli.federated.rounds import sample_nodes, shared_part
from metadist_cli.partition.heterogeneity import label_skew, of_manifest, of_shards, per_node, summary
from metadist_cli.partition.shards import account
from metadist_cli.runtime.execution import resolve
from metadist_cli.storage import run_directory, shard_files
from metadist_cli.storage.run_directory import Run


def plan(config: Config, run: Run, console: Console) -> dict[str, Any]:
    """Shapes, sizes and bytes of every stage; reads the data (or the shards' manifest) and writes nothing."""
    run_directory.agree(config, run)
    if manifest := complete(run):
        spec = shard_files.spec_in(manifest)
        nodes = [n["node"] for n in manifest["nodes"] if n["role"] == "train"]
        kept = [n for n in manifest["nodes"] if n["role"] == config.finetune.held_out]
        held, home = len(kept), None
        first = shard_files.read_shards(run, manifest, [kept[0]["node"]]) if kept else []
        if kept and "home" in kept[0]:
            home = shard_files.read_shards(run, manifest, [kept[0]["home"]])[0]
        holdings, counts = of_manifest(manifest), manifest["rows"]
        console.say(f"partition: done, {len(manifest['nodes'])} shards in {run.shards}")
    else:
        data = load_data(config)
        shards = deal(config, data)
        spec = spec_of(data, shards)
        check_new_tasks(config, spec, shards)
        holdings, counts = of_shards(shards, data), account(data, shards)
        nodes = [s.node for s in shards if s.role == "train"]
        first = [s for s in shards if s.role == config.finetune.held_out]
        held, home = len(first), None
        if first and first[0].home is not None:
            home = shards[first[0].home]
    skew = label_skew(holdings)
    show(holdings, skew, counts, spec, console)
    figures = {name: _figures(experiment, nodes) for name, experiment in assemble_all(config, spec).items()}
    titles = ["learner", "model", "weights", "rounds", "a step at a node", "tasks in all", "up, and down", "at once"]
    rows = [list(row) for row in zip(titles, *(_cells(f) for f in figures.values()), strict=True)]
    console.table("training", ["", *figures], rows)
    shapes = "but nothing is held out to draw them from"
    if first:
        drawn = new_tasks(config, spec, first[0], home, 1)[1]
        sizes = f"{drawn.support.shape[-1]} support and {drawn.query.shape[-1]} query rows"
        shapes = f"{sizes}, from {held} held-out shards"
    whole = home is not None and config.finetune.task.support is None  # then a node's rows are one task
    console.say(f"finetune: {held if whole else config.finetune.episodes} new tasks, {shapes}")
    closed = run.last_closed()
    console.say(f"{run.path}: {'nothing yet' if closed < 0 else f'round {closed} is closed'}; nothing was written")
    return {
        "run": str(run.path),
        "closed": closed,
        "nodes": len(nodes),
        "runs": figures,
        "new_tasks": shapes,
        "skew": summary(holdings, skew),
        "per_node": per_node(holdings, skew),
    }


def _figures(experiment: Experiment, nodes: list[int]) -> dict[str, Any]:
    config, (tasks, support, query) = experiment.config, experiment.rows
    first, own = initial_state(experiment)
    trained = list(training_nodes(config, dict.fromkeys(nodes, 0)))
    chosen = len(sample_nodes(config.seed, 1, trained, config.train.nodes_per_round))
    execution = resolve(experiment)
    return {
        "learner": experiment.text,
        "model": experiment.model.text,
        "parameters": tree.size(tree.part(first, "meta")),
        "rounds": config.train.rounds,
        "local_steps": experiment.steps,
        "nodes_per_round": chosen,
        "tasks_per_step": tasks,
        "support_rows": support,
        "query_rows": query,
        "tasks": config.train.rounds * experiment.steps * chosen * tasks,
        "bytes_down": _bytes(shared_part(first)),
        "bytes_up": _bytes(experiment.server.payload(first)),
        "checkpoint_bytes": _bytes(first),
        "node_state_bytes": _bytes(own),
        "needs": task_size(config)._asdict(),
        "execution": execution,
    }


def _cells(f: dict[str, Any]) -> list[object]:
    return [
        f["learner"],
        f["model"],
        f"{f['parameters']:,}",
        f"{f['rounds']} of {f['nodes_per_round']} nodes, {f['local_steps']} steps",
        f"{f['tasks_per_step']} x ({f['support_rows']} + {f['query_rows']}) rows",
        f"{f['tasks']:,}",
        f"{f['bytes_up'] / 1e3:,.1f} and {f['bytes_down'] / 1e3:,.1f} kB a node and round",
        f"{f['execution']['block']} nodes x {f['execution']['tasks_at_once']} tasks",
    ]


def _bytes(params: tree.Params) -> int:
    return sum(v.numel() * v.element_size() for v in params.values())
