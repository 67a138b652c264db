"""What nodes return from a round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch

from metadist_cli.core import tree
from metadist_cli.core.tree import Params


class Updates(NamedTuple):
    """The updates of some nodes, side by side: every leaf has a leading axis of nodes.

    shared: what the nodes send. Before the uplink has encoded it and after it has decoded it, these are the nodes' new
      parameters: "meta/", "stats/", "control/" and, with outer_state average, "outer/" leaves. In between, and so in
      node files and in messages between processes, it is the uplink's payload.
    own: what stays at the nodes: "node/", "mine/", "uplink/" and the leaves that `personal` keeps.
    weights: the nodes' rows, from the partition manifest, never from a node's own header.
    metrics: by name, each node's mean over its steps and tasks.
    """

    nodes: list[int]
    shared: Params
    own: Params
    weights: list[int]
    metrics: dict[str, list[float]]

    def take(self, places: list[int]) -> Updates:
        """The updates at these places, in the order of `places`."""
        at = torch.tensor(places, dtype=torch.int64)

        def some(values: list[Any]) -> list[Any]:
            return [values[i] for i in places]

        shared, own = ({k: v[at] for k, v in leaves.items()} for leaves in (self.shared, self.own))
        metrics = {name: some(values) for name, values in self.metrics.items()}
        return Updates(some(self.nodes), shared, own, some(self.weights), metrics)


def joined(parts: Sequence[Updates]) -> Updates:
    """Several updates as one, in their order."""
    if len(parts) == 1:
        return parts[0]

    def all_of(values: Iterable[list[Any]]) -> list[Any]:
        return list(chain.from_iterable(values))

    shared, own = tree.join([p.shared for p in parts]), tree.join([p.own for p in parts])
    metrics = {name: all_of(p.metrics[name] for p in parts) for name in parts[0].metrics}
    return Updates(all_of(p.nodes for p in parts), shared, own, all_of(p.weights for p in parts), metrics)
