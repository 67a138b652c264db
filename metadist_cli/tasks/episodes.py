"""Which rows make the tasks of a round: index plans, drawn on the CPU for many nodes, steps and tasks at once.

A plan depends on the experiment's seed, the round and the node's own number and rows alone: never on which other nodes
are drawn beside it, on blocks, processes or devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metadist_cli.core import seeds
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.tasks.types import Episode

_KEYS = 1 << 17  # hashes, of 8 bytes, that are sorted at a time


class Pool(NamedTuple):
    """The rows of some nodes, one after the other, each node's rows sorted by class.

    x: (R, ...) as stored, on the device; the model sees x / divide. y: (R,) class numbers or (R, out) targets.
    place: (R,) where in x a row stands, if rows overlap there as the windows of a text do; else None: row i is x[i].
    nodes: (N,) the nodes' numbers; row_start, row_count: (N,) where their rows lie.
    class_start, class_count: (N,) where their classes lie in the table of classes (first_row, rows): (C,) each.
    """

    x: Tensor
    y: Tensor
    divide: float
    nodes: np.ndarray
    row_start: np.ndarray
    row_count: np.ndarray
    class_start: np.ndarray
    class_count: np.ndarray
    first_row: np.ndarray
    rows: np.ndarray
    place: Tensor | None = None

    def take(self, places: np.ndarray) -> Pool:
        """The same rows with a part of the nodes; places: indices into nodes."""
        names = ("nodes", "row_start", "row_count", "class_start", "class_count")
        return self._replace(**{name: getattr(self, name)[places] for name in names})


class TaskIndices(NamedTuple):
    """The rows of N nodes' tasks over S steps.

    support, query: (N, S, T, n) rows of the pool. active: (N, S), False after a node's own last step.
    seeds: (N, S, T) int64, one a task. labels: the support's and the query's labels (n,) where tasks renumber classes,
    else None: the pool's y.
    """

    support: np.ndarray
    query: np.ndarray
    active: np.ndarray
    seeds: np.ndarray
    labels: tuple[np.ndarray, np.ndarray] | None = None


Sampler = Callable[[Pool, object], TaskIndices]
"""(pool, moment) -> plan; the moment (a round, a purpose) is hashed with the experiment's seed."""


def episodic(seed: int, steps: int, tasks: int, way: int, shot: int, query: int, renumber: bool = True) -> Sampler:
    """N-way K-shot tasks: `way` classes of the node, `shot` + `query` rows of each, all distinct.

    Every ordered choice is equally likely; rows stand class by class, labels 0..way-1 in the order drawn. renumber:
    False for regression, where a class is a function and the targets stay.
    """

    def sample(pool: Pool, moment: object) -> TaskIndices:
        node, step, task = _counters(pool, steps, tasks)
        base = seeds.key(seed, "episodes", moment)
        _enough(pool, pool.class_count, way, "classes")
        chosen = seeds.subset(base, node, step, task, 1, of=pool.class_count[:, None, None], size=way)
        chosen = chosen + pool.class_start[:, None, None, None]  # (N, S, T, W)
        _enough(pool, pool.rows[chosen].min((1, 2, 3), initial=shot + query), shot + query, "rows of each class")
        picks = seeds.subset(
            base, node[..., None], step[..., None], task[..., None], 2, np.arange(way), of=pool.rows[chosen],
            size=shot + query,
        )  # fmt: skip
        rows = pool.first_row[chosen][..., None] + picks  # (N, S, T, W, K + Q)
        lead = rows.shape[:3]
        labels = np.arange(way).repeat(shot), np.arange(way).repeat(query)
        return TaskIndices(
            rows[..., :shot].reshape(*lead, way * shot),
            rows[..., shot:].reshape(*lead, way * query),
            np.ones(lead[:2], dtype=bool),
            _task_seeds(base, node, step, task),
            labels if renumber else None,
        )

    return sample


def local(seed: int, steps: int, tasks: int, support: int, query: int) -> Sampler:
    """Tasks of the node's own rows under their own labels: `support` + `query` distinct rows, drawn for every task.

    With no support a task is a batch of `query` rows, and a node that has fewer takes its rows again in the same order.
    """

    def sample(pool: Pool, moment: object) -> TaskIndices:
        node, step, task = _counters(pool, steps, tasks)
        base = seeds.key(seed, "episodes", moment)
        of = pool.row_count[:, None, None]
        if support:
            _enough(pool, pool.row_count, support + query, "rows")
        rows = seeds.subset(base, node, step, task, 1, of=of, size=support + query)
        short = np.broadcast_to(np.arange(support + query) % of[..., None], rows.shape)  # the first `of` are distinct
        rows = np.take_along_axis(rows, short, axis=-1)
        rows = rows + pool.row_start[:, None, None, None]
        active = np.ones(rows.shape[:2], dtype=bool)
        return TaskIndices(rows[..., :support], rows[..., support:], active, _task_seeds(base, node, step, task))

    return sample


