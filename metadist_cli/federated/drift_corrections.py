"""Drift corrections: they keep a node's local steps from drifting away from the other nodes.

Nodes whose data differ pull apart, and more so the more local steps they take. A correction belongs to the round, so it
works with every learner and every outer optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.tree import Params


class Drift(NamedTuple):
    """Four pure functions of ONE node.

    init(params) -> (shared, own): variables that are averaged like the parameters, and those that stay at the node.
    open(params, shared, own) -> work: what goes through the round; params are the global ones.
    correct(direction, params, work) -> (direction, work), before every step of the outer optimiser.
    close(work) -> (shared, own).
    """

    init: Callable[[Params], tuple[Params, Params]]
    open: Callable[[Params, Params, Params], Params]
    correct: Callable[[Params, Params, Params], tuple[Params, Params]]
    close: Callable[[Params], tuple[Params, Params]]


def none() -> Drift:
    """Plain local steps."""
    return Drift(
        lambda params: ({}, {}),
        lambda params, shared, own: {},
        lambda direction, params, work: (direction, work),
        lambda work: ({}, {}),
    )


def fedprox(*, mu: Annotated[float, Field(ge=0, description="Weight of half the squared distance.")] = 0.1) -> Drift:
    """FedProx: half the squared distance from the round's global parameters is added to every local loss.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, Federated Optimization in Heterogeneous Networks, MLSys 2020,
    https://arxiv.org/abs/1812.06127, algorithm 2.
    """

    def correct(direction: Params, params: Params, work: Params) -> tuple[Params, Params]:
        return tree.apply(lambda d, p, start: d + mu * (p - start), direction, params, work), work

    return none()._replace(open=lambda params, shared, own: params, correct=correct)


def scaffold() -> Drift:
    """SCAFFOLD: each step is corrected by how the node's usual direction differs from everybody's.

    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, SCAFFOLD: Stochastic Controlled Averaging for Federated Learning,
    ICML 2020, https://arxiv.org/abs/1910.06378, algorithm 1, option II. Its control variate (x - y_i) / (K lr) - c +
    c_i is the mean of the node's own directions along its steps; written so, any outer optimiser will do. A node sends
    c + (its change); close_round moves the global variate by the mean of these, with the weights of the parameters
    (theirs is not weighted), times the weight of those that took part in that of all.
    """

    def init(params: Params) -> tuple[Params, Params]:
        zeros = tree.apply(torch.zeros_like, params)
        return zeros, dict(zeros)

    def open_(params: Params, shared: Params, own: Params) -> Params:
        zeros = tree.apply(torch.zeros_like, params)
        return tree.prefixed(shared=shared, own=own, sum=zeros) | {"steps": next(iter(params.values())).new_zeros(())}

    def correct(direction: Params, params: Params, work: Params) -> tuple[Params, Params]:
        shared, own = tree.part(work, "shared"), tree.part(work, "own")
        total = tree.apply(torch.add, tree.part(work, "sum"), direction)
        better = tree.apply(lambda d, c, c_i: d - c_i + c, direction, shared, own)
        return better, work | tree.prefixed(sum=total) | {"steps": work["steps"] + 1}

    def close(work: Params) -> tuple[Params, Params]:
        shared, own, steps = tree.part(work, "shared"), tree.part(work, "own"), work["steps"]
        mean = {k: _mean(v, steps, own[k]) for k, v in tree.part(work, "sum").items()}
        return tree.apply(lambda c, new, old: c + (new - old), shared, mean, own), mean

    return Drift(init, open_, correct, close)


def _mean(total: Tensor, steps: Tensor, old: Tensor) -> Tensor:
    """The mean of `steps` directions, or the old value if there were none; steps may have a leading axis of nodes."""
    count = steps.reshape(*steps.shape, *(1,) * (total.ndim - steps.ndim))
    return torch.where(count > 0, total / count.clamp(min=1), old)


DRIFTS: dict[str, Callable[..., Drift]] = {"none": none, "fedprox": fedprox, "scaffold": scaffold}
