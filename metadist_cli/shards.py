"""From a data set to nodes: who gets what, what each node makes its own, and the count that nothing went astray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from metadist_cli import seeds
from metadist_cli.datasets.types import Dataset, Group
from metadist_cli.episodes import Pool
from metadist_cli.errors import CONFIG, Problem
from metadist_cli.holdout import ROLES, Held, class_roles, node_roles
from metadist_cli.partitioners import Items, Partitioner


class Shard(NamedTuple):
    """The rows of one node, sorted by class.

    role: train, validation or test; the last two are kept for new tasks. x: (n, ...), label: (n,), target: (n, out) or
    None, row: (n,) places in the data set. angle: degrees that the node's images are turned by. labels: (C,) the node's
    own number of each class, or None where it is everybody's.
    """

    node: int
    name: str
    role: str
    x: np.ndarray
    label: np.ndarray
    target: np.ndarray | None
    row: np.ndarray
    angle: float = 0.0
    labels: tuple[int, ...] | None = None


class Need(NamedTuple):
    """What a node must have for its tasks: `classes` classes of `rows` rows each (episodic), or `rows` rows (local)."""

    episodic: bool
    classes: int
    rows: int


def make_shards(
    data: Dataset,
    partitioner: Partitioner,
    nodes: int | None,
    need: Need,
    held: Held,
    seed: int,
    rotate: float = 0.0,
    relabel: bool = False,
) -> list[Shard]:
    """All shards: training nodes from 0 on, then those held out; held-out classes are one shard for each role.

    Every row of the data set is in exactly one shard, but for turned copies of held-out classes (turn_held_out False).
    rotate: each node's images are turned by its own angle, uniform in +-rotate/2 degrees. relabel: each node numbers
    the classes in its own way. Raises Problem where the data are not enough.
    """
    if held.source == "nodes" and (data.role is not None or not data.turn_held_out):
        raise Problem(
            "the data set's own split, or turns for training alone, speak of classes; held-out nodes keep all classes",
            "task.new.from",
            "write from: classes, or data.split: random and data.turns: all",
            CONFIG,
        )
    rng = seeds.numpy_generator(seed, "partition")
    rows_of = _rows_by_class(data)
    roles = class_roles(data, held, seed) if held.source == "classes" else np.zeros(len(data.classes), dtype=np.int8)
    if need.episodic:
        parts, names = _deal_classes(data, partitioner, nodes, need, roles, rows_of, rng)
    else:
        parts, names = _deal_rows(data, partitioner, nodes, need, rng)
    sides = node_roles(names, held, seed) if held.source == "nodes" else ["train"] * len(parts)
    shards = []
    for node, i in enumerate(sorted(range(len(parts)), key=lambda i: ROLES.index(sides[i]))):
        shard = _shard(data, parts[i], node, names[i] or f"node-{node:03d}", sides[i])
        shards.append(_own(shard, data, rotate, relabel, seed))
    for code, role in ((1, "validation"), (2, "test")):
        kept = [c for c in _classes(data, roles, code) if data.turn_held_out or not data.turned[c]]
        if kept:
            rows = np.sort(np.concatenate([rows_of[c] for c in kept]))
            shards.append(_shard(data, rows, len(shards), f"new classes ({role})", role))
    _check(shards, data, need)
    return shards


def pool(shards: Sequence[Shard], divide: float, device: torch.device | str = "cpu") -> Pool:
    """The rows of some shards side by side on a device, ready for episodes."""
    count = np.array([len(s.label) for s in shards], dtype=np.int64)
    start = np.cumsum(count) - count
    tables = [np.unique(s.label, return_index=True, return_counts=True) for s in shards]
    class_count = np.array([len(t[0]) for t in tables], dtype=np.int64)
    x = torch.from_numpy(np.concatenate([s.x for s in shards]))
    y = [s.label if s.target is None else s.target for s in shards]
    return Pool(
        x.to(device),
        torch.from_numpy(np.concatenate(y)).to(device),
        divide,
        np.array([s.node for s in shards], dtype=np.int64),
        start,
        count,
        np.cumsum(class_count) - class_count,
        class_count,
        np.concatenate([t[1] + at for t, at in zip(tables, start, strict=True)]),
        np.concatenate([t[2] for t in tables]),
    )


def _rows_by_class(data: Dataset) -> list[np.ndarray]:
    order = np.argsort(data.label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(data.label, minlength=len(data.classes)))[:-1])


def _classes(data: Dataset, roles: np.ndarray, code: int) -> np.ndarray:
    """The classes of a role, ascending; a class may have no rows (synthetic data), and is then nobody's."""
    return np.unique(data.label[roles[data.label] == code])


