"""Losses to minimise, each with the metric that reports show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(NamedTuple):
    """A training loss and its metric, for outputs `out` and targets `y` of n examples.

    Classification: out (n, W) logits, y (n,) int64 classes. Regression: out and y (n, D).

    Attributes:
        metric: Name of the metric.
        value: value(out, y) -> 0-d mean loss, differentiable.
        score: score(out, y) -> (n,) metric of each example.
    """

    metric: str
    value: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    return _row_losses(out, y)[0].mean()


def _balanced_cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """Every class that occurs in the rows weighs the same, as scikit-learn's class_weight="balanced"."""
    losses, right = _row_losses(out, y)
    rows = right.sum(-2)  # (W,)
    weight = 1 / (rows.clamp(min=1) * (rows > 0).sum(-1, keepdim=True))
    return (losses * (right * weight[..., None, :]).sum(-1)).sum(-1)


def _row_losses(out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The negative log probability of each row's class (n,), and where that class is (n, W)."""
    # F.cross_entropy's nll_loss took 7% of a conv4 meta-step under vmap; F.one_hot fails inside vmap(grad)
    right = y[..., None] == torch.arange(out.shape[-1], device=out.device)
    return out.logsumexp(-1) - torch.where(right, out, 0.0).sum(-1), right


def in_units(loss: Loss, deviation: Sequence[float]) -> Loss:
    """The loss for targets that are standardised by this deviation: its metric is in the targets' own units.

    Args:
        loss: of a regression, unless the deviation is empty.
        deviation: of each of the D targets; () where they are not standardised.
    """
    if not deviation:
        return loss
    unit = torch.tensor(deviation)
    return loss._replace(score=lambda out, y: loss.score(out * unit.to(out), y * unit.to(out)))


CROSS_ENTROPY = Loss("accuracy", _cross_entropy, lambda out, y: (out.argmax(-1) == y).float())


def balanced_score(out: Tensor, y: Tensor) -> Tensor:
    """(n,) whose mean is the balanced accuracy: rows of a class share the weight of one class."""
    right = y[..., None] == torch.arange(out.shape[-1], device=out.device)
    rows = right.sum(-2)
    weight = len(y) / (rows.clamp(min=1) * (rows > 0).sum(-1, keepdim=True))
    return (out.argmax(-1) == y) * (right * weight).sum(-1)


BALANCED_CROSS_ENTROPY = CROSS_ENTROPY._replace(value=_balanced_cross_entropy)
SQUARED_ERROR = Loss("mse", F.mse_loss, lambda out, y: ((out - y) ** 2).mean(-1))
LOSSES = {"classification": CROSS_ENTROPY, "regression": SQUARED_ERROR}
