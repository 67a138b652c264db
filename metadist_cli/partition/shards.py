"""From a data set to nodes: who gets what, what each node makes its own, and the count that nothing went astray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from metadist_cli.core import seeds
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.standardise import fill, gaps, moments, standardise
from metadist_cli.data.types import Dataset, Rows, Windows, stack, take
from metadist_cli.partition.assign import assign_classes, assign_rows, class_runs, classes_of, rows_by_class
from metadist_cli.partition.held_out import ROLES, HoldOut, class_roles, node_roles, row_roles, rows_needed
from metadist_cli.partition.partitioners import Partitioner
from metadist_cli.tasks.episodes import Pool


class Shard(NamedTuple):
    """The rows of one node, sorted by class.

    role: train, validation or test; the last two are kept for new tasks. x: (n, ...), label: (n,), target: (n, out) or
    None, row: (n,) places in the data set. angle: degrees that the node's images are turned by. labels: (C,) the node's
    own number of each class, or None where it is everybody's. home: of held-back rows, the training node they are of.
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


class TaskSize(NamedTuple):
    """What a node must have for its tasks: `classes` classes of `rows` rows each (episodic), or `rows` rows (local)."""

    episodic: bool
    classes: int
    rows: int


def make_shards(
    data: Dataset,
    partitioner: Partitioner,
    nodes: int | None,
    need: TaskSize,
    held: HoldOut,
    seed: int,
    rotate: float = 0.0,
    relabel: bool = False,
    scale: str = "none",
) -> list[Shard]:
    """All shards: training nodes from 0 on, then what is held out.

    Held-out nodes are shards as they are, held-out classes one shard for each role; held-back rows are shards "NAME
    (validation)" and "NAME (test)" of each node, with its number as `home`, its angle and its numbering.
    Every row of the data set is in exactly one shard, but for turned copies of held-out classes (rotate_held_out False).
    rotate: each node's images are turned by its own angle, uniform in +-rotate/2 degrees. relabel: each node numbers
    the classes in its own way. scale: "none"; "node": each feature in deviations from its mean over the node's own
    training rows (held-back rows by those of their home); "train": over the rows of all training nodes. A held-out node
    or class has no training rows: "node" takes the features, not the labels, of all its rows, queries among them.
    A cell that is missing (NaN) becomes the mean that goes with `scale`, with "none" that of all training nodes.
    Raises Problem where the data are not enough, or not made for what is asked.
    """
    _check_request(data, need, held, scale)
    rng = seeds.numpy_generator(seed, "partition")
    roles = class_roles(data, held, seed) if held.source == "classes" else np.zeros(len(data.classes), dtype=np.int8)
    if need.episodic:
        parts, names = assign_classes(data, partitioner, nodes, need.classes, roles, rng)
    else:
        minimum = rows_needed(data, held, need.rows) if held.source == "rows" else need.rows
        parts, names = assign_rows(data, partitioner, nodes, minimum, rng)
    if held.source == "rows":
        shards = _keep_back(data, parts, names, held, seed)
    else:
        sides = node_roles(names, held, seed) if held.source == "nodes" else ["train"] * len(parts)
        order = sorted(range(len(parts)), key=lambda i: ROLES.index(sides[i]))
        shards = [_shard(data, parts[i], node, _name(names[i], node), sides[i]) for node, i in enumerate(order)]
    shards = [_own(shard, data, rotate, relabel, seed) for shard in shards]
    rows_of = rows_by_class(data)
    for code, role in ((1, "validation"), (2, "test")):
        kept = [c for c in classes_of(data, roles, code) if data.rotate_held_out or not data.rotated[c]]
        if kept:
            rows = np.sort(np.concatenate([rows_of[c] for c in kept]))
            shards.append(_shard(data, rows, len(shards), f"new classes ({role})", role))
    _check(shards, data, need)
    return _scaled(shards, scale) if scale != "none" or any(gaps(s.x) for s in shards) else shards


def pool(shards: Sequence[Shard], divide: float, device: torch.device | str = "cpu") -> Pool:
    """The rows of some shards side by side on a device, ready for episodes."""
    count = np.array([len(s.label) for s in shards], dtype=np.int64)
    start = np.cumsum(count) - count
    label = np.concatenate([s.label for s in shards])
    first_row, bounds = class_runs(label, count)
    x, places = stack([s.x for s in shards]), None
    rows = torch.from_numpy(x if isinstance(x, np.ndarray) else x.source).to(device)
    if isinstance(x, Windows):  # as a view of the source: a window is made when a task is
        rows, places = rows.unfold(0, x.length, 1), torch.from_numpy(x.start).to(device)
    y = np.concatenate([s.target for s in shards if s.target is not None]) if shards[0].target is not None else label
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


