"""How the nodes' updates become one: the middle of a round.

The common published mistake that must not come back: one shared model passed through all nodes in turn and every weight
divided by their number. Here every node starts from the same parameters, and what is averaged are K results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field

from metadist_cli import tree
from metadist_cli.tree import Params

_ROWS = 16  # nodes cast to float64 at a time, in the caches: 7 us a node of 9,610 values; 348 at a time, 20 us


class Updates(NamedTuple):
    """What some nodes return from a round, side by side: leaves have a leading axis of as many nodes.

    shared: "meta/", "stats/", "control/" and, with outer_state average, "outer/" leaves; own: what stays at the node.
    weights: the nodes' rows, from the partition manifest, never from a node's own word.
    metrics: by name, each node's mean over its steps and tasks.
    """

    nodes: list[int]
    shared: Params
    own: Params
    weights: list[int]
    metrics: dict[str, list[float]]

    def take(self, places: list[int]) -> Updates:
        """Those at these places, in their order."""
        at = torch.tensor(places, dtype=torch.int64)

        def some(values: list[Any]) -> list[Any]:
            return [values[i] for i in places]

        shared, own = ({k: v[at] for k, v in leaves.items()} for leaves in (self.shared, self.own))
        metrics = {name: some(values) for name, values in self.metrics.items()}
        return Updates(some(self.nodes), shared, own, some(self.weights), metrics)


def together(parts: Sequence[Updates]) -> Updates:
    """One after the other, as one."""
    if len(parts) == 1:
        return parts[0]

    def joined(values: Iterable[list[Any]]) -> list[Any]:
        return list(chain.from_iterable(values))

    shared, own = tree.join([p.shared for p in parts]), tree.join([p.own for p in parts])
    metrics = {name: joined(p.metrics[name] for p in parts) for name in parts[0].metrics}
    return Updates(joined(p.nodes for p in parts), shared, own, joined(p.weights for p in parts), metrics)


class Aggregator(NamedTuple):
    """combine: updates in the order of node numbers -> the combined `shared`; a mean streams, a median would stack.

    weight: of a node with so many rows.
    """

    combine: Callable[[Iterable[Updates]], Params]
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

    def combine(updates: Iterable[Updates]) -> Params:
        total, like, places = 0, {}, {}
        sums = rows = torch.zeros(0, dtype=torch.float64)
        for some in updates:
            if not like:
                like = tree.index(some.shared, 0)
                sums = torch.zeros(tree.size(like), dtype=torch.float64)
                rows = sums.expand(_ROWS, -1).clone()
                places = dict(zip(like, rows.split([leaf.numel() for leaf in like.values()], 1), strict=True))
            for at in range(0, len(some.nodes), _ROWS):
                weights = some.weights[at : at + _ROWS]
                for name, place in places.items():
                    place[: len(weights)] = some.shared[name][at : at + _ROWS].reshape(len(weights), -1)
                for row, count in zip(rows, weights, strict=False):
                    total += weight_of(count)
                    sums.add_(row, alpha=weight_of(count))
        parts = (sums / total).split([leaf.numel() for leaf in like.values()])
        return {k: part.reshape(v.shape).to(v.dtype) for part, (k, v) in zip(parts, like.items(), strict=True)}

    return Aggregator(combine, weight_of)


AGGREGATORS: dict[str, Callable[..., Aggregator]] = {"mean": mean}
