"""The new tasks of an experiment's evaluation: from held-out classes, held-out nodes, or rows that nodes held out."""

from __future__ import annotations

from functools import partial

import torch

from metadist_cli.commands.support.finetune_outputs import Tasks, output_names
from metadist_cli.config import Config
from metadist_cli.config.schema import Episodic, Local
from metadist_cli.config.schema_running import OtherTask
from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import listed
from metadist_cli.data.standardise import by_support
from metadist_cli.partition.shards import Shard
from metadist_cli.partition.spec import Spec
from metadist_cli.runtime.execution import Setting
from metadist_cli.storage import shard_files
from metadist_cli.storage.run_directory import Run
from metadist_cli.tasks import episodes
from metadist_cli.tasks.episodes import Pool, Sampler, TaskIndices


def drawn_tasks(config: Config, run: Run, setting: Setting, role: str, episodes: int) -> list[Tasks]:
    """New tasks, `episodes` in total, spread evenly over the shards of a role. Raises Problem if it has no shards."""
    spec, preprocessing = setting.experiment.spec, shard_files.preprocessing_in(setting.manifest)
    nodes = [n["node"] for n in setting.manifest["nodes"] if n["role"] == role][:episodes]
    if not nodes:
        hint = f"set task.new.{role}, and choose another --name"
        raise Problem("this run holds nothing out for these tasks", f"task.new.{role}", hint, DATA)
    shards = shard_files.read_shards(run, setting.manifest, nodes)
    homes = {
        s.node: s
        for s in shard_files.read_shards(run, setting.manifest, [s.home for s in shards if s.home is not None])
    }
    tasks = []
    for i, shard in enumerate(shards):
        count = episodes // len(shards) + (i < episodes % len(shards))
        home = None if shard.home is None else homes[shard.home]
        rows, plan = new_tasks(config, spec, shard, home, count, setting.device)
        names = output_names(config, spec.classes, shard, plan)
        by = preprocessing if rows.by_support else preprocessing.settled(shard.scale)
        numbers = [*([] if home is None else home.row.tolist()), *shard.row.tolist()]
        tasks.append(Tasks(shard, rows, plan, by.changed(angle=shard.angle), names, numbers))
    return tasks


def new_tasks(
    config: Config, spec: Spec, shard: Shard, home: Shard | None, count: int, device: torch.device | str = "cpu"
) -> tuple[Pool, TaskIndices]:
    """`count` new tasks of a held-out shard, with the sizes of finetune.task.

    home: the training rows of the node that kept the shard back; they are the support, all of them (in one task, since
    all would be alike) or as many as finetune.task.support says. Raises Problem if the shard has too few rows.
    """
    if home is None:
        rows = spec.pool([shard], device)
        if config.partition.scale == "support":
            rows = rows._replace(by_support=partial(by_support, clip=config.partition.clip))
        return rows, _fresh(config, spec, shard, count)(rows, "new")
    rows, support = spec.pool([home, shard], device), config.finetune.task.support
    if support is None:
        return rows, episodes.held_out_rows(config.seed, 1, None)(rows, "new")
    few = episodes.counts(len(home.label), support, "rest")[0]
    return rows, episodes.held_out_rows(config.seed, count, few)(rows, "new")


def _fresh(config: Config, spec: Spec, shard: Shard, count: int) -> Sampler:
    task, other, seed = config.task, config.finetune.task, config.seed
    if isinstance(task, Episodic):
        way, (shot, query) = other.way or task.way, episode_rows(task, other)
        sampler = episodes.episodic(seed, 1, count, way, shot, query)
        return sampler if spec.kind == "classification" else episodes.keep_labels(sampler)
    rows = len(shard.label)
    check_rows(task, other, {shard.name: rows})
    return episodes.local(seed, 1, count, *_rows(task, other, rows))


def episode_rows(task: Episodic, other: OtherTask) -> tuple[int, int]:
    """Support and query rows of each class in a new episode. other: what differs from training."""
    return other.shot or task.shot, other.query if isinstance(other.query, int) else task.query


def _rows(task: Local, other: OtherTask, rows: int) -> tuple[int, int]:
    """Support and query rows of a new local task on a node with `rows` rows."""
    return episodes.counts(rows, other.support or task.support, other.query or task.query)


def check_rows(task: Local, other: OtherTask, rows: dict[str, int]) -> None:
    """Raises Problem, with their names, where held-out nodes have too few rows for a new local task.

    Args:
        task: as in training.
        other: what differs from it.
        rows: of each held-out node, by its name.
    """
    sizes = {name: _rows(task, other, count) for name, count in rows.items()}
    poor = [name for name, (support, query) in sizes.items() if query < 1 or support + query > rows[name]]
    if not poor:
        return
    least = min(poor, key=lambda name: rows[name])
    (support, query), have = sizes[least], rows[least]
    rest = (other.query or task.query) == "rest"
    takes = f"{support} support rows and " + ("at least 1 query row" if rest else f"{query} query rows")
    named = listed([f"{name} has {rows[name]}" for name in poor])
    where = "finetune.task" if other.support or other.query else "task"
    fewer = f"let support and query take at most {have} rows together"
    hint = f"set {where}.support to at most {have - 1}" if rest else fewer
    hint += f", or set {where}.query: rest" if not rest and support < have else ""
    message = f"{len(poor)} of {len(rows)} held-out nodes have too few rows for a new task of {takes}: {named}"
    raise Problem(message, where, hint, CONFIG)
