"""Label skew by the number of labels: nodes that hold a few labels each."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, enough, lists, possible, unnamed

_TRADES = 20  # per pair of nodes; 5 are enough for the 90 ways to give 2 of 4 labels to 4 nodes (chi-square)


def shards(
    *,
    pieces: Annotated[int, Field(ge=1, description="pieces of the sorted rows that a node gets")] = 2,
    pure: Annotated[
        bool,
        Field(
            description="true: a piece is of one label, and a node has exactly so many labels; false: all pieces have "
            "the same size, and one may hold the end of a label and the beginning of the next"
        ),
    ] = False,
) -> Partitioner:
    """The items sorted by label, cut into pieces, and each node gets so many pieces at random.

    H. B. McMahan et al. (2017), Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS,
    https://arxiv.org/abs/1602.05629 (2 of 200 pieces of 300 digits: "pathological"). pure: as L. Collins et al. (2021),
    Exploiting Shared Representations for Personalized Federated Learning, ICML, https://arxiv.org/abs/2102.07078.
    Where we differ: items that do not divide evenly are spread so that sizes differ by one at most; pure pieces are as
    many for a label as its items ask for, which keeps their sizes near each other where labels are not equally common.
    """

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = possible(len(items.label), nodes, minimum)
        if pure:
            dealt = unnamed(lists(_pure(items.label, count, pieces, rng), count))
            return enough(dealt, minimum, f"{count * pieces:,} pieces of one label each")
        return unnamed(lists(_equal(items.label, count, pieces, rng), count))

    return deal


def _equal(label: np.ndarray, nodes: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """(m,) owner of each item, by pieces of equal size."""
    total, items = nodes * pieces, len(label)
    if items < total:
        raise _refused(f"{nodes:,} nodes of {pieces:,} pieces need {total:,} items or more; there are {items:,}")
    turn = rng.permutation(total)  # pieces are dealt in this order, and the first of them are one larger
    size, owner = np.full(total, items // total), np.empty(total, dtype=np.int64)
    size[turn[: items % total]] += 1
    owner[turn] = np.arange(total) % nodes
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
    """(L,) into how many pieces each label of so many rows is cut, nodes * pieces in all.

    The largest piece is as small as may be (Adams's apportionment: ceil(rows / size), ties by lot). Raises Problem.
    """
    total, labels = nodes * pieces, len(rows)
    if pieces > labels:
        raise _refused(f"a node cannot have {pieces:,} labels, there are {labels:,}")
    if total < labels:
        raise _refused(f"{nodes:,} nodes of {pieces:,} labels have no place for all {labels:,} labels")
    most = np.minimum(rows, nodes)
    if most.sum() < total:
        raise _refused(
            f"{nodes:,} nodes of {pieces:,} labels need {total:,} pieces; the {labels:,} labels, the rarest with "
            f"{rows.min():,} rows, make {most.sum():,} at most"
        )
    low, high = 0.0, float(rows.max())  # sizes of a piece that are too small, and large enough
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
    """(nodes, pieces) labels of each node, all different; every way to do that is equally likely.

    Dealt in turn, then traded at random: two nodes throw together the labels that only one of them has, and share them
    out anew (C. J. Carstens et al. 2018, Parallel and I/O-efficient Randomisation of Massive Networks using Global
    Curveball Trades, ESA, https://arxiv.org/abs/1804.08487).
    """
    order = rng.permutation(len(cuts))
    held = np.repeat(order, cuts[order]).reshape(pieces, nodes).T
    for _ in range(_TRADES if pieces > 1 else 1):
        held = rng.permutation(held)
        both = np.sort(held[: nodes // 2 * 2].reshape(-1, 2 * pieces), axis=1)
        key = rng.random(both.shape)
        twice = both[:, 1:] == both[:, :-1]
        key[:, :-1][twice], key[:, 1:][twice] = -1, 2  # what both have, both keep
        both = np.take_along_axis(both, np.argsort(key, axis=1), axis=1)
        held[: nodes // 2 * 2] = both.reshape(-1, pieces)
    return held


def _refused(message: str) -> Problem:
    hint = "change partition.nodes or partition.pieces, or take partition.name dirichlet"
    return Problem(message, "partition.pieces", hint, CONFIG)
