"""Quantity skew: nodes that differ in how much they have, not in what."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, lists, possible, unnamed


def quantity(
    *,
    sizes: Annotated[
        Literal["lognormal", "power_law"],
        Field(description="distribution of the nodes' sizes; power_law has few, very large nodes"),
    ] = "lognormal",
    spread: Annotated[
        float,
        Field(
            gt=0,
            le=10,
            description="standard deviation of the logarithm of a size: 0.3 alike, 1 unlike, 2 very unlike nodes; of a "
            "power law 1 / its exponent",
        ),
    ] = 1.0,
) -> Partitioner:
    """Sizes from a lognormal distribution or a power law (Pareto's), and every item to a node at random.

    T. Li et al. (2020), Federated Optimization in Heterogeneous Networks, MLSys, https://arxiv.org/abs/1812.06127
    (lognormal, spread 2, and a power law); Q. Li et al. (2022), Federated Learning on Non-IID Data Silos, ICDE,
    https://arxiv.org/abs/2102.02079 (quantity skew as a kind of its own).
    The total is given, so what is drawn are proportions; nodes that would fall below the minimum are lifted to it, and
    all others keep theirs among each other.
    """

    def deal(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        total = len(items.label)
        count = possible(total, nodes, minimum)
        log = rng.standard_normal(count) if sizes == "lognormal" else rng.standard_exponential(count)
        above = _above(np.exp(spread * (log - log.max())), total, minimum)
        spare = total - count * minimum
        ends = np.floor(np.cumsum(above) + rng.random())
        ends[-1] = spare  # the sum may be off by rounding
        size = minimum + np.diff(np.minimum(ends, spare).astype(np.int64), prepend=0)
        return unnamed(lists(rng.permutation(np.repeat(np.arange(count), size)), count))

    return deal


def _above(weight: np.ndarray, total: int, minimum: int) -> np.ndarray:
    """(N,) floats, how much max(minimum, s * weight) is above the minimum, with the one s that makes `total` of it."""
    falling = np.sort(weight)[::-1]
    heavy = np.arange(1, len(weight) + 1)  # if the so many heaviest are above the minimum, s is
    scale = (total - (len(weight) - heavy) * minimum) / np.cumsum(falling)
    found = scale[np.flatnonzero(scale * falling >= minimum)[-1]]
    return np.maximum(found * weight - minimum, 0)
