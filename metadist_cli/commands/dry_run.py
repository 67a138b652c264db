"""--dry-run: sizes of the whole experiment, by the same code as the real run up to the first write."""

from __future__ import annotations

from typing import Any, NamedTuple

from metadist_cli.commands.partition import (
    check_new_tasks,
    complete,
    show,
    warn_of_left_out,
    warn_of_new_classes,
    warn_of_small_classes,
)
from metadist_cli.commands.support.feature_table import show_features
from metadist_cli.commands.support.new_tasks import new_tasks
from metadist_cli.commands.support.node_selection import warn_of_few_nodes
from metadist_cli.config import Config, notices
from metadist_cli.core import tree
from metadist_cli.core.console import Console
from metadist_cli.data.types import Feature
from metadist_cli.experiment import (
    Experiment,
    assemble_all,
    deal,
    initial_state,
    load_data,
    task_size,
    training_nodes,
)
from metadist_cli.federated.rounds import sample_nodes, shared_part
from metadist_cli.partition.heterogeneity import Composition, label_skew, of_manifest, of_shards, per_node, summary
from metadist_cli.partition.shards import Shard
from metadist_cli.partition.spec import Spec, spec_of
from metadist_cli.partition.too_small import LeftOut
from metadist_cli.runtime.execution import resolve
from metadist_cli.storage import run_directory, shard_files
from metadist_cli.storage.run_directory import Run


class _Shards(NamedTuple):
    """What the shards of a run are, or will be.

    spec: of the data. composition: who has what. rows: counts, as `account` gives them. nodes: that train. held_out:
    number of shards for new tasks; first: one of them, with its training node's shard as home if rows are held out.
    """

    spec: Spec
    composition: Composition
    rows: dict[str, int]
    nodes: list[int]
    held_out: int
    first: Shard | None
    home: Shard | None
    left_out: list[LeftOut]
    notes: tuple[str, ...]
    features: tuple[Feature, ...]


def plan(config: Config, run: Run, console: Console) -> dict[str, Any]:
    """Report shapes, sizes and bytes of every step. Reads the data (or the shards' manifest) and writes nothing.

    Args:
        config: the experiment.
        run: its run directory, which need not exist.
        console: where to report.

    Returns:
        The same figures for programs: `--json` prints them.
    """
    run_directory.agree(config, run)
    manifest = complete(run)
    shards = _from_data(config) if manifest is None else _from_run(config, run, manifest)
    if manifest is not None:
        console.say(f"partition: done, {len(manifest['nodes'])} shards in {run.shards}")
    skew = label_skew(shards.composition)
    for note in shards.notes:
        console.say(note)
    show_features(shards.features, console)
    show(shards.composition, skew, shards.rows, shards.spec, console)
    models = assemble_all(config, shards.spec)
    warn_of_left_out(shards.left_out, console)
    warn_of_small_classes(config, shards.composition, console)
    warn_of_new_classes(config, shards.composition, console)
    warn_of_few_nodes(config, len(shards.nodes), console)
    figures = {name: _figures(experiment, shards.nodes) for name, experiment in models.items()}
    titles = ["learner", "model", "weights", "rounds", "a step at a node", "tasks in all", "up, and down", "at once"]
    rows = [list(row) for row in zip(titles, *(_cells(f) for f in figures.values()), strict=True)]
    console.table("training", ["", *figures], rows)
    shapes = _new_task_shapes(config, shards)
    one_each = shards.home is not None and config.finetune.task.support is None  # a node's rows are one task
    tasks = _count(shards.held_out if one_each else config.finetune.episodes, "new task")
    console.say(f"finetune: {tasks}, {shapes}")
    for notice in notices(config):
        console.warn(notice)
    closed = run.last_closed()
    console.say(f"{run.path}: {'no run yet' if closed < 0 else f'round {closed} is closed'}; nothing was written")
    return {
        "run": str(run.path),
        "closed": closed,
        "nodes": len(shards.nodes),
        "runs": figures,
        "new_tasks": shapes,
        "skew": summary(shards.composition, skew),
        "per_node": per_node(shards.composition, skew),
    }


def _from_run(config: Config, run: Run, manifest: dict[str, Any]) -> _Shards:
    """The shards that a run has already."""
    nodes = [n["node"] for n in manifest["nodes"] if n["role"] == "train"]
    held_out = [n for n in manifest["nodes"] if n["role"] == config.finetune.held_out]
    first = home = None
    if held_out:
        [first] = shard_files.read_shards(run, manifest, [held_out[0]["node"]])
        if "home" in held_out[0]:
            [home] = shard_files.read_shards(run, manifest, [held_out[0]["home"]])
    spec, composition = shard_files.spec_in(manifest), of_manifest(manifest)
    features, left_out = shard_files.features_in(manifest), shard_files.left_out_in(manifest)
    return _Shards(spec, composition, manifest["rows"], nodes, len(held_out), first, home, left_out, (), features)


def _from_data(config: Config) -> _Shards:
    """The shards that `partition` would write."""
    data = load_data(config)
    made = deal(config, data)
    shards = made.shards
    spec = spec_of(data, shards, config.partition.targets)
    check_new_tasks(config, spec, shards)
    nodes = [s.node for s in shards if s.role == "train"]
    held_out = [s for s in shards if s.role == config.finetune.held_out]
    first = held_out[0] if held_out else None
    home = None if first is None or first.home is None else shards[first.home]
    composition, rows = of_shards(shards, data), made.account(data)
    return _Shards(spec, composition, rows, nodes, len(held_out), first, home, made.left_out, data.notes, data.features)


def _new_task_shapes(config: Config, shards: _Shards) -> str:
    if shards.first is None:
        return "but nothing is held out to draw them from"
    drawn = new_tasks(config, shards.spec, shards.first, shards.home, 1)[1]
    support, query = drawn.support.shape[-1], drawn.query.shape[-1]
    return f"{support} support and {query} query rows, from {_count(shards.held_out, 'held-out shard')}"


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
        f"{f['rounds']} of {_count(f['nodes_per_round'], 'node')}, {_count(f['local_steps'], 'step')}",
        f"{f['tasks_per_step']} x ({f['support_rows']} + {f['query_rows']}) rows",
        f"{f['tasks']:,}",
        f"{_size(f['bytes_up'])} and {_size(f['bytes_down'])} a node and round",
        f"{_count(f['execution']['block'], 'node')} x {_count(f['execution']['tasks_at_once'], 'task')}",
    ]


def _size(number: int) -> str:
    """Bytes in the unit that suits them."""
    power = 3 if number >= 1e9 else 2 if number >= 1e6 else 1
    return f"{number / 1e3**power:,.1f} {' kMG'[power]}B"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _bytes(params: tree.Params) -> int:
    return sum(v.numel() * v.element_size() for v in params.values())
