"""The workloads of meta_steps.py: MAML on tasks of fixed random rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metadist_cli.config import Config
from metadist_cli.experiment import Experiment, assemble
from metadist_cli.partition.spec import Spec
from metadist_cli.tasks.episodes import Pool, TaskIndices
from metadist_cli.tasks.types import Episode

BATCHES = 2  # different steps, in turn


class Workload(NamedTuple):
    """Steps of MAML. support, query: rows of a task; tasks: of a step; steps, lr: of the inner loop.

    nodes, local_steps: with more than one node a step is a whole round of them, each with parameters of its own.
    affine: what conv4's normalisation learns.
    """

    model: str
    support: int
    query: int
    tasks: int
    steps: int
    lr: float
    first_order: bool = False
    nodes: int = 1
    local_steps: int = 1
    affine: str = "both"

    @property
    def shape(self) -> tuple[int, ...]:
        return (64,) if self.model == "mlp" else (28, 28)

    @property
    def way(self) -> int:
        return 10 if self.model == "mlp" else 5

    @property
    def all_tasks(self) -> int:
        return self.tasks * self.nodes * self.local_steps


WORKLOADS = {
    "mlp1": Workload("mlp", 32, 32, 16, 1, 0.1),
    "mlp5": Workload("mlp", 32, 32, 16, 5, 0.1),
    "omni": Workload("conv4", 5, 5, 32, 1, 0.4),
    "omnifo": Workload("conv4", 5, 5, 32, 1, 0.4, first_order=True),
    "omni5s": Workload("conv4", 25, 25, 32, 1, 0.4),
    "omniq15": Workload("conv4", 5, 75, 32, 1, 0.4),
    "nodes": Workload("mlp", 32, 32, 4, 1, 0.1, nodes=100, local_steps=20),
}


def half(w: Workload) -> Workload:
    """One of two processes' part: half of the nodes, or of the one node's tasks."""
    return w._replace(nodes=w.nodes // 2) if w.nodes > 1 else w._replace(tasks=w.tasks // 2)


def data(w: Workload) -> tuple[Tensor, Tensor]:
    """x (nodes, batches, tasks, support + query, ...) and y: noise around a centre for each class of a task."""
    draw = np.random.default_rng(0)
    labels = np.concatenate([np.arange(n) % w.way for n in (w.support, w.query)])
    lead = (w.nodes, BATCHES, w.tasks)
    x = 0.5 * draw.standard_normal((*lead, w.way, *w.shape), dtype=np.float32)[:, :, :, labels]
    x += draw.standard_normal(x.shape, dtype=np.float32)
    return torch.from_numpy(x), torch.from_numpy(np.broadcast_to(labels, (*lead, len(labels))).copy())


def tasks_of(w: Workload, x: Tensor, y: Tensor) -> list[Episode]:
    """The tasks of one step, apart; x (tasks, rows, ...)."""
    n = w.support
    return [Episode(x[t, :n], y[t, :n], x[t, n:], y[t, n:]) for t in range(w.tasks)]


def experiment(w: Workload, activation: str = "relu", **outer: Any) -> Experiment:
    """As `metadist run` makes it of a config."""
    shot, query = w.support // w.way, w.query // w.way
    episodic = {"kind": "episodic", "way": w.way, "shot": shot, "query": query, "new": {"test": 1}}
    local = {"kind": "local", "support": w.support, "query": w.query}
    values = {
        "name": "meta-steps",
        "task": local if w.model == "mlp" else episodic,
        "partition": {"nodes": w.nodes + 1},
        "model": {"name": w.model, "activation": activation} | ({} if w.model == "mlp" else {"affine": w.affine}),
        "learner": {"name": "maml", "inner_lr": w.lr, "inner_steps": w.steps, "first_order": w.first_order},
        "train": {"meta_batch": w.tasks, "local_steps": w.local_steps, "outer": outer or {"name": "adam", "lr": 1e-3}},
    }
    rows = w.tasks * (w.support + w.query)
    classes = tuple(map(str, range(w.way)))
    spec = Spec("classification", w.shape, 1.0, classes, 0, rows, rows, rows * w.nodes, w.nodes)
    return assemble(Config.model_validate(values), spec)


def pool(x: Tensor, y: Tensor) -> Pool:
    nodes, rows = len(x), y[0].numel()
    none = np.zeros(nodes, dtype=np.int64)
    number = np.arange(nodes)
    return Pool(x.flatten(0, 3), y.flatten(), 1.0, number, rows * number, none + rows, none, none, none, none)


def plan(w: Workload, steps: int) -> Callable[[Pool], TaskIndices]:
    """The tasks of `data`, batch by batch in turn."""

    def sample(part: Pool) -> TaskIndices:
        task = np.arange(steps)[:, None] % BATCHES * w.tasks + np.arange(w.tasks)
        first = part.row_start[:, None, None, None] + (w.support + w.query) * task[..., None]
        shape = (len(part.nodes), steps, w.tasks)
        rows = first + np.arange(w.support), first + w.support + np.arange(w.query)
        return TaskIndices(*rows, np.ones(shape[:2], dtype=bool), np.zeros(shape, dtype=np.int64))

    return sample
