"""How unlike the nodes are: what each one holds, and how far that is from what all training nodes hold together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.data.types import Dataset
from metadist_cli.partition.held_out import ROLES
from metadist_cli.partition.shards import Shard

_BINS = 10
_SIZES = 256  # sizes of nodes for which chance is reckoned; those between are off by 1% at most (measured)


class Composition(NamedTuple):
    """Rows of N nodes by kind: by class, whatever number a node gives it, or by the value of a regression's target.

    kinds: their names. bins: whether they are ranges of the target. name, role: (N,) texts; rows, classes: (N,) how
    many; angle: (N,) degrees that a node's images are turned by. node, kind, count: of each cell that is not empty, by
    node.
    """

    kinds: tuple[str, ...]
    bins: bool
    name: Sequence[str]
    role: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    angle: np.ndarray
    renumbered: bool  # whether nodes number the classes in ways of their own
    node: np.ndarray
    kind: np.ndarray
    count: np.ndarray


class Skew(NamedTuple):
    """Figures of N nodes, each (N,).

    entropy: of the node's shares of the kinds, in bits. distance: total variation, half the sum of the absolute
    differences, between these shares and those of the rows of all training nodes: 0 alike, 1 nothing in common.
    chance: the distance to be expected of as many rows drawn at random.
    """

    entropy: np.ndarray
    distance: np.ndarray
    chance: np.ndarray


def of_shards(shards: Sequence[Shard], data: Dataset) -> Composition:
    """What freshly dealt shards hold."""
    rows, row = np.array([len(s.row) for s in shards]), np.concatenate([s.row for s in shards])
    role = np.array([s.role for s in shards])
    owner = np.repeat(np.arange(len(shards)), rows)
    cells = _cells(owner, data.label[row], len(data.classes))
    classes, kinds, bins = np.bincount(cells[0], minlength=len(shards)), data.classes, data.target is not None
    if data.target is not None:
        target = data.target[row, 0]
        edges = _edges(target[role[owner] == "train"])
        kinds = _ranges(edges)
        cells = _cells(owner, np.searchsorted(edges, target), len(kinds))
    angle, renumbered = np.array([s.angle for s in shards]), any(s.labels is not None for s in shards)
    return Composition(kinds, bins, [s.name for s in shards], role, rows, classes, angle, renumbered, *cells)


def of_manifest(manifest: Mapping[str, Any]) -> Composition:
    """What a partition manifest says: {"classes": names, "nodes": [{"name", "role", "rows", "classes": [[id, rows]]}]}.

    With `bins` (names) and `bins` of each node where `with_skew` has written them.
    """
    nodes, bins = manifest["nodes"], "bins" in manifest
    key = "bins" if bins else "classes"
    role, name = np.array([n["role"] for n in nodes]), [n["name"] for n in nodes]
    rows, classes = np.array([n["rows"] for n in nodes]), np.array([len(n["classes"]) for n in nodes])
    angle, renumbered = np.array([n.get("angle", 0.0) for n in nodes]), any("labels" in n for n in nodes)
    owner = np.repeat(np.arange(len(nodes)), [len(n[key]) for n in nodes])
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(n[key] for n in nodes)), dtype=np.int64)
    kind, count = flat.reshape(-1, 2).T
    if renumbered and not bins:  # a node's number of each class -> the class of each number
        same = range(len(manifest["classes"]))
        kind = np.argsort(np.array([n.get("labels", same) for n in nodes]), axis=1)[owner, kind]
    kinds = tuple(manifest[key])
    return Composition(kinds, bins, name, role, rows, classes, angle, renumbered, owner, kind, count)


def with_skew(manifest: dict[str, Any], held: Composition, skew: Skew) -> dict[str, Any]:
    """The manifest with the entropy and the distance of each node and, for a regression, the ranges of its targets."""
    nodes = [node | figures for node, figures in zip(manifest["nodes"], _figures(skew), strict=True)]
    if not held.bins:
        return manifest | {"nodes": nodes}
    for node in nodes:
        node["bins"] = []
    for owner, kind, count in zip(held.node.tolist(), held.kind.tolist(), held.count.tolist(), strict=True):
        nodes[owner]["bins"].append([kind, count])
    return manifest | {"nodes": nodes, "bins": list(held.kinds)}


def label_skew(held: Composition) -> Skew:
    """The figures of what nodes hold."""
    nodes, total = len(held.rows), held.rows[held.role == "train"].sum()
    trained = held.role[held.node] == "train"
    whole = np.bincount(held.kind[trained], weights=held.count[trained], minlength=len(held.kinds)) / total
    share = held.count / held.rows[held.node]
    entropy = np.abs(np.bincount(held.node, weights=-share * np.log2(share), minlength=nodes))  # no minus zero
    # Differences sum to zero, so half of the absolute ones are those above zero, which a node's own kinds alone have.
    distance = np.bincount(held.node, weights=np.maximum(share - whole[held.kind], 0), minlength=nodes)
    part = np.where(held.role == "train", -1, 1) * held.rows / total  # the whole holds a training node's own rows
    return Skew(entropy, distance, _by_chance(held.rows, whole) * np.sqrt(1 + part))


def summary(held: Composition, skew: Skew) -> dict[str, dict[str, Any]]:
    """By role: number of nodes, [least, median, most] rows and classes, and the figures' means weighted by rows."""
    found = {}
    for role in ROLES:
        of = held.role == role
        if of.any():
            means = {
                key: round(float(np.average(f[of], weights=held.rows[of])), 4) for key, f in skew._asdict().items()
            }
            found[role] = {
                "nodes": int(of.sum()),
                "rows": _span(held.rows[of]),
                "classes": _span(held.classes[of]),
            } | means
    return found


