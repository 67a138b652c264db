"""Sample tasks as row indices, on the CPU, for many nodes, steps and tasks at once.

A node's tasks depend only on the experiment's seed, the round, and the node's number and rows: never on which other
nodes take part, or on blocks, processes or devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from metadist_cli.core import seeds
from metadist_cli.core.errors import CONFIG, Problem

_KEYS = 1 << 17  # hashes of 8 bytes sorted at a time


class Pool(NamedTuple):
    """The concatenated rows of N nodes, each node's rows sorted by class.

    Attributes:
        x: (R, ...) inputs as stored, on the device; the model sees x / divide.
        y: (R,) class numbers, or (R, out) regression targets.
        divide: see x.
        nodes: (N,) the nodes' numbers.
        row_start, row_count: (N,) each node's slice of the R rows.
        class_start, class_count: (N,) each node's slice of the C classes below.
        first_row, rows: (C,) each class's slice of the R rows; a class of two nodes counts twice.
        by_support: (support rows, rows) -> rows, where the inputs of a task are scaled by its own support; None: they
            are scaled already.
        place: (R,) position of each row in x where rows overlap, as the windows of a text do; None: row i is x[i].
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
    by_support: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    def take(self, places: np.ndarray) -> Pool:
        """The pool restricted to some nodes. places: indices into `nodes`."""
        names = ("nodes", "row_start", "row_count", "class_start", "class_count")
        return self._replace(**{name: getattr(self, name)[places] for name in names})


class TaskIndices(NamedTuple):
    """The rows of T tasks per step, over S steps, of N nodes.

    Attributes:
        support: (N, S, T, n) int64 rows of the pool.
        query: (N, S, T, m) int64 rows of the pool.
        active: (N, S) bool; False after a node's own last step.
        seeds: (N, S, T) int64, one per task.
        labels: the support's labels (n,) and the query's (m,), where tasks renumber their classes; None: the pool's y.
    """

    support: np.ndarray
    query: np.ndarray
    active: np.ndarray
    seeds: np.ndarray
    labels: tuple[np.ndarray, np.ndarray] | None = None


Sampler = Callable[[Pool, object], TaskIndices]
"""(pool, moment) -> TaskIndices for all nodes of the pool. The moment (a round number, a purpose) is hashed with the
experiment's seed. Raises Problem where a node has too few rows or classes."""


def episodic(seed: int, steps: int, tasks: int, way: int, shot: int, query: int) -> Sampler:
    """N-way K-shot tasks: `way` classes of the node, `shot` support and `query` query rows of each, all distinct.

    Classes with fewer rows are left out. Every ordered choice of the others is equally likely. Rows are grouped by
    class, and labels number the classes 0..way-1 in the order drawn.

    Args:
        seed: the experiment's.
        steps: S, per call.
        tasks: T, per step.
        way: classes per task.
        shot: support rows per class.
        query: query rows per class.
    """

    def sample(pool: Pool, moment: object) -> TaskIndices:
        node, step, task = _counters(pool, steps, tasks)
        base = seeds.key(seed, "episodes", moment)
        pool = _rich(pool, shot + query)
        _enough(pool, pool.class_count, way, f"classes with {shot + query} rows each")
        chosen = seeds.subset(base, node, step, task, 1, of=pool.class_count[:, None, None], size=way)
        chosen = chosen + pool.class_start[:, None, None, None]  # (N, S, T, W)
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
            labels,
        )

    return sample


def _rich(pool: Pool, need: int) -> Pool:
    """The pool without the classes that have fewer rows than an episode takes of each."""
    rich = pool.rows >= need
    if rich.all():
        return pool
    before = np.append(0, np.cumsum(rich))  # rich classes before each class, and before the end
    start = before[pool.class_start]
    return pool._replace(
        class_start=start,
        class_count=before[pool.class_start + pool.class_count] - start,
        first_row=pool.first_row[rich],
        rows=pool.rows[rich],
    )


def keep_labels(sampler: Sampler) -> Sampler:
    """The sampler without renumbering: for a regression, whose classes are functions and whose targets stay."""
    return lambda pool, moment: sampler(pool, moment)._replace(labels=None)


def local(seed: int, steps: int, tasks: int, support: int, query: int) -> Sampler:
    """Tasks from all of the node's rows under their own labels: distinct rows, redrawn for every task.

    Args:
        seed: the experiment's.
        steps: S, per call.
        tasks: T, per step.
        support: rows per task; 0 makes a task a plain batch of `query` rows, in which a smaller node repeats its rows.
        query: rows per task.
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


def held_out_rows(seed: int, tasks: int, support: int | None) -> Sampler:
    """Tasks on a pool of two shards: a node's training rows, and its held-out rows.

    Args:
        seed: the experiment's.
        tasks: T.
        support: rows of the first shard per task, redrawn for each; None for all of them.

    Returns:
        A sampler of one step, whose query is the whole second shard.
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
    """Local tasks that pass `count` times over the node's rows, in a new order each epoch; the tail wraps around.

    A step takes tasks * (support + query) rows. The largest node decides S; a smaller one is inactive after its own
    last step.
    """
    size = tasks * (support + query)

    def sample(pool: Pool, moment: object) -> TaskIndices:
        per_epoch = -(-pool.row_count // size)
        steps = int(per_epoch.max()) * count
        rows = np.empty((len(pool.nodes), steps, size), dtype=np.int64)
        base = seeds.key(seed, "epochs", moment)
        for at, n in _by_size(pool.row_count, count):
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


def _by_size(row_count: np.ndarray, epochs: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (places of nodes with n rows, n), few enough nodes at a time to sort within the CPU caches."""
    for n in np.unique(row_count).tolist():
        at = np.flatnonzero(row_count == n)
        few = max(1, _KEYS // (n * epochs))
        for begin in range(0, len(at), few):
            yield at[begin : begin + few], n


def _enough(pool: Pool, have: np.ndarray, need: int, what: str) -> None:
    """Raises Problem where a node has too few; without this the draw would take its neighbours' rows."""
    for i in np.flatnonzero(have < need)[:1]:
        raise Problem(
            f"a task needs {need} {what}, but only {have[i]} exist",
            f"node {pool.nodes[i]}",
            "lower way, shot, support or query of task or finetune.task",
            CONFIG,
        )


def _counters(pool: Pool, steps: int, tasks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pool.nodes[:, None, None], np.arange(steps)[None, :, None], np.arange(tasks)[None, None, :]


def _task_seeds(base: int, node: np.ndarray, step: np.ndarray, task: np.ndarray) -> np.ndarray:
    return seeds.positive(base, node, step, task, 3)


def counts(n: int, support: int | float, query: int | float | str) -> tuple[int, int]:
    """Support and query sizes of a local task on n rows.

    Args:
        n: rows of the node.
        support: rows, or a fraction of n, which gives at least 1 and leaves at least 1.
        query: rows, a fraction of n (rounded down, at least 1), or "rest".

    Returns:
        (support rows, query rows): 0.5 and 0.5 of 7 are 4 and 3.
    """
    few = support if isinstance(support, int) else max(1, min(round(support * n), n - 1))
    if isinstance(query, str):
        return few, n - few
    return few, query if isinstance(query, int) else max(1, int(query * n + 1e-9))