def _check_request(data: Dataset, need: TaskSize, held: HoldOut, scale: str) -> None:
    """Raises Problem where the data set's own split, its rows or the tasks contradict what is asked for."""
    if held.source != "classes" and (data.role is not None or not data.rotate_held_out):
        raise Problem(
            "the data set's own split, or turns for training alone, speak of classes; "
            f"held-out {held.source} keep all classes",
            "task.new.from",
            "write from: classes, or data.split: random and data.turns: all",
            CONFIG,
        )
    if held.source != "rows" and data.row_role is not None:
        message = f"the data set's own split speaks of rows, not of {held.source}"
        raise Problem(message, "task.new.from", "write from: rows, or data.split: random", CONFIG)
    if held.source == "rows" and need.episodic:
        message = "held-back rows are of classes that were trained on; an episodic task is made of new ones"
        raise Problem(message, "task.new.from", "write from: classes, or kind: local for the task", CONFIG)
    if scale != "none" and (data.x.dtype != np.float32 or data.x.ndim > 3 or data.divide != 1):
        message = "only measured features and signals are scaled; images are scaled already, characters are no measures"
        raise Problem(message, "partition.scale", "write scale: none", CONFIG)


def _keep_back(data: Dataset, parts: list[np.ndarray], names: list[str], held: HoldOut, seed: int) -> list[Shard]:
    """The training nodes, then their rows for validation, then those for testing."""
    named = [_name(name, node) for node, name in enumerate(names)]
    roles = [row_roles(data, part, held, seed, node, named[node]) for node, part in enumerate(parts)]
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


def _own(shard: Shard, data: Dataset, rotate: float, relabel: bool, seed: int) -> Shard:
    if not rotate and not relabel:
        return shard
    rng = seeds.numpy_generator(seed, "own", shard.node if shard.home is None else shard.home)
    angle, order = float(rng.uniform(-rotate / 2, rotate / 2)), rng.permutation(len(data.classes))
    if rotate:
        if shard.x.ndim != 3 or shard.x.dtype != np.uint8:
            raise Problem("only images of one channel can be turned", "partition.rotate", "leave it out", CONFIG)
        turned = [  # what comes in at the corners is the image's own background
            np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR, fillcolor=image[0, 0].item()))
            for image in shard.x
        ]
        shard = shard._replace(x=np.stack(turned), angle=angle)
    if relabel:
        if data.kind != "classification":
            raise Problem("a regression has no classes to renumber", "partition.relabel", "leave it out", CONFIG)
        label = order[shard.label]
        sort = np.argsort(label, kind="stable")
        shard = shard._replace(
            x=take(shard.x, sort), label=label[sort], row=shard.row[sort], labels=tuple(int(i) for i in order)
        )
    return shard


def _scaled(shards: list[Shard], scale: str) -> list[Shard]:
    if scale == "node":
        own = {s.node: moments([s.x[:]]) for s in shards if s.home is None}
        return [s._replace(x=standardise(s.x[:], own[s.node if s.home is None else s.home])) for s in shards]
    shared = moments([s.x[:] for s in shards if s.role == "train"])
    return [s._replace(x=(standardise if scale == "train" else fill)(s.x[:], shared)) for s in shards]


def _check(shards: list[Shard], data: Dataset, need: TaskSize) -> None:
    """Raises Problem where a node is too poor for a task, or rows were lost or doubled (a bug of ours)."""
    for shard in shards:
        enough = not need.episodic and len(shard.label) >= need.rows
        if enough or shard.home is not None:  # a task's support rows are its home's
            continue
        counts = np.unique(shard.label, return_counts=True)[1]
        if need.episodic and (len(counts) < need.classes or counts.min() < need.rows):
            have = f"{len(counts)} classes of {counts.min()} to {counts.max()} rows"
            raise Problem(
                f"a task needs {need.classes} classes of {need.rows} rows, {shard.name} has {have}",
                f"node {shard.node}",
                "lower task.way, task.shot or task.query, or make fewer nodes",
                CONFIG,
            )
        if not need.episodic:
            raise Problem(
                f"a task needs {need.rows} rows, {shard.name} has {len(shard.label)}",
                f"node {shard.node}",
                "lower task.support or task.query, or make fewer nodes",
                CONFIG,
            )
    rows = account(data, shards)
    if rows["lost"] or rows["duplicated"]:
        raise RuntimeError(f"rows of the data set went astray: {rows}")


def account(data: Dataset, shards: list[Shard]) -> dict[str, int]:
    """Where the rows of the data set are, counted: by role, in no shard, in several.

    left_out: turned copies of held-out classes, which no shard is to have with rotate_held_out False.
    """
    times = np.zeros(len(data.label), dtype=np.int64)
    held = np.zeros(int(data.base.max()) + 1, dtype=bool)
    for shard in shards:
        np.add.at(times, shard.row, 1)
        if shard.role != "train":
            held[data.base[data.label[shard.row]]] = True
    spare = np.zeros(len(times), dtype=bool)
    if not data.rotate_held_out:
        spare = (times == 0) & data.rotated[data.label] & held[data.base[data.label]]
    return {
        **{role: sum(len(s.label) for s in shards if s.role == role) for role in ROLES},
        "total": len(times),
        "left_out": int(spare.sum()),
        "lost": int(((times == 0) & ~spare).sum()),
        "duplicated": int((times > 1).sum()),
    }
