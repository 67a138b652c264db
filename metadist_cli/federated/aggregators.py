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
from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.tree import Params

_NODES = 32  # summed at a time, in the caches: 7 us a node of 9,610 values; 16 at a time 8 us, one by one 12 us
_VALUES = 1 << 22  # of 8 bytes at a time, or those of one node


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


class _Sums:
    """Weighted sums of leaves in float64, of so many nodes at a time that no way of cutting them changes a bit."""

    def __init__(self, like: Params):
        self._like = like
        self._at_once = max(1, min(_NODES, _VALUES // tree.size(like)))
        self._sums = {k: torch.zeros(v.numel(), dtype=torch.float64) for k, v in like.items()}
        self._held = {k: v.new_empty(self._at_once, len(v)) for k, v in self._sums.items()}
        self._weights: list[float] = []

    def add(self, leaves: Params, weights: list[int]) -> None:
        """Leaves of as many nodes as there are weights."""
        begin = 0
        while begin < len(weights):
            at = len(self._weights)
            end = min(len(weights), begin + self._at_once - at)
            for name, held in self._held.items():
                held[at : at + end - begin] = leaves[name][begin:end].reshape(end - begin, -1)
            self._weights += weights[begin:end]
            begin = end
            if len(self._weights) == self._at_once:
                self._settle()

    def _settle(self) -> None:
        weights = torch.tensor(self._weights, dtype=torch.float64)
        for name, held in self._held.items():
            self._sums[name].addmv_(held[: len(weights)].t(), weights)
        self._weights = []

    def over(self, total: int) -> Params:
        """The sums, divided."""
        self._settle()
        return {k: (self._sums[k] / total).reshape(v.shape).to(v.dtype) for k, v in self._like.items()}


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
    """Weighted mean: sums in float64, node after node in groups of one size, integer weights, one division, one cast.

    So neither blocks nor files nor processes can change a bit of it.
    """

    def weight_of(rows: int) -> int:
        return rows if weight_by == "examples" else 1

    def combine(updates: Iterable[Updates]) -> Params:
        total, some = 0, None
        for come in updates:
            some = some or _Sums(tree.apply(Tensor.clone, tree.index(come.shared, 0)))
            weights = [weight_of(rows) for rows in come.weights]
            some.add(come.shared, weights)
            total += sum(weights)
        return some.over(total) if some else {}

    return Aggregator(combine, weight_of)


AGGREGATORS: dict[str, Callable[..., Aggregator]] = {"mean": mean}
