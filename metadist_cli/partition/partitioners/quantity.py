"""Quantity skew: nodes that differ in size, not in label distribution."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, lists, node_count, unnamed


def quantity(
    *,
    sizes: Annotated[
        Literal["lognormal", "power_law"],
        Field(description="Distribution of node sizes; power_law has a few very large nodes."),
    ] = "lognormal",
    spread: Annotated[
        float,
        Field(
            gt=0,
            le=10,
            description="Standard deviation of the log size (0.3: similar sizes, 1: uneven, 2: very uneven); for "
            "power_law the inverse of its exponent.",
        ),
    ] = 1.0,
) -> Partitioner:
    """Draw node sizes from a lognormal or a power-law (Pareto) distribution and assign items at random.

    T. Li et al. (2020), Federated Optimization in Heterogeneous Networks, MLSys, https://arxiv.org/abs/1812.06127
    (lognormal, spread 2, and a power law); Q. Li et al. (2022), Federated Learning on Non-IID Data Silos, ICDE,
    https://arxiv.org/abs/2102.02079 (quantity skew as a category of its own).
    The total is fixed, so the draw gives proportions. Nodes that would fall below the minimum are raised to it; the
    others keep their proportions to each other.
    """

    def assign(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        total = len(items.label)
        count = node_count(total, nodes, minimum)
        log = rng.standard_normal(count) if sizes == "lognormal" else rng.standard_exponential(count)
        above = _above(np.exp(spread * (log - log.max())), total, minimum)
        spare = total - count * minimum
        ends = np.floor(np.cumsum(above) + rng.random())
        ends[-1] = spare  # the sum may be off by a rounding error
        size = minimum + np.diff(np.minimum(ends, spare).astype(np.int64), prepend=0)
        return unnamed(lists(rng.permutation(np.repeat(np.arange(count), size)), count))

    return assign


def _above(weight: np.ndarray, total: int, minimum: int) -> np.ndarray:
    """(N,) floats: max(minimum, s * weight) - minimum, for the one s with which the maxima sum to `total`."""
    falling = np.sort(weight)[::-1]
    heavy = np.arange(1, len(weight) + 1)  # with this many above the minimum, s is
    scale = (total - (len(weight) - heavy) * minimum) / np.cumsum(falling)
    found = scale[np.flatnonzero(scale * falling >= minimum)[-1]]
    return np.maximum(found * weight - minimum, 0)
