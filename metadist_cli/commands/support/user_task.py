"""A task of the user's own, treated like one of a held-out node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from metadist_cli.commands.support.finetune_outputs import Tasks
from metadist_cli.config import Config
from metadist_cli.config.schema import Episodic
from metadist_cli.core import seeds
from metadist_cli.data.standardise import Moments, moments, standardise
from metadist_cli.data.user_task.task import read_task
from metadist_cli.partition.shards import Shard, pool
from metadist_cli.runtime.execution import Setting
from metadist_cli.tasks.episodes import TaskIndices


def own_task(config: Config, setting: Setting, path: Path) -> Tasks:
    """One episode of the rows in a folder or file. Raises Problem if they do not fit the model."""
    spec, task = setting.experiment.spec, config.task
    episodic = isinstance(task, Episodic)
    shot = (config.finetune.task.shot or task.shot) if episodic else 1
    invert = bool(getattr(config.data, "invert", False))
    names = None if episodic else spec.classes
    experiment = setting.experiment
    own = read_task(
        path,
        spec.kind,
        spec.shape,
        spec.divide,
        names,
        None if experiment.algorithm.learner.solves and names is None else experiment.model.outputs,
        shot,
        invert,
    )
    support, query = len(own.support_x), len(own.query_x)
    blank = np.zeros((query, *own.support_y.shape[1:]), dtype=own.support_y.dtype)
    y = np.concatenate([own.support_y, blank if own.query_y is None else own.query_y])
    target = y if spec.kind == "regression" else None
    label = np.zeros(len(y), dtype=np.int64) if spec.kind == "regression" else y
    x = _scaled(config, setting.manifest, own.support_x, np.concatenate([own.support_x, own.query_x]))
    shard = Shard(len(setting.manifest["nodes"]), own_name(path), "test", x, label, target, np.arange(len(y)))
    places = np.arange(support + query)[None, None, None]
    seed = np.array([[[seeds.key(config.seed, "own task")]]])
    plan = TaskIndices(places[..., :support], places[..., support:], np.ones((1, 1), dtype=bool), seed)
    rows = ["support"] * support + list(own.query_names)
    return Tasks(shard, pool([shard], spec.divide, setting.device), plan, own.classes, rows, own.query_y is not None)


def _scaled(config: Config, manifest: dict[str, Any], support: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Rows scaled as at the run's nodes: the task is a node, and its support the node's training rows."""
    if config.partition.scale == "none":
        return x
    if config.partition.scale == "node":
        return standardise(x, moments([support]))
    told = manifest["scale"]
    return standardise(x, Moments(np.array(told["mean"]), np.array(told["deviation"])))


def own_name(path: Path) -> str:
    """The folder of its results: "task-" and the file's name in small letters, anything unusual as a dash."""
    return "task-" + re.sub(r"[^a-z0-9]+", "-", path.resolve().stem.lower()).strip("-")[:58]
