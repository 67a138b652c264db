"""Uplinks: the contract of every one, chains against plain loops, and payloads that fit their template."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from maths import rand, same
from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.tree import Params
from metadist_cli.federated.uplink import UPLINKS
from metadist_cli.federated.uplink.types import IDENTITY, Uplink, chain, decode_all, encode_all, payload_of

CASES: list[tuple[str, dict[str, Any]]] = [("none", {})]
START = {"meta/w": rand(3, 2, seed=1).float(), "stats/n": torch.tensor(7), "control/w": rand(3, 2, seed=2).float()}


def updates_of(nodes: int) -> Params:
    """New leaves of some nodes, with an axis of nodes."""
    moved = {k: v + rand(nodes, *v.shape, seed=3).float() for k, v in START.items() if v.is_floating_point()}
    return moved | {"stats/n": torch.arange(nodes) + 7}


def halving() -> Uplink:
    """Sends half of a change and remembers the other half, with a coin that its seed tosses."""

    def encode(update: Params, start: Params, state: Params, seed: Tensor) -> tuple[Params, Params]:
        change = update["meta/w"] - start["meta/w"] + state["rest"]
        return update | {"meta/w": start["meta/w"] + change / 2, "coin": seed % 2}, {"rest": change / 2}

    def decode(payload: Params, start: Params) -> Params:
        return {k: v for k, v in payload.items() if k != "coin"}

    return Uplink(lambda start: {"rest": torch.zeros_like(start["meta/w"])}, encode, decode)


def first_row() -> Uplink:
    """Sends the first row of the change, in half of its bytes."""

    def encode(update: Params, start: Params, state: Params, seed: Tensor) -> tuple[Params, Params]:
        row = ((update["meta/w"] - start["meta/w"])[0] * 2**10).round().to(torch.int32)
        return {k: v for k, v in update.items() if k != "meta/w"} | {"row": row}, state

    def decode(payload: Params, start: Params) -> Params:
        change = torch.cat([payload["row"][None] / 2**10, torch.zeros_like(start["meta/w"][1:])])
        return {k: v for k, v in payload.items() if k != "row"} | {"meta/w": start["meta/w"] + change}

    return Uplink(lambda start: {}, encode, decode)


def test_every_uplink_of_the_registry_is_tested() -> None:
    assert {name for name, _ in CASES} == set(UPLINKS)


@pytest.mark.parametrize(
    "uplink",
    [*(UPLINKS[name](**options) for name, options in CASES), halving(), first_row(), chain([halving(), first_row()])],
    ids=[*(name for name, _ in CASES), "halving", "first row", "chain"],
)
def test_an_uplink_keeps_its_contract(uplink: Uplink) -> None:
    """Over two rounds: payloads fit the template, states and updates keep their shapes, nodes are as one by one."""
    nodes, node_seeds = 4, torch.arange(4)
    states = tree.expand(uplink.init(START), nodes)
    template = payload_of(uplink, START)
    for _ in range(2):
        updates = updates_of(nodes)
        payloads, after = encode_all(uplink, updates, START, states, node_seeds)
        decoded = decode_all(uplink, payloads, START)
        for i in range(nodes):
            payload, state = uplink.encode(tree.index(updates, i), START, tree.index(states, i), node_seeds[i])
            assert {k: (v.shape, v.dtype) for k, v in payload.items()} == {
                k: (v.shape, v.dtype) for k, v in template.items()
            }
            assert same(payload, tree.index(payloads, i))
            assert same(state, tree.index(after, i))
            assert same(uplink.decode(payload, START), tree.index(decoded, i))
        assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in states.items()}
        assert {k: (v.shape[1:], v.dtype) for k, v in decoded.items()} == {
            k: (v.shape, v.dtype) for k, v in START.items()
        }
        states = after


def test_a_chain_is_one_after_the_other() -> None:
    one, two = halving(), first_row()
    both, update, seed = chain([one, two]), tree.index(updates_of(1), 0), torch.tensor(3)
    middle, remembered = one.encode(update, START, one.init(START), seed)
    reference = payload_of(one, START)
    last, _ = two.encode(middle, reference, {}, seed)
    payload, state = both.encode(update, START, both.init(START), seed)
    assert same(payload, last)
    assert same(tree.part(state, "first"), remembered)
    assert same(both.decode(payload, START), one.decode(two.decode(last, reference), START))
    assert payload["coin"] == 1


def test_chains_of_nothing_are_the_identity() -> None:
    assert chain([]) is IDENTITY
    assert chain([IDENTITY, UPLINKS["none"]()]) is IDENTITY
    one = halving()
    assert chain([IDENTITY, one]) is one


def test_the_identity_sends_the_very_tensors() -> None:
    updates = updates_of(3)
    payloads, _ = encode_all(IDENTITY, updates, START, {}, torch.arange(3))
    assert all(payloads[k] is updates[k] for k in updates)
    assert all(decode_all(IDENTITY, payloads, START)[k] is updates[k] for k in updates)
