"""Label skew of adjustable strength."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, lists, node_count, unnamed


def dirichlet(
    *,
    alpha: Annotated[
        float,
        Field(
            ge=1e-9, le=1e6, description="Concentration: at 0.1 nodes differ strongly, at 1 moderately, at 100 hardly."
        ),
    ] = 0.3,
) -> Partitioner:
    """Split each label's items over the nodes by shares drawn from a symmetric Dirichlet distribution.

    T.-M. H. Hsu, H. Qi, M. Brown (2019), Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification, https://arxiv.org/abs/1909.06335 (the idea); M. Yurochkin et al. (2019), Bayesian Nonparametric
    Federated Learning of Neural Networks, ICML, https://arxiv.org/abs/1905.12022 (shares per label, as here).
    We differ: common code redraws until every node has at_least, which may never end; here nodes below the minimum take
    items from the largest. Shares are rounded with a random offset, so that rounding favours no node.
    """

    def assign(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = node_count(len(items.label), nodes, minimum)
        owner = np.empty(len(items.label), dtype=np.int64)
        for members in lists(np.unique(items.label, return_inverse=True)[1]):
            cuts = np.floor(np.cumsum(_shares(alpha, count, rng)) * len(members) + rng.random())
            cuts[-1] = len(members)  # the shares may sum to 1 - 1e-16
            sizes = np.diff(np.minimum(cuts, len(members)).astype(np.int64), prepend=0)
            owner[rng.permutation(members)] = np.repeat(np.arange(count), sizes)
        _top_up(owner, items.label, count, minimum, rng)
        return unnamed(lists(owner, count))

    return assign


def _shares(alpha: float, nodes: int, rng: np.random.Generator) -> np.ndarray:
    """(nodes,) Dirichlet shares, in logarithms: Gamma(a) = Gamma(a + 1) U**(1/a) underflows below a = 0.01."""
    log = np.log(rng.standard_gamma(alpha + 1, nodes)) - rng.standard_exponential(nodes) / alpha
    share = np.exp(log - log.max())
    return share / share.sum()


def _top_up(owner: np.ndarray, label: np.ndarray, nodes: int, minimum: int, rng: np.random.Generator) -> None:
    """Give nodes below the minimum what they lack, item by item from the node that is largest at the time; in place.

    An item's rank is its position in its node's random order, so the items of highest rank are those that the largest
    nodes can spare. They are handed over sorted by label, so that a small node receives few labels, in keeping with
    alpha.
    """
    sizes = np.bincount(owner, minlength=nodes)
    short = np.maximum(minimum - sizes, 0)
    order = rng.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    spare = order[np.argsort(-rank, kind="stable")[: short.sum()]]
    owner[spare[np.argsort(label[spare], kind="stable")]] = np.repeat(np.arange(nodes), short)
