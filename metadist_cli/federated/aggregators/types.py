"""What an aggregation rule is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metadist_cli.core.tree import Params
from metadist_cli.federated.updates import Updates, joined


def stateless(shared: Params) -> Params:
    """`init` of a rule that remembers nothing between rounds."""
    return {}


class Aggregator(NamedTuple):
    """A rule that makes one update of many: a fold over the nodes, with a state that outlives the round.

    A rule that streams, as the mean does, holds one block of nodes at a time. `over_all` makes a rule of a function
    that needs all updates at once, as a median does. Leaf names begin with their kind, so that a rule can treat each
    kind in its own way: "meta/" (parameters), "stats/" (running statistics), "outer/" (averaged optimizer state) and
    "control/" (SCAFFOLD's control variate). The server optimizer takes its step on the result.

    Attributes:
        init: (shared) -> state, before round 1. The state is part of every global checkpoint ("aggregator/..."), so it
            survives a kill, and `metadist aggregate` finds it on any machine.
        open: (old, state) -> work. old: the shared leaves that the nodes started from.
        add: (work, updates) -> work. Called with decoded updates in the order of node numbers.
        close: (work) -> (combined, state). combined: leaves with the names, shapes and dtypes of `old`.
        weight: (rows) -> weight of a node with that many rows, a positive integer.
    """

    init: Callable[[Params], Params]
    open: Callable[[Params, Params], Any]
    add: Callable[[Any, Updates], Any]
    close: Callable[[Any], tuple[Params, Params]]
    weight: Callable[[int], int]


def over_all(
    apply: Callable[[Updates, Params, Params], tuple[Params, Params]],
    init: Callable[[Params], Params] = stateless,
    weight: Callable[[int], int] = lambda rows: rows,
) -> Aggregator:
    """The rule that applies a function to the updates of all nodes of a round at once, which holds them in memory.

    Args:
        apply: (updates, old, state) -> (combined, state).
        init: as in `Aggregator`.
        weight: as in `Aggregator`.
    """
    return Aggregator(
        init,
        open=lambda old, state: ((), old, state),
        add=lambda work, updates: ((*work[0], updates), *work[1:]),
        close=lambda work: apply(joined(work[0]), *work[1:]),
        weight=weight,
    )