def per_node(held: Composition, skew: Skew) -> list[dict[str, Any]]:
    """Name, role, rows, classes and figures of each node."""
    nodes = zip(held.name, held.role.tolist(), held.rows.tolist(), held.classes.tolist(), _figures(skew), strict=True)
    return [
        {"node": i, "name": name, "role": role, "rows": rows, "classes": classes, **figures}
        for i, (name, role, rows, classes, figures) in enumerate(nodes)
    ]


def _figures(skew: Skew) -> Iterator[dict[str, float]]:
    for entropy, distance in zip(skew.entropy.tolist(), skew.distance.tolist(), strict=True):
        yield {"entropy": round(entropy, 4), "distance": round(distance, 4)}


def _span(counts: np.ndarray) -> list[int]:
    return [int(counts.min()), int(np.median(counts)), int(counts.max())]


def _cells(owner: np.ndarray, kind: np.ndarray, kinds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(node, kind, count) of the cells that are not empty, by node, then kind."""
    cell, count = np.unique(owner * kinds + kind, return_counts=True)
    return cell // kinds, cell % kinds, count


def _edges(target: np.ndarray) -> np.ndarray:
    """Values that cut the targets into ten parts of equally many rows, or fewer where many are equal."""
    edges = np.unique(np.quantile(target, np.arange(1, _BINS) / _BINS))
    return edges[edges < target.max()]


def _ranges(edges: np.ndarray) -> tuple[str, ...]:
    said = [f"{float(f'{edge:.3g}'):,.10g}" for edge in edges]  # three digits, and no power of ten
    if not said:
        return ("all",)
    return (f"to {said[0]}", *(f"{a} to {b}" for a, b in pairwise(said)), f"above {said[-1]}")


def _by_chance(rows: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(N,) expected distance from (K,) shares of as many rows drawn from them.

    That is the sum of the mean absolute deviations of K binomials, for which there is de Moivre's formula
    (P. Diaconis, S. Zabell 1991, Closed Form Summation for Classical Distributions, Statistical Science 6(3)).
    """
    sizes, p = np.unique(rows), share[(share > 0) & (share < 1)]
    if len(sizes) > _SIZES:
        sizes = np.unique(np.geomspace(sizes[0], sizes[-1], _SIZES).round().astype(np.int64))
    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, sizes[-1] + 1)))])  # of the factorials
    n = sizes[:, None]
    v = np.minimum(np.floor(n * p).astype(np.int64) + 1, n)
    at_v = np.exp(log[n] - log[v] - log[n - v] + v * np.log(p) + (n - v) * np.log1p(-p))
    return np.interp(rows, sizes, (v * (1 - p) * at_v).sum(1) / sizes)
