"""Optimisers as pairs of pure functions: for the nodes' outer steps, for the server and for Reptile's inner loop.

All of them descend a direction: a gradient, Reptile's `meta - adapted`, or the server's `old - mean`, the
pseudo-gradient of FedOpt (Reddi et al., Adaptive Federated Optimization, ICLR 2021, https://arxiv.org/abs/2003.00295).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.schedules import Factor, constant
from metadist_cli.core.tree import Params

Lr = Annotated[float, Field(gt=0, description="Step size.")]
Beta = Annotated[float, Field(ge=0, lt=1, description="Decay rate of the moving average.")]


class Optimizer(NamedTuple):
    """A first-order optimiser; state, direction and params are trees, and nothing is changed in place.

    `step` is the global step for schedules (local steps on a node, rounds on the server), an int or a 0-d tensor.

    Attributes:
        init: init(params) -> state.
        update: update(direction, state, params, step) -> (params, state).
        toward: toward(target, state, params, step) -> (params, state): `update` with the direction `params - target`,
            written so that a full step returns the target's exact bits. `old - (old - new)` differs from `new` for 37%
            of float32 values.
    """

    init: Callable[[Params], Params]
    update: Callable[[Params, Params, Params, int | Tensor], tuple[Params, Params]]
    toward: Callable[[Params, Params, Params, int | Tensor], tuple[Params, Params]]


def _down(rate: float | Tensor, params: Tensor, direction: Tensor) -> Tensor:
    """params - rate * direction, in one pass if the rate is a Python number."""
    return params - rate * direction if isinstance(rate, Tensor) else torch.sub(params, direction, alpha=rate)


def _unbias(beta: float, count: Tensor) -> Tensor | float:
    """1 / (1 - beta**count), by expm1: in float32, 1 - 0.999 has a relative error of 3e-5 that early steps inherit."""
    return -1 / torch.expm1(count * math.log(beta)) if beta else 1.0


def _by_direction(init: Callable, update: Callable) -> Optimizer:
    def toward(target: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        return update(tree.apply(torch.sub, params, target), state, params, step)

    return Optimizer(init, update, toward)


def sgd(factor: Factor = constant, *, lr: Lr = 1.0) -> Optimizer:
    """Gradient descent; on the server with lr 1 it is FedAvg (McMahan et al. 2017, https://arxiv.org/abs/1602.05629)."""

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        rate = lr * factor(step)
        return tree.apply(partial(_down, rate), params, direction), state

    def toward(target: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        rate = lr * factor(step)
        return tree.apply(lambda p, t: (1 - rate) * p + rate * t, params, target), state

    return Optimizer(lambda params: {}, update, toward)


def momentum(factor: Factor = constant, *, lr: Lr = 0.1, beta: Beta = 0.9) -> Optimizer:
    """Heavy-ball momentum, m = beta m + d (Polyak 1964); on the server it is FedAvgM (Hsu et al. 2019)."""

    def init(params: Params) -> Params:
        return tree.prefixed(m=tree.apply(torch.zeros_like, params))

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        rate = lr * factor(step)
        m = tree.apply(lambda m, d: beta * m + d, tree.part(state, "m"), direction)
        return tree.apply(partial(_down, rate), params, m), tree.prefixed(m=m)

    return _by_direction(init, update)


def adam(
    factor: Factor = constant,
    *,
    lr: Lr = 1e-3,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    eps: Annotated[float, Field(gt=0, description="Added to the square root of the second moment.")] = 1e-8,
) -> Optimizer:
    """Adam with bias correction (Kingma and Ba, ICLR 2015, https://arxiv.org/abs/1412.6980, algorithm 1).

    On the server it is FedAdam; TensorFlow Federated's version omits the bias correction and starts v at eps squared.
    """

    def init(params: Params) -> Params:
        zeros = tree.apply(torch.zeros_like, params)
        any_leaf = next(iter(params.values()))
        return tree.prefixed(m=zeros, v=dict(zeros)) | {"count": any_leaf.new_zeros(())}

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        rate = lr * factor(step)
        count = state["count"] + 1
        m = tree.apply(lambda m, d: m + (1 - beta1) * (d - m), tree.part(state, "m"), direction)
        v = tree.apply(lambda v, d: v + (1 - beta2) * (d * d - v), tree.part(state, "v"), direction)
        scale1, scale2 = _unbias(beta1, count), _unbias(beta2, count)
        new = tree.apply(lambda p, m, v: p - rate * (m * scale1) / ((v * scale2).sqrt() + eps), params, m, v)
        return new, tree.prefixed(m=m, v=v) | {"count": count}

    return _by_direction(init, update)


def in_parts(optimizer: Optimizer, first: Callable[[str], bool]) -> Optimizer:
    """Split an optimiser into two with separate states and step counts.

    Args:
        optimizer: The optimiser for both parts.
        first: Whether the parameter of this name belongs to the first part.

    Returns:
        An optimiser whose state has the prefixes "first" and "rest".
    """

    def split(leaves: Params) -> tuple[Params, Params]:
        chosen = {k: v for k, v in leaves.items() if first(k)}
        return chosen, {k: v for k, v in leaves.items() if k not in chosen}

    def init(params: Params) -> Params:
        one, two = split(params)
        return tree.prefixed(first=optimizer.init(one), rest=optimizer.init(two))

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        (d1, d2), (p1, p2) = split(direction), split(params)
        p1, one = optimizer.update(d1, tree.part(state, "first"), p1, step)
        p2, two = optimizer.update(d2, tree.part(state, "rest"), p2, step)
        new = p1 | p2
        return {k: new[k] for k in params}, tree.prefixed(first=one, rest=two)

    return _by_direction(init, update)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "momentum": momentum, "adam": adam}