def held_back(seed: int, tasks: int, support: int | None) -> Sampler:
    """Tasks of a pool of two shards, a node's training rows and those that it kept back.

    The support are `support` of the first, drawn anew for each task, or all (None); the query are all of the second.
    """

    def sample(pool: Pool, moment: object) -> TaskIndices:
        base, node, task = seeds.key(seed, "held back", moment), pool.nodes[0], np.arange(tasks)
        have, kept = pool.row_count
        if support is None:
            rows = np.tile(np.arange(have), (tasks, 1))
        else:
            _enough(pool, pool.row_count[:1], support, "rows")
            rows = seeds.subset(base, node, 0, task, 1, of=have, size=support)
        query = np.tile(np.arange(kept), (tasks, 1))
        rows, query = (part[None, None] + start for part, start in zip((rows, query), pool.row_start, strict=True))
        return TaskIndices(rows, query, np.ones((1, 1), dtype=bool), _task_seeds(base, *_counters(pool, 1, tasks))[:1])

    return sample


def epochs(seed: int, count: int, tasks: int, support: int, query: int) -> Sampler:
    """Local tasks that pass `count` times through the node's rows: a permutation an epoch, a short tail wraps.

    A step takes `tasks` times support + query rows. Nodes of unequal size stop after their own number of steps.
    """
    size = tasks * (support + query)

    def sample(pool: Pool, moment: object) -> TaskIndices:
        per_epoch = -(-pool.row_count // size)
        steps = int(per_epoch.max()) * count
        rows = np.empty((len(pool.nodes), steps, size), dtype=np.int64)
        base = seeds.key(seed, "epochs", moment)
        for at, n in _of_one_size(pool.row_count, count):
            keys = seeds.bits(base, pool.nodes[at][:, None, None], np.arange(count)[:, None], np.arange(n))
            order = np.argsort(keys, axis=-1, kind="stable")
            own = -(-n // size)
            each = np.take(order, np.arange(own * size) % n, axis=-1).reshape(len(at), -1, size)
            each = each[:, np.arange(steps) % (own * count)]  # past the node's own last step: repeated, inactive
            rows[at] = pool.row_start[at][:, None, None] + each
        active = np.arange(steps) < (per_epoch * count)[:, None]
        rows = rows.reshape(*rows.shape[:2], tasks, support + query)
        node, step, task = _counters(pool, steps, tasks)
        return TaskIndices(rows[..., :support], rows[..., support:], active, _task_seeds(base, node, step, task))

    return sample


def _of_one_size(row_count: np.ndarray, epochs: int) -> Iterator[tuple[np.ndarray, int]]:
    """(places of nodes with equally many rows, how many), few enough at a time for the caches."""
    for n in np.unique(row_count).tolist():
        at = np.flatnonzero(row_count == n)
        few = max(1, _KEYS // (n * epochs))
        for begin in range(0, len(at), few):
            yield at[begin : begin + few], n


def _enough(pool: Pool, have: np.ndarray, need: int, what: str) -> None:
    """Raises Problem where a node is too poor: without this the draw would take its neighbours' rows."""
    for i in np.flatnonzero(have < need)[:1]:
        raise Problem(
            f"a task needs {need} {what}, there are {have[i]}",
            f"node {pool.nodes[i]}",
            "lower way, shot, support or query of task or finetune.task",
            CONFIG,
        )


def _counters(pool: Pool, steps: int, tasks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pool.nodes[:, None, None], np.arange(steps)[None, :, None], np.arange(tasks)[None, None, :]


def _task_seeds(base: int, node: np.ndarray, step: np.ndarray, task: np.ndarray) -> np.ndarray:
    return seeds.positive(base, node, step, task, 3)


def gather(pool: Pool, support: np.ndarray, query: np.ndarray, labels: tuple[np.ndarray, np.ndarray] | None) -> Episode:
    """The data of tasks whose rows are (..., n): leaves (..., n, features) on the pool's device, x already divided."""
    device = pool.x.device

    def rows(index: np.ndarray) -> tuple[Tensor, Tensor]:
        at = torch.from_numpy(np.ascontiguousarray(index)).to(device)
        x = _taken(pool.x, at if pool.place is None else pool.place[at])
        return (x if x.is_floating_point() and pool.divide == 1 else x / pool.divide), _taken(pool.y, at)

    (support_x, support_y), (query_x, query_y) = rows(support), rows(query)
    if labels is not None:
        support_y, query_y = (
            torch.from_numpy(values).to(device).expand(*index.shape)
            for values, index in zip(labels, (support, query), strict=True)
        )
    return Episode(support_x, support_y, query_x, query_y)


def _taken(leaf: Tensor, at: Tensor) -> Tensor:
    """leaf[at], which takes five times as long: 490 us and 77 us for 4,500 rows of 64 values."""
    return leaf.index_select(0, at.flatten()).unflatten(0, at.shape)


def counts(n: int, support: int | float, query: int | float | str) -> tuple[int, int]:
    """How many of n rows are support and query: numbers stay, fractions are of n (at least 1), "rest" is the rest.

    A fraction leaves at least one row of n >= 2, and the query's is rounded down: 0.5 and 0.5 of 7 are 4 and 3.
    """
    few = support if isinstance(support, int) else max(1, min(round(support * n), n - 1))
    if isinstance(query, str):
        return few, n - few
    return few, query if isinstance(query, int) else max(1, int(query * n + 1e-9))
