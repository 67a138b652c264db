"""Who gets what: ways to deal the items of a data set out to nodes."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from metadist_cli.datasets.types import Group
from metadist_cli.errors import CONFIG, Problem


class Items(NamedTuple):
    """What is dealt out, m of them: rows (local tasks) or whole base classes (episodic tasks)."""

    label: np.ndarray  # (m,) int64, class of the row, or cluster of the base class (0 everywhere if it has none)
    groups: dict[str, Group]  # natural groups, one code an item


# (items, nodes, minimum, generator) -> for each node its items, sorted; every item once, every node >= minimum items
Partitioner = Callable[[Items, int | None, int, np.random.Generator], list[np.ndarray]]


def iid() -> Partitioner:
    """Every item to a node at random; the sizes differ by one at most."""

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> list[np.ndarray]:
        count = _possible(len(items.label), nodes, minimum)
        return _lists(rng.permutation(np.arange(len(items.label)) % count), count)

    return deal


def dirichlet(
    *,
    alpha: Annotated[
        float,
        Field(ge=1e-9, le=1e6, description="concentration: 0.1 very unlike nodes, 1 unlike, 100 nearly alike"),
    ] = 0.3,
) -> Partitioner:
    """Each label's items by shares over the nodes drawn from a symmetric Dirichlet distribution.

    T.-M. H. Hsu, H. Qi, M. Brown (2019), Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification, https://arxiv.org/abs/1909.06335 (the idea); M. Yurochkin et al. (2019), Bayesian Nonparametric
    Federated Learning of Neural Networks, ICML, https://arxiv.org/abs/1905.12022 (shares per label, as here).
    Where we differ: common code draws again until every node has enough, which may never end; here nodes below the
    minimum take items from the richest. And shares are cut at a random offset, so that rounding favours no node.
    """

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> list[np.ndarray]:
        count = _possible(len(items.label), nodes, minimum)
        owner = np.empty(len(items.label), dtype=np.int64)
        for members in _lists(np.unique(items.label, return_inverse=True)[1]):
            cuts = np.floor(np.cumsum(_shares(alpha, count, rng)) * len(members) + rng.random())
            cuts[-1] = len(members)  # the sum of the shares may be 1 - 1e-16
            sizes = np.diff(np.minimum(cuts, len(members)).astype(np.int64), prepend=0)
            owner[rng.permutation(members)] = np.repeat(np.arange(count), sizes)
        _top_up(owner, items.label, count, minimum, rng)
        return _lists(owner, count)

    return deal


def by_class() -> Partitioner:
    """Whole labels dealt in turn: no two nodes share a label, or, with more nodes than labels, each node has one."""

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> list[np.ndarray]:
        count = _possible(len(items.label), nodes, minimum)
        members = _lists(np.unique(items.label, return_inverse=True)[1])
        owner = np.empty(len(items.label), dtype=np.int64)
        for turn, label in enumerate(rng.permutation(len(members))):
            sharers = np.arange(turn % count, count, len(members))  # one node unless there are more nodes than labels
            owner[rng.permutation(members[label])] = np.resize(sharers, len(members[label]))
        return _enough(_lists(owner, count), minimum, f"{len(members):,} labels dealt whole")

    return deal


def natural(
    *,
    by: Annotated[str, Field(description="group of the data set that makes a node, for example alphabet or drawer")],
) -> Partitioner:
    """One node a natural group; with fewer nodes whole groups are merged, at random, to sizes as even as may be."""

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> list[np.ndarray]:
        if by not in items.groups:
            known = ", ".join(sorted(items.groups))
            hint = f"groups here: {known}" if known else "this data set has no natural groups for this task"
            raise Problem(f"there is no group {by!r} to partition by", "partition.by", hint, CONFIG)
        members = _lists(np.unique(items.groups[by].code, return_inverse=True)[1])
        count = len(members) if nodes is None else nodes
        if count > len(members):
            raise Problem(
                f"{count:,} nodes asked for, but {by!r} has only {len(members):,} groups",
                "partition.nodes",
                f"ask for at most {len(members):,} nodes, or leave partition.nodes out: one node a group",
                CONFIG,
            )
        _possible(len(items.label), count, minimum)
        if count < len(members):
            members = _merged(members, count, rng)
        return _enough(members, minimum, f"{by!r} groups dealt whole")

    return deal


PARTITIONERS: dict[str, Callable[..., Partitioner]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "by_class": by_class,
    "natural": natural,
}


def _possible(items: int, nodes: int | None, minimum: int) -> int:
    """The number of nodes; Problem where it is missing or the items cannot give each node the minimum."""
    if nodes is None:
        raise Problem("the number of nodes is missing", "partition.nodes", "set partition.nodes", CONFIG)
    if items < nodes * minimum:
        raise Problem(
            f"{nodes:,} nodes need at least {minimum:,} each, {nodes * minimum:,} in all; there are {items:,}",
            "partition.nodes",
            f"ask for at most {items // minimum:,} nodes, or for smaller tasks",
            CONFIG,
        )
    return nodes


def _enough(dealt: list[np.ndarray], minimum: int, how: str) -> list[np.ndarray]:
    sizes = np.array([len(d) for d in dealt])
    if sizes.min(initial=minimum) < minimum:
        raise Problem(
            f"{how} leave {np.sum(sizes < minimum):,} of {len(dealt):,} nodes with fewer than the {minimum:,} they need"
            f" (the poorest has {sizes.min():,})",
            "partition",
            "ask for fewer nodes or smaller tasks, or take partition.name iid or dirichlet",
            CONFIG,
        )
    return dealt


def _lists(owner: np.ndarray, nodes: int | None = None) -> list[np.ndarray]:
    """(m,) owner of each item -> per owner its items, ascending."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=nodes or 0)).tolist()
    return [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _shares(alpha: float, nodes: int, rng: np.random.Generator) -> np.ndarray:
    """(nodes,) Dirichlet shares by logarithms: Gamma(a) = Gamma(a + 1) U**(1/a), which underflows below a = 0.01."""
    log = np.log(rng.standard_gamma(alpha + 1, nodes)) - rng.standard_exponential(nodes) / alpha
    share = np.exp(log - log.max())
    return share / share.sum()


def _top_up(owner: np.ndarray, label: np.ndarray, nodes: int, minimum: int, rng: np.random.Generator) -> None:
    """Give nodes below the minimum what they lack, item by item from whichever node is then the richest; in place.

    An item's rank is its place in its node's random order, so the items of highest rank are those that the richest
    nodes can spare. They change hands sorted by label: a poor node then holds few labels, as alpha wants it to.
    """
    sizes = np.bincount(owner, minlength=nodes)
    short = np.maximum(minimum - sizes, 0)
    order = rng.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    spare = order[np.argsort(-rank, kind="stable")[: short.sum()]]
    owner[spare[np.argsort(label[spare], kind="stable")]] = np.repeat(np.arange(nodes), short)


def _merged(members: list[np.ndarray], nodes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Groups merged to fewer nodes: the largest first, each to the smallest node so far (Graham 1969)."""
    shuffled = [members[i] for i in rng.permutation(len(members))]
    heap = [(0, node) for node in range(nodes)]
    parts: list[list[np.ndarray]] = [[] for _ in range(nodes)]
    for group in sorted(shuffled, key=len, reverse=True):
        size, node = heap[0]
        parts[node].append(group)
        heapq.heapreplace(heap, (size + len(group), node))
    return [np.sort(np.concatenate(part)) for part in parts]