def _deal_rows(
    data: Dataset, partitioner: Partitioner, nodes: int | None, need: Need, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[str]]:
    parts = partitioner(Items(data.label, data.groups), nodes, need.rows, rng)
    return parts, _names(parts, data.groups)


def _deal_classes(
    data: Dataset,
    partitioner: Partitioner,
    nodes: int | None,
    need: Need,
    roles: np.ndarray,
    rows_of: list[np.ndarray],
    rng: np.random.Generator,
) -> tuple[list[np.ndarray], list[str]]:
    """Whole base classes are dealt out, each with all its turns and rows."""
    train = _classes(data, roles, 0)
    bases, members = np.unique(data.base[train], return_inverse=True)
    sample = np.array([rows_of[c][0] for c in train[np.unique(members, return_index=True)[1]]])
    groups = {name: Group(g.code[sample], g.names) for name, g in data.groups.items() if _constant(g, rows_of, train)}
    cluster = groups[data.cluster].code if data.cluster in groups else np.zeros(len(bases), dtype=np.int64)
    turns = int(np.bincount(members).min())
    parts = partitioner(Items(cluster, groups), nodes, -(-need.classes // turns), rng)
    names = _names(parts, groups)
    rows = []
    for part in parts:
        mine = train[np.isin(members, part)]
        rows.append(np.sort(np.concatenate([rows_of[c] for c in mine])))
    return rows, names


def _constant(group: Group, rows_of: list[np.ndarray], classes: np.ndarray) -> bool:
    """True where all rows of a class share the group: an alphabet, not a drawer."""
    return all((group.code[rows_of[c]] == group.code[rows_of[c][0]]).all() for c in classes)


def _names(parts: list[np.ndarray], groups: dict[str, Group]) -> list[str]:
    """The natural names where every node is one group of some grouping, else "" for each."""
    for group in groups.values():
        codes = [np.unique(group.code[part]) for part in parts]
        if all(len(c) == 1 for c in codes) and len({int(c[0]) for c in codes}) == len(parts):
            return [group.names[int(c[0])] for c in codes]
    return [""] * len(parts)


def _shard(data: Dataset, rows: np.ndarray, node: int, name: str, role: str) -> Shard:
    rows = rows[np.argsort(data.label[rows], kind="stable")]
    target = None if data.target is None else data.target[rows]
    return Shard(node, name, role, data.x[rows], data.label[rows], target, rows)


def _own(shard: Shard, data: Dataset, rotate: float, relabel: bool, seed: int) -> Shard:
    rng = seeds.numpy_generator(seed, "own", shard.node)
    angle, order = float(rng.uniform(-rotate / 2, rotate / 2)), rng.permutation(len(data.classes))
    if rotate:
        if shard.x.ndim != 3:
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
            x=shard.x[sort], label=label[sort], row=shard.row[sort], labels=tuple(int(i) for i in order)
        )
    return shard


def _check(shards: list[Shard], data: Dataset, need: Need) -> None:
    """Raises Problem where a node is too poor for a task, or rows were lost or doubled (a bug of ours)."""
    for shard in shards:
        counts = np.unique(shard.label, return_counts=True)[1]
        if need.episodic and (len(counts) < need.classes or counts.min() < need.rows):
            have = f"{len(counts)} classes of {counts.min()} to {counts.max()} rows"
            raise Problem(
                f"a task needs {need.classes} classes of {need.rows} rows, {shard.name} has {have}",
                f"node {shard.node}",
                "lower task.way, task.shot or task.query, or make fewer nodes",
                CONFIG,
            )
        if not need.episodic and len(shard.label) < need.rows:
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

    left_out: turned copies of held-out classes, which no shard is to have with turn_held_out False.
    """
    times = np.zeros(len(data.label), dtype=np.int64)
    held = np.zeros(int(data.base.max()) + 1, dtype=bool)
    for shard in shards:
        np.add.at(times, shard.row, 1)
        if shard.role != "train":
            held[data.base[data.label[shard.row]]] = True
    spare = np.zeros(len(times), dtype=bool)
    if not data.turn_held_out:
        spare = (times == 0) & data.turned[data.label] & held[data.base[data.label]]
    return {
        **{role: sum(len(s.label) for s in shards if s.role == role) for role in ROLES},
        "total": len(times),
        "left_out": int(spare.sum()),
        "lost": int(((times == 0) & ~spare).sum()),
        "duplicated": int((times > 1).sum()),
    }
