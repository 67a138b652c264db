"""Label skew of any strength."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, lists, possible, unnamed


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

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = possible(len(items.label), nodes, minimum)
        owner = np.empty(len(items.label), dtype=np.int64)
        for members in lists(np.unique(items.label, return_inverse=True)[1]):
            cuts = np.floor(np.cumsum(_shares(alpha, count, rng)) * len(members) + rng.random())
            cuts[-1] = len(members)  # the sum of the shares may be 1 - 1e-16
            sizes = np.diff(np.minimum(cuts, len(members)).astype(np.int64), prepend=0)
            owner[rng.permutation(members)] = np.repeat(np.arange(count), sizes)
        _top_up(owner, items.label, count, minimum, rng)
        return unnamed(lists(owner, count))

    return deal


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
