"""Schedules: the factor on a step size as a function of the global step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Factor = Callable[[int | Tensor], float | Tensor]
"""(global step, an int or a 0-d tensor) -> the factor on the step size."""

_FALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "linear": lambda part: 1 - part,
    "cosine": lambda part: (1 + torch.cos(math.pi * part)) / 2,
}


def constant(step: int | Tensor) -> float:
    """The factor 1 at every step."""
    return 1.0


def schedule(name: str, warmup: int, until: int, end: float) -> Factor:
    """Build the factor that rises linearly to 1 during the warm-up, then falls.

    The cosine is that of I. Loshchilov, F. Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017,
    https://arxiv.org/abs/1608.03983, equation 5, without restarts.

    Args:
        name: "constant", "linear" or "cosine".
        warmup: steps of the warm-up; the first of them has the factor 1 / warmup.
        until: the step from which on the factor is `end`.
        end: the factor after the fall.
    """
    if name == "constant" and not warmup:
        return constant

    def factor(step: int | Tensor) -> Tensor:
        now = torch.as_tensor(step).float()
        fallen = _FALLS[name](((now - warmup) / max(until - warmup, 1)).clamp(0, 1))
        return (end + (1 - end) * fallen) * ((now + 1) / max(warmup, 1)).clamp(max=1)

    return factor
