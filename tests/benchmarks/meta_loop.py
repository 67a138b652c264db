"""MAML as a plain loop: task by task, by autograd. It imports nothing of metadist, which it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {"relu": F.relu, "softplus": F.softplus}
Weights = dict[str, Tensor]


class Inner(Protocol):
    """What the loop must know of the work."""

    @property
    def steps(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def first_order(self) -> bool: ...


class Task(NamedTuple):
    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


def forward(p: Weights, x: Tensor, activation: str = "relu") -> Tensor:
    """The model of metadist, in the usual operations."""
    act = ACTIVATIONS[activation]
    if "layer0.weight" in p:
        return F.linear(act(F.linear(x, p["layer0.weight"], p["layer0.bias"])), p["head.weight"], p["head.bias"])
    x = x[:, None]
    for i in range(4):
        x = F.conv2d(x, p[f"conv{i}.weight"], p[f"conv{i}.bias"], stride=2, padding=1)
        scale = p.get(f"norm{i}.scale")
        scale = x.new_ones(x.shape[1]) if scale is None else scale  # without one its second derivative fails
        x = act(F.batch_norm(x, None, None, scale, p[f"norm{i}.shift"], True))
    return F.linear(x.mean((2, 3)), p["head.weight"], p["head.bias"])


def descend(fast: Weights, x: Tensor, y: Tensor, lr: float, second: bool, activation: str = "relu") -> Weights:
    """One inner step. second: keep what its own derivative needs."""
    loss = F.cross_entropy(forward(fast, x, activation), y)
    slope = torch.autograd.grad(loss, list(fast.values()), create_graph=second)
    return {k: v - lr * d for (k, v), d in zip(fast.items(), slope, strict=True)}


def accumulate(w: Inner, params: Weights, tasks: Sequence[Task], activation: str = "relu") -> None:
    """The meta-gradient of a step goes into params' `grad`, task by task."""
    for task in tasks:
        fast = params
        for _ in range(w.steps):
            fast = descend(fast, task.support_x, task.support_y, w.lr, not w.first_order, activation)
        (F.cross_entropy(forward(fast, task.query_x, activation), task.query_y) / len(tasks)).backward()
