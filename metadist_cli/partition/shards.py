"""From a data set to shards: partition the rows over nodes, transform them per node, and account for every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from metadist_cli.core import seeds
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.preprocessing import rotate
from metadist_cli.data.standardise import Moments, gaps, standardise
from metadist_cli.data.types import Dataset, Rows, Windows, stack, take
from metadist_cli.partition.accounting import Partitioned
from metadist_cli.partition.assign import assign_classes, assign_rows, class_runs, classes_of, rows_by_class
from metadist_cli.partition.held_out import ROLES, HoldOut, class_roles, node_roles, row_roles, rows_needed
from metadist_cli.partition.partitioners import Partitioner
from metadist_cli.partition.scale import scaled
from metadist_cli.partition.too_small import LeftOut, check_named, needed, refusal, small_classes, small_nodes
from metadist_cli.tasks.episodes import Pool


class Shard(NamedTuple):
    """The n rows of one node, sorted by class.

    Attributes:
        node: its number.
        name: for people: the name of the group in the data that it is, or "node-003".
        role: "train", or "validation" and "test" for rows held out for new tasks.
        x: (n, ...) inputs.
        label: (n,) int64 class numbers, in the node's own numbering.
        target: (n, out) float32 regression targets, or None.
        row: (n,) int64 row numbers in the data set.
        angle: degrees by which the node's images are rotated.
        labels: (C,) the node's own number for each class of the data set; None where it uses the data set's.
        home: for held-out rows of a training node, that node's number; otherwise None.
        scale: mean and deviation of the node's features with `scale: node` or `support`; otherwise None.
    """

    node: int
    name: str
    role: str
    x: Rows
    label: np.ndarray
    target: np.ndarray | None
    row: np.ndarray
    angle: float = 0.0
    labels: tuple[int, ...] | None = None
    home: int | None = None
    scale: Moments | None = None


class TaskSize(NamedTuple):
    """What one task takes from a node: `classes` classes of `rows` rows each (episodic), or `rows` rows (local)."""

    episodic: bool
    classes: int
    rows: int


class PartitionSpec(NamedTuple):
    """How a data set becomes shards.

    Attributes:
        partitioner: assigns rows (local tasks) or whole classes (episodic tasks) to nodes.
        nodes: how many to make, held-out ones included; None where the partitioner knows.
        task: what each node must have enough of.
        hold_out: what is kept for new tasks.
        rotate: rotate each node's images by an angle of its own, uniform in +-rotate/2 degrees.
        relabel: let each node number the classes in its own random order.
        scale: "none"; "node": standardise each feature by its mean and deviation over the node's own training rows
            (held-out rows of a training node by that node's); "support": the same, but leave the rows of held-out nodes
            and classes to their tasks; "train": over the rows of all training nodes; "robust": by their quartiles.
        clip: the largest standardised value, either way.
        too_small: "refuse" nodes with too little for a task, or "drop" them.
    """

    partitioner: Partitioner
    nodes: int | None
    task: TaskSize
    hold_out: HoldOut
    rotate: float = 0.0
    relabel: bool = False
    scale: str = "none"
    clip: float | None = None
    too_small: str = "refuse"


def make_shards(data: Dataset, spec: PartitionSpec, seed: int) -> Partitioned:
    """Partition a data set: the training nodes from 0 on, then what is held out for new tasks.

    Every row of the data set lands in exactly one shard, except rotated copies of held-out classes where the data set
    leaves them out (`rotate_held_out` False), classes that are too small for an episode and, with too_small "drop",
    nodes that are too small. Held-out nodes become shards like any other, held-out classes one shard
    per role, and held-out rows a shard "NAME (validation)" or "NAME (test)" for each training node, with its number as
    `home`, its angle and its class numbering.

    With scale "node" a held-out node or class has no training rows, so the features (not the labels) of all its rows
    are used, queries included. A missing cell (NaN) becomes the mean that goes with `scale`; with "none" the mean over
    all training nodes.

    Args:
        data: the rows.
        spec: how to partition them.
        seed: the experiment's; the result is a function of these three arguments.

    Returns:
        The shards, numbered in this order, and what is left out.

    Raises:
        Problem: where the data are too few, or do not fit the request.
    """
    _check_request(data, spec)
    held, task = spec.hold_out, spec.task
    rng = seeds.numpy_generator(seed, "partition")
    present, left = small_classes(data, task)
    check_named(held, left)
    roles = class_roles(data, present, held, seed)
    if task.episodic:
        parts, names = assign_classes(data, spec.partitioner, spec.nodes, task.classes, roles, rng)
    else:
        minimum = rows_needed(data, held, task.rows) if held.source == "rows" else task.rows
        parts, names = assign_rows(data, spec.partitioner, spec.nodes, minimum, rng)
    parts, names, small = _large_enough(data, parts, names, spec, seed)
    left += small
    if held.source == "rows":
        shards = _hold_out_rows(data, parts, names, held, seed)
    else:
        sides = node_roles(names, held, seed) if held.source == "nodes" else ["train"] * len(parts)
        order = sorted(range(len(parts)), key=lambda i: ROLES.index(sides[i]))
        shards = [_shard(data, parts[i], node, _name(names[i], node), sides[i]) for node, i in enumerate(order)]
    shards = [_rotate_and_relabel(shard, data, spec, seed) for shard in shards]
    rows_of = rows_by_class(data)
    for code, role in ((1, "validation"), (2, "test")):
        kept = [c for c in classes_of(data, roles, code) if data.rotate_held_out or not data.rotated[c]]
        if kept:
            rows = np.sort(np.concatenate([rows_of[c] for c in kept]))
            shards.append(_shard(data, rows, len(shards), f"new classes ({role})", role))
    _check(Partitioned(shards, left), data, task)
    if spec.scale != "none" or any(gaps(s.x) for s in shards):
        shards = scaled(shards, data.preprocessing, spec.scale, spec.clip)
    return Partitioned(shards, left)


def pool(
    shards: Sequence[Shard], divide: float, device: torch.device | str = "cpu", targets: Moments | None = None
) -> Pool:
    """The rows of some shards, concatenated on a device, for samplers to draw from.

    Args:
        shards: one or more.
        divide: by which inputs are divided when a task is gathered, e.g. 255 for bytes.
        device: to hold the rows.
        targets: by which a regression's targets are standardised; None: they are not.

    Returns:
        The pool; its nodes are in the order of the shards.
    """
    count = np.array([len(s.label) for s in shards], dtype=np.int64)
    start = np.cumsum(count) - count
    label = np.concatenate([s.label for s in shards])
    first_row, bounds = class_runs(label, count)
    x, places = stack([s.x for s in shards]), None
    rows = torch.from_numpy(x if isinstance(x, np.ndarray) else x.source).to(device)
    if isinstance(x, Windows):  # as a view of the source: a window is made when a task is
        rows, places = rows.unfold(0, x.length, 1), torch.from_numpy(x.start).to(device)
    y = np.concatenate([s.target for s in shards if s.target is not None]) if shards[0].target is not None else label
    y = y if targets is None else standardise(y, targets)
    return Pool(
        rows,
        torch.from_numpy(y).to(device),
        divide,
        np.array([s.node for s in shards], dtype=np.int64),
        start,
        count,
        bounds[:-1],
        np.diff(bounds),
        first_row,
        np.diff(first_row, append=len(label)),
        places,
    )


def _check_request(data: Dataset, spec: PartitionSpec) -> None:
    """Raises Problem where the request contradicts the data set's own split, its rows or the kind of task."""
    held = spec.hold_out
    if held.source != "classes" and (data.role is not None or not data.rotate_held_out):
        raise Problem(
            f"the data set's own split, or `turns: train`, holds out classes; from: {held.source} holds out none",
            "task.new.from",
            "use from: classes, or data.split: random with data.turns: all",
            CONFIG,
        )
    if held.source != "rows" and data.row_role is not None:
        message = f"the data set's own split holds out rows, not {held.source}"
        raise Problem(message, "task.new.from", "use from: rows, or data.split: random", CONFIG)
    if held.source == "rows" and spec.task.episodic:
        message = "held-out rows belong to training classes, but a new episodic task needs new classes"
        raise Problem(message, "task.new.from", "use from: classes, or task.kind: local", CONFIG)
    if spec.scale != "none" and (data.x.dtype != np.float32 or data.x.ndim > 3 or data.divide != 1):
        message = "only numeric features and signals can be scaled, not images (scaled already) or characters"
        raise Problem(message, "partition.scale", "use scale: none", CONFIG)


def _large_enough(
    data: Dataset, parts: list[np.ndarray], names: list[str], spec: PartitionSpec, seed: int
) -> tuple[list[np.ndarray], list[str], list[LeftOut]]:
    """(rows and names of the nodes that have enough for a task, the others). Raises Problem where those are refused."""
    held, task = spec.hold_out, spec.task
    roles = _row_roles(data, parts, held, seed) if held.source == "rows" else None
    lacking = small_nodes(data, parts, roles, task, held)
    poor = [i for i, have in enumerate(lacking) if have]
    if not poor:
        return parts, names, []
    rows = sum(len(parts[i]) for i in poor)
    named, have = tuple(_name(names[i], i) for i in poor), tuple(lacking[i] for i in poor)
    left = LeftOut("node", len(parts), named, have, needed(task, held), rows)
    if spec.too_small == "refuse" or len(poor) == len(parts):
        raise refusal(left, task, held)
    check_named(held, [left])
    rich = [i for i, have in enumerate(lacking) if not have]
    return [parts[i] for i in rich], [names[i] for i in rich], [left]


def _row_roles(data: Dataset, parts: list[np.ndarray], held: HoldOut, seed: int) -> list[np.ndarray]:
    return [row_roles(data, part, held, seed, node) for node, part in enumerate(parts)]


def _hold_out_rows(data: Dataset, parts: list[np.ndarray], names: list[str], held: HoldOut, seed: int) -> list[Shard]:
    """The training nodes, then their validation rows, then their test rows."""
    named = [_name(name, node) for node, name in enumerate(names)]
    roles = _row_roles(data, parts, held, seed)
    shards = [_shard(data, part[roles[node] == 0], node, named[node], "train") for node, part in enumerate(parts)]
    for code, role in ((1, "validation"), (2, "test")):
        for home, part in enumerate(parts):
            if (roles[home] == code).any():
                name = f"{named[home]} ({role})"
                shards.append(_shard(data, part[roles[home] == code], len(shards), name, role)._replace(home=home))
    return shards


def _name(name: str, node: int) -> str:
    return name or f"node-{node:03d}"


def _shard(data: Dataset, rows: np.ndarray, node: int, name: str, role: str) -> Shard:
    rows = rows[np.argsort(data.label[rows], kind="stable")]
    target = None if data.target is None else data.target[rows]
    return Shard(node, name, role, take(data.x, rows), data.label[rows], target, rows)


def _rotate_and_relabel(shard: Shard, data: Dataset, spec: PartitionSpec, seed: int) -> Shard:
    """The shard with its node's own rotation and class numbering."""
    if not spec.rotate and not spec.relabel:
        return shard
    rng = seeds.numpy_generator(seed, "own", shard.node if shard.home is None else shard.home)
    angle, order = float(rng.uniform(-spec.rotate / 2, spec.rotate / 2)), rng.permutation(len(data.classes))
    if spec.rotate:
        if shard.x.ndim != 3 or shard.x.dtype != np.uint8:
            raise Problem("only single-channel images can be rotated", "partition.rotate", "remove it", CONFIG)
        shard = shard._replace(x=rotate(shard.x[:], angle), angle=angle)
    if spec.relabel:
        if data.kind != "classification":
            raise Problem("a regression has no classes to relabel", "partition.relabel", "remove it", CONFIG)
        label = order[shard.label]
        sort = np.argsort(label, kind="stable")
        shard = shard._replace(
            x=take(shard.x, sort), label=label[sort], row=shard.row[sort], labels=tuple(int(i) for i in order)
        )
    return shard


def _check(made: Partitioned, data: Dataset, task: TaskSize) -> None:
    """Raises Problem where held-out classes are too few for a task, RuntimeError where rows were lost or duplicated."""
    for shard in made.shards:
        have = len(np.unique(shard.label)) if task.episodic else task.classes
        if have < task.classes:
            kind = {"validation": "task.new.validation", "test": "task.new.test"}[shard.role]
            message = f"a task needs {task.classes} classes, but {shard.name} has {have}"
            raise Problem(message, kind, f"hold out at least {task.classes}, or lower task.way to {have}", CONFIG)
    rows = made.account(data)
    if rows["lost"] or rows["duplicated"]:
        raise RuntimeError(f"the partition lost or duplicated rows: {rows}")
