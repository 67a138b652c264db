"""How the nodes' updates become one: the middle of a round.

The common published mistake that must not come back: one shared model passed through all nodes in turn and every weight
divided by their number. Here every node starts from the same parameters, and what is averaged are K results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from metadist_cli.tree import Params


class NodeUpdate(NamedTuple):
    """What one node returns from a round.

    shared: "meta/", "stats/", "control/" and, with outer_state average, "outer/" leaves; own: what stays at the node.
    weight: the node's rows, from the partition manifest, never from the node's own word.
    metrics: means over the node's steps and tasks.
    """

    node: int
    shared: Params
    own: Params
    weight: int
    metrics: dict[str, float]


class Aggregator(NamedTuple):
    """combine: updates in the order of node numbers -> the combined `shared`; a mean streams, a median would stack.

    weight: of a node with so many rows.
    """

    combine: Callable[[Iterable[NodeUpdate]], Params]
    weight: Callable[[int], int]


def mean(
    *,
    weight_by: Annotated[
        Literal["examples", "uniform"], Field(description="Weigh a node by its rows, or every node alike.")
    ] = "examples",
) -> Aggregator:
    """Weighted mean: a strict fold in float64 in node order, integer weights, one division, one cast.

    So neither blocks nor files nor processes can change a bit of it.
    """

    def weight_of(rows: int) -> int:
        return rows if weight_by == "examples" else 1

    def combine(updates: Iterable[NodeUpdate]) -> Params:
        total = 0
        sums: Params = {}
        kinds = {}
        for update in updates:
            weight = weight_of(update.weight)
            total += weight
            for name, value in update.shared.items():
                if name not in sums:
                    sums[name], kinds[name] = torch.zeros_like(value, dtype=torch.float64), value.dtype
                sums[name].add_(value, alpha=weight)
        return {name: (value / total).to(kinds[name]) for name, value in sums.items()}

    return Aggregator(combine, weight_of)


AGGREGATORS: dict[str, Callable[..., Aggregator]] = {"mean": mean}
