"""Label skew by count: nodes that hold a few labels each."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.partition.partitioners.types import (
    Assignment,
    Items,
    Partitioner,
    at_least,
    lists,
    node_count,
    unnamed,
)

_TRADES = 20  # per pair of nodes; 5 suffice for the 90 ways to give 2 of 4 labels to 4 nodes (chi-square)


def shards(
    *,
    pieces: Annotated[int, Field(ge=1, description="Pieces of the sorted rows that each node gets.")] = 2,
    pure: Annotated[
        bool,
        Field(
            description="true: each piece holds one label, so a node has exactly `pieces` labels; false: pieces have "
            "equal size, and one may span two labels."
        ),
    ] = False,
) -> Partitioner:
    """Sort the items by label, cut them into pieces, and assign each node `pieces` of them at random.

    H. B. McMahan et al. (2017), Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS,
    https://arxiv.org/abs/1602.05629 (2 of 200 pieces of 300 digits: "pathological"). pure: as L. Collins et al. (2021),
    Exploiting Shared Representations for Personalized Federated Learning, ICML, https://arxiv.org/abs/2102.07078.
    We differ: where items do not divide evenly, sizes differ by at most one. With `pure`, frequent labels are cut into
    more pieces, which keeps piece sizes similar where labels are not equally common.
    """

    def assign(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = node_count(len(items.label), nodes, minimum)
        if pure:
            assignment = unnamed(lists(_pure(items.label, count, pieces, rng), count))
            return at_least(assignment, minimum, f"{count * pieces:,} single-label pieces")
        return unnamed(lists(_equal(items.label, count, pieces, rng), count))

    return assign


def _equal(label: np.ndarray, nodes: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """(m,) owner of each item, by pieces of equal size."""
    total, items = nodes * pieces, len(label)
    if items < total:
        raise _refused(
            f"{nodes:,} nodes with {pieces:,} pieces each need at least {total:,} items, but only {items:,} exist"
        )
    order = rng.permutation(total)  # in which pieces are assigned; the first of them are one larger
    size, owner = np.full(total, items // total), np.empty(total, dtype=np.int64)
    size[order[: items % total]] += 1
    owner[order] = np.arange(total) % nodes
    order = rng.permutation(items)
    found = np.empty(items, dtype=np.int64)
    found[order[np.argsort(label[order], kind="stable")]] = np.repeat(owner, size)
    return found


def _pure(label: np.ndarray, nodes: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """(m,) owner of each item, with `pieces` labels at each node."""
    members = lists(np.unique(label, return_inverse=True)[1])
    cuts = _cuts(np.array([len(m) for m in members]), nodes, pieces, rng)
    holders = lists(_labels(cuts, nodes, pieces, rng).ravel())
    owner = np.empty(len(label), dtype=np.int64)
    for items, places in zip(members, holders, strict=True):
        owner[rng.permutation(items)] = np.resize(rng.permutation(places // pieces), len(items))
    return owner


def _cuts(rows: np.ndarray, nodes: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """(L,) into how many pieces each label is cut, nodes * pieces in all. rows: (L,) rows of each label.

    The largest piece is as small as possible (Adams's apportionment: ceil(rows / size), ties at random).
    """
    total, labels = nodes * pieces, len(rows)
    if pieces > labels:
        raise _refused(f"a node cannot hold {pieces:,} labels: the data have only {labels:,}")
    if total < labels:
        raise _refused(f"{nodes:,} nodes with {pieces:,} labels each cannot hold all {labels:,} labels")
    most = np.minimum(rows, nodes)
    if most.sum() < total:
        raise _refused(
            f"{nodes:,} nodes with {pieces:,} labels each need {total:,} pieces, but the {labels:,} labels, the rarest "
            f"with {rows.min():,} rows, give at most {most.sum():,}"
        )
    low, high = 0.0, float(rows.max())  # piece sizes: too small, and large enough
    cuts = np.ones(labels, dtype=np.int64)
    for _ in range(64):
        size = (low + high) / 2
        tried = np.clip(np.ceil(rows / size), 1, most).astype(np.int64)
        if tried.sum() > total:
            low = size
        else:
            high, cuts = size, tried
    ready = rng.permutation(np.flatnonzero(cuts < most))
    best = ready[np.argsort(-(rows / cuts)[ready], kind="stable")]
    cuts[best[: total - cuts.sum()]] += 1
    return cuts


def _labels(cuts: np.ndarray, nodes: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """(nodes, pieces) distinct labels of each node; every such assignment is equally likely.

    Assigned in turn, then traded at random: two nodes pool the labels that only one of them has and divide them again
    (C. J. Carstens et al. 2018, Parallel and I/O-efficient Randomisation of Massive Networks using Global
    Curveball Trades, ESA, https://arxiv.org/abs/1804.08487).
    """
    order = rng.permutation(len(cuts))
    held = np.repeat(order, cuts[order]).reshape(pieces, nodes).T
    for _ in range(_TRADES if pieces > 1 else 1):
        held = rng.permutation(held)
        both = np.sort(held[: nodes // 2 * 2].reshape(-1, 2 * pieces), axis=1)
        key = rng.random(both.shape)
        twice = both[:, 1:] == both[:, :-1]
        key[:, :-1][twice], key[:, 1:][twice] = -1, 2  # both keep what both have
        both = np.take_along_axis(both, np.argsort(key, axis=1), axis=1)
        held[: nodes // 2 * 2] = both.reshape(-1, pieces)
    return held


def _refused(message: str) -> Problem:
    hint = "change partition.nodes or partition.pieces, or use partition.name dirichlet"
    return Problem(message, "partition.pieces", hint, CONFIG)
