"""A task of the user's own, as if it came from a held-out node."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from metadist_cli.commands.support.finetune_outputs import Tasks
from metadist_cli.config import Config
from metadist_cli.config.schema import Episodic
from metadist_cli.core import seeds
from metadist_cli.data.standardise import moments
from metadist_cli.data.user_task.task import read_task
from metadist_cli.data.user_task.types import TaskFormat
from metadist_cli.partition.shards import Shard
from metadist_cli.runtime.execution import Setting
from metadist_cli.storage.shard_files import preprocessing_in
from metadist_cli.tasks.episodes import TaskIndices


def user_task(config: Config, setting: Setting, path: Path) -> Tasks:
    """One episode of the rows in a folder or file. Raises Problem where they do not fit the model."""
    spec = setting.experiment.spec
    wanted = _format(config, setting)
    task = read_task(path, wanted)
    by = wanted.rows.settled(moments([task.support_x]) if wanted.rows.scale == "node" else None)
    support, query = len(task.support_x), len(task.query_x)
    blank = np.zeros((query, *task.support_y.shape[1:]), dtype=task.support_y.dtype)
    y = np.concatenate([task.support_y, blank if task.query_y is None else task.query_y])
    target = y if spec.kind == "regression" else None
    label = np.zeros(len(y), dtype=np.int64) if spec.kind == "regression" else y
    x = by.scaled(np.concatenate([task.support_x, task.query_x]))
    shard = Shard(len(setting.manifest["nodes"]), task_folder(path), "test", x, label, target, np.arange(len(y)))
    places = np.arange(support + query)[None, None, None]
    seed = np.array([[[seeds.key(config.seed, "own task")]]])
    plan = TaskIndices(places[..., :support], places[..., support:], np.ones((1, 1), dtype=bool), seed)
    rows = ["support"] * support + list(task.query_names)
    return Tasks(shard, spec.pool([shard], setting.device), plan, by, task.classes, rows, task.query_y is not None)


def _format(config: Config, setting: Setting) -> TaskFormat:
    """What the model, its data set and the config ask of a task."""
    experiment, episodic = setting.experiment, isinstance(config.task, Episodic)
    brings = episodic and experiment.spec.kind == "classification"
    outputs = None if experiment.algorithm.learner.solves and brings else experiment.model.outputs
    shot = (config.finetune.task.shot or config.task.shot) if isinstance(config.task, Episodic) else 1
    return TaskFormat(preprocessing_in(setting.manifest), outputs, brings, shot)


def task_folder(path: Path) -> str:
    """The folder of its results: "task-" and the file's name in lower case, other characters replaced by a dash."""
    return "task-" + re.sub(r"[^a-z0-9]+", "-", path.resolve().stem.lower()).strip("-")[:58]
