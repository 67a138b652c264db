"""The new tasks of an experiment's evaluation: from held-out classes, held-out nodes, or rows that nodes held out."""

from __future__ import annotations

from functools import partial

import torch

from metadist_cli.config import Config
from metadist_cli.config.schema import Episodic
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.standardise import by_support
from metadist_cli.partition.shards import Shard
from metadist_cli.partition.spec import Spec
from metadist_cli.tasks import episodes
from metadist_cli.tasks.episodes import Pool, Sampler, TaskIndices


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
        return rows, _fresh(config, spec, len(shard.label), count)(rows, "new")
    rows, support = spec.pool([home, shard], device), config.finetune.task.support
    if support is None:
        return rows, episodes.held_out_rows(config.seed, 1, None)(rows, "new")
    few = episodes.counts(len(home.label), support, "rest")[0]
    return rows, episodes.held_out_rows(config.seed, count, few)(rows, "new")


def _fresh(config: Config, spec: Spec, rows: int, count: int) -> Sampler:
    task, other, seed = config.task, config.finetune.task, config.seed
    if isinstance(task, Episodic):
        way, shot = other.way or task.way, other.shot or task.shot
        query = other.query if isinstance(other.query, int) else task.query
        sampler = episodes.episodic(seed, 1, count, way, shot, query)
        return sampler if spec.kind == "classification" else episodes.keep_labels(sampler)
    support, query = episodes.counts(rows, other.support or task.support, other.query or task.query)
    if support < 1 or query < 1 or support + query > rows:
        raise Problem(
            f"a new task takes {support} support and {query} query rows, a held-out node has {rows}",
            "finetune.task" if other.support or other.query else "task",
            "use fewer, or query: rest",
            CONFIG,
        )
    return episodes.local(seed, 1, count, support, query)
