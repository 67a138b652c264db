"""A federated round: which nodes take part, and how their updates become the next global model.

What the nodes do between the two is node_training.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from metadist_cli.core import seeds, tree
from metadist_cli.core.optimizers import Optimizer
from metadist_cli.core.tree import Params
from metadist_cli.federated.aggregators.types import Aggregator
from metadist_cli.federated.local_training import Algorithm
from metadist_cli.federated.updates import Updates
from metadist_cli.federated.uplink.types import Uplink, decode_all, payload_of

_OF_THE_SERVER = ("server/", "aggregator/")


def sample_nodes(seed: int, number: int, nodes: list[int], per_round: str | int | float) -> list[int]:
    """The nodes of a round, ascending: all, a count, or a fraction (at least 1), drawn by hash of seed and round."""
    size = count(len(nodes), per_round)
    if size == len(nodes):
        return nodes
    return sorted(nodes[i] for i in seeds.subset(seeds.key(seed, "nodes", number), of=len(nodes), size=size))


def count(nodes: int, per_round: str | int | float) -> int:
    """How many of the training nodes take part in a round."""
    if per_round == "all":
        return nodes
    return min(nodes, per_round if isinstance(per_round, int) else max(1, round(float(per_round) * nodes)))


def shared_part(params: Params) -> Params:
    """The leaves of a global model that go to the nodes: all but the server's own state."""
    return {k: v for k, v in params.items() if not k.startswith(_OF_THE_SERVER)}


class Combining(NamedTuple):
    """Updates that have been added so far. used: the sum of their nodes' weights."""

    work: Any
    used: int


class Server(NamedTuple):
    """How the updates of a round become the next global model: decoded, aggregated, and a server optimizer's step.

    A global model has the shared leaves ("meta/", "stats/", "outer/", "control/") and the server's state ("server/" of
    the optimizer, "aggregator/").
    """

    uplink: Uplink
    aggregator: Aggregator
    optimizer: Optimizer

    def start(self, shared: Params) -> Params:
        """Round 0: the initial shared leaves with the server's initial state."""
        state = self.aggregator.init(shared)
        return shared | tree.prefixed(server=self.optimizer.init(tree.part(shared, "meta")), aggregator=state)

    def payload(self, old: Params) -> Params:
        """The names, shapes and dtypes of what a node sends."""
        return payload_of(self.uplink, shared_part(old))

    def open(self, old: Params) -> Combining:
        """No update yet. old: the global model that the nodes started from."""
        return Combining(self.aggregator.open(shared_part(old), tree.part(old, "aggregator")), 0)

    def add(self, so_far: Combining, old: Params, updates: Updates) -> Combining:
        """The updates of more nodes, as the uplink encoded them; nodes come in ascending order."""
        decoded = updates._replace(shared=decode_all(self.uplink, updates.shared, shared_part(old)))
        used = so_far.used + sum(map(self.aggregator.weight, updates.weights))
        return Combining(self.aggregator.add(so_far.work, decoded), used)

    def close(self, so_far: Combining, old: Params, number: int, rows: Sequence[int] = ()) -> Params:
        """The global model after round `number`: a step from the old parameters towards the combined ones.

        Statistics and the nodes' optimizer state are taken over as combined; SCAFFOLD's control variate moves by the
        participants' share of all nodes' weights. Server sgd with lr 1 returns the aggregate's own bits.

        Args:
            so_far: all updates of the round.
            old: the global model that the nodes started from.
            number: of the round, from 1 on.
            rows: of every training node; () where all took part.
        """
        combined, state = self.aggregator.close(so_far.work)
        share = so_far.used / (sum(map(self.aggregator.weight, rows)) or so_far.used)
        before = tree.part(old, "control")
        control = tree.apply(lambda c, new: (1 - share) * c + share * new, before, tree.part(combined, "control"))
        meta, moments = self.optimizer.toward(
            tree.part(combined, "meta"), tree.part(old, "server"), tree.part(old, "meta"), number - 1
        )
        return combined | tree.prefixed(meta=meta, control=control, server=moments, aggregator=state)


def first_models(algorithm: Algorithm, server: Server, generator: torch.Generator) -> tuple[Params, Params]:
    """(round 0's global model, what every node keeps before its first round)."""
    shared, own = algorithm.start(generator)
    return server.start(shared), own | tree.prefixed(uplink=server.uplink.init(shared))
