"""Meta-SGD: MAML that learns a learning rate for every weight, and with it the update direction.

Li, Zhou, Chen, Li, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, https://arxiv.org/abs/1707.09835,
algorithm 1. Nodes share and average the rates along with the weights, which doubles the bytes of a round. We differ:
all rates start at `inner_lr`, where the paper draws them at random.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import Optimizer, sgd
from metadist_cli.core.tree import Params
from metadist_cli.learners.inner_loop import InnerLoop, InnerRates, by_descent
from metadist_cli.learners.types import InnerClip, InnerLr, InnerSteps, Learner
from metadist_cli.models.types import Model


def meta_sgd(
    model: Model,
    loss: Loss,
    *,
    first_order: Annotated[
        bool, Field(description="Treat inner gradients as constants; the rates are still learned.")
    ] = False,
    inner_lr: InnerLr = 0.1,
    inner_steps: InnerSteps = 1,
    clip: InnerClip = None,
) -> Learner:
    """meta_gradient = d loss(query; params - rates * gradient) / d (params, rates)."""

    def init(params: Params) -> Params:
        return {k: torch.full_like(v, inner_lr) for k, v in params.items()}

    def optimizer(rates: Params) -> Optimizer:
        def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
            return tree.apply(lambda p, d, rate: p - rate * d, params, direction, rates), state

        return sgd()._replace(update=update)

    inner = InnerLoop(model, loss, sgd(lr=inner_lr), first_order=first_order, clip=clip)
    text = f"meta-sgd, {'first' if first_order else 'second'} order"
    return by_descent(inner, inner_steps, text, InnerRates(init, optimizer))
