"""Heterogeneity: what each node holds, and how far that is from what all training nodes hold together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.data.types import Dataset
from metadist_cli.partition.held_out import ROLES
from metadist_cli.partition.shards import Shard

_BINS = 10
_SIZES = 256  # node sizes for which `chance` is computed; those between are off by at most 1% (measured)


class Composition(NamedTuple):
    """The rows of N nodes by kind: by class (in the data set's numbering), or by range of a regression target.

    Attributes:
        kinds: (K,) names.
        bins: True where kinds are ranges of the target.
        name: (N,) node names.
        role: (N,) "train", "validation" or "test".
        rows: (N,) rows of each node.
        classes: (N,) classes of each node.
        angle: (N,) degrees by which a node's images are rotated.
        renumbered: True where nodes number the classes differently.
        node, kind, count: (cells,) node, kind and rows of each non-empty cell, sorted by node.
    """

    kinds: tuple[str, ...]
    bins: bool
    name: Sequence[str]
    role: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    angle: np.ndarray
    renumbered: bool
    node: np.ndarray
    kind: np.ndarray
    count: np.ndarray


class Skew(NamedTuple):
    """How heterogeneous N nodes are, each (N,).

    Attributes:
        entropy: of the node's distribution over kinds, in bits.
        distance: total variation distance (half the sum of absolute differences) between the node's distribution and
            that of all training nodes' rows: 0 identical, 1 disjoint.
        chance: the distance to expect of as many rows drawn at random.
    """

    entropy: np.ndarray
    distance: np.ndarray
    chance: np.ndarray


def of_shards(shards: Sequence[Shard], data: Dataset) -> Composition:
    """The composition of new shards."""
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
    """The composition that a partition manifest records.

    Args:
        manifest: {"classes": names, "nodes": [{"name", "role", "rows", "classes": [[class, rows], ...]}, ...]}; with
            "bins" (names) and each node's "bins" where `with_skew` has written them.
    """
    nodes, bins = manifest["nodes"], "bins" in manifest
    key = "bins" if bins else "classes"
    role, name = np.array([n["role"] for n in nodes]), [n["name"] for n in nodes]
    rows, classes = np.array([n["rows"] for n in nodes]), np.array([len(n["classes"]) for n in nodes])
    angle, renumbered = np.array([n.get("angle", 0.0) for n in nodes]), any("labels" in n for n in nodes)
    owner = np.repeat(np.arange(len(nodes)), [len(n[key]) for n in nodes])
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(n[key] for n in nodes)), dtype=np.int64)
    kind, count = flat.reshape(-1, 2).T
    if renumbered and not bins:  # invert: from each node's numbers back to the classes
        same = range(len(manifest["classes"]))
        kind = np.argsort(np.array([n.get("labels", same) for n in nodes]), axis=1)[owner, kind]
    kinds = tuple(manifest[key])
    return Composition(kinds, bins, name, role, rows, classes, angle, renumbered, owner, kind, count)


def with_skew(manifest: dict[str, Any], composition: Composition, skew: Skew) -> dict[str, Any]:
    """The manifest with each node's entropy and distance and, for a regression, its rows by target range."""
    nodes = [node | own for node, own in zip(manifest["nodes"], _rounded(skew), strict=True)]
    if not composition.bins:
        return manifest | {"nodes": nodes}
    for node in nodes:
        node["bins"] = []
    for owner, kind, count in zip(
        composition.node.tolist(), composition.kind.tolist(), composition.count.tolist(), strict=True
    ):
        nodes[owner]["bins"].append([kind, count])
    return manifest | {"nodes": nodes, "bins": list(composition.kinds)}


def label_skew(composition: Composition) -> Skew:
    """The heterogeneity of a composition."""
    nodes, total = len(composition.rows), composition.rows[composition.role == "train"].sum()
    trained = composition.role[composition.node] == "train"
    whole = (
        np.bincount(composition.kind[trained], weights=composition.count[trained], minlength=len(composition.kinds))
        / total
    )
    share = composition.count / composition.rows[composition.node]
    entropy = np.abs(np.bincount(composition.node, weights=-share * np.log2(share), minlength=nodes))  # no minus zero
    # Differences sum to zero, so half the absolute sum is the positive part, which only a node's own kinds contribute.
    distance = np.bincount(composition.node, weights=np.maximum(share - whole[composition.kind], 0), minlength=nodes)
    part = (
        np.where(composition.role == "train", -1, 1) * composition.rows / total
    )  # the whole includes a training node's own rows
    return Skew(entropy, distance, _by_chance(composition.rows, whole) * np.sqrt(1 + part))


def summary(composition: Composition, skew: Skew) -> dict[str, dict[str, Any]]:
    """By role: number of nodes, [min, median, max] of rows and of classes, and row-weighted means of the skew."""
    found = {}
    for role in ROLES:
        of = composition.role == role
        if of.any():
            means = {
                key: round(float(np.average(f[of], weights=composition.rows[of])), 4)
                for key, f in skew._asdict().items()
            }
            found[role] = {
                "nodes": int(of.sum()),
                "rows": _span(composition.rows[of]),
                "classes": _span(composition.classes[of]),
            } | means
    return found


def per_node(composition: Composition, skew: Skew) -> list[dict[str, Any]]:
    """Name, role, rows, classes and skew of each node."""
    nodes = zip(
        composition.name,
        composition.role.tolist(),
        composition.rows.tolist(),
        composition.classes.tolist(),
        _rounded(skew),
        strict=True,
    )
    return [
        {"node": i, "name": name, "role": role, "rows": rows, "classes": classes, **own}
        for i, (name, role, rows, classes, own) in enumerate(nodes)
    ]


def _rounded(skew: Skew) -> Iterator[dict[str, float]]:
    for entropy, distance in zip(skew.entropy.tolist(), skew.distance.tolist(), strict=True):
        yield {"entropy": round(entropy, 4), "distance": round(distance, 4)}


def _span(counts: np.ndarray) -> list[int]:
    return [int(counts.min()), int(np.median(counts)), int(counts.max())]


def _cells(owner: np.ndarray, kind: np.ndarray, kinds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(node, kind, count) of the non-empty cells, sorted by node, then kind."""
    cell, count = np.unique(owner * kinds + kind, return_counts=True)
    return cell // kinds, cell % kinds, count


def _edges(target: np.ndarray) -> np.ndarray:
    """Values that cut the targets into ten parts of equal size, or fewer where many targets are equal."""
    edges = np.unique(np.quantile(target, np.arange(1, _BINS) / _BINS))
    return edges[edges < target.max()]


def _ranges(edges: np.ndarray) -> tuple[str, ...]:
    said = [f"{float(f'{edge:.3g}'):,.10g}" for edge in edges]  # three digits, without exponents
    if not said:
        return ("all",)
    return (f"to {said[0]}", *(f"{a} to {b}" for a, b in pairwise(said)), f"above {said[-1]}")


def _by_chance(rows: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(N,) expected distance between shares (K,) and the empirical shares of `rows` (N,) rows drawn from them.

    It is the sum of the mean absolute deviations of K binomials, by de Moivre's formula
    (P. Diaconis, S. Zabell 1991, Closed Form Summation for Classical Distributions, Statistical Science 6(3)).
    """
    sizes, p = np.unique(rows), share[(share > 0) & (share < 1)]
    if len(sizes) > _SIZES:
        sizes = np.unique(np.geomspace(sizes[0], sizes[-1], _SIZES).round().astype(np.int64))
    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, sizes[-1] + 1)))])  # log factorials
    n = sizes[:, None]
    v = np.minimum(np.floor(n * p).astype(np.int64) + 1, n)
    at_v = np.exp(log[n] - log[v] - log[n - v] + v * np.log(p) + (n - v) * np.log1p(-p))
    return np.interp(rows, sizes, (v * (1 - p) * at_v).sum(1) / sizes)
