"""What an uplink is: the one place where an update leaves a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli.core import tree
from metadist_cli.core.tree import Params


class Uplink(NamedTuple):
    """Three pure functions of ONE node; vmap adds nodes, so shapes may not depend on values.

    `encode` runs where the node trains, right after its last step; only the payload travels: between processes, in
    node files, to `metadist aggregate`. `decode` runs before the updates are combined.

    Attributes:
        init: (start) -> state. What a node remembers between the rounds in which it takes part (error feedback, say).
            The state stays at the node, like everything that a node keeps.
        encode: (update, start, state, seed) -> (payload, state). update: the node's new shared leaves ("meta/",
            "stats/", "control/", "outer/"). start: the global ones that it started from, same names and shapes. seed:
            0-d int64, a function of the experiment's seed, the round and the node. Payload and state may hold the
            types that `core.formats.pack` writes: float16 to float64, int8 to int64, uint8 and bool.
        decode: (payload, start) -> update.
    """

    init: Callable[[Params], Params]
    encode: Callable[[Params, Params, Params, Tensor], tuple[Params, Params]]
    decode: Callable[[Params, Params], Params]


IDENTITY = Uplink(
    init=lambda start: {},
    encode=lambda update, start, state, seed: (update, state),
    decode=lambda payload, start: payload,
)
"""Sends the update as it is, bit for bit."""


def chain(uplinks: Sequence[Uplink]) -> Uplink:
    """Uplinks one after the other: each encodes the payload of the one before it.

    The second's `start` is the first's payload of an update that changes nothing.
    """
    return reduce(_then, (one for one in uplinks if one is not IDENTITY), IDENTITY)


def _then(first: Uplink, second: Uplink) -> Uplink:
    if first is IDENTITY:
        return second

    def unchanged(start: Params) -> Params:
        return first.encode(start, start, first.init(start), _SEED)[0]

    def init(start: Params) -> Params:
        return tree.prefixed(first=first.init(start), then=second.init(unchanged(start)))

    def encode(update: Params, start: Params, state: Params, seed: Tensor) -> tuple[Params, Params]:
        payload, one = first.encode(update, start, tree.part(state, "first"), seed)
        payload, two = second.encode(payload, unchanged(start), tree.part(state, "then"), seed)
        return payload, tree.prefixed(first=one, then=two)

    def decode(payload: Params, start: Params) -> Params:
        return first.decode(second.decode(payload, unchanged(start)), start)

    return Uplink(init, encode, decode)


_SEED = torch.zeros((), dtype=torch.int64)


def payload_of(uplink: Uplink, start: Params) -> Params:
    """One node's payload of an update that changes nothing: the names, shapes and dtypes that a node file must have."""
    return uplink.encode(start, start, uplink.init(start), _SEED)[0]


def encode_all(
    uplink: Uplink, updates: Params, start: Params, states: Params, node_seeds: Tensor
) -> tuple[Params, Params]:
    """`encode` for many nodes: every leaf of updates, states and the results has a leading axis of nodes.

    node_seeds: (N,) int64.
    """
    if uplink is IDENTITY:
        return updates, states
    return vmap(uplink.encode, in_dims=(0, None, 0, 0))(updates, start, states, node_seeds)


def decode_all(uplink: Uplink, payloads: Params, start: Params) -> Params:
    """`decode` for many nodes: every leaf of the payloads and of the result has a leading axis of nodes."""
    return payloads if uplink is IDENTITY else vmap(uplink.decode, in_dims=(0, None))(payloads, start)
