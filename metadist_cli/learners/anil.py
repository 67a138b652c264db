"""ANIL: MAML that adapts only the output layer in the inner loop.

Raghu, Raghu, Bengio, Vinyals, Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML, ICLR
2020, https://arxiv.org/abs/1909.09157, section 4. The features get their gradient from the query loss through the
adapted head.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import sgd
from metadist_cli.learners.inner_loop import InnerLoop, by_descent
from metadist_cli.learners.types import InnerClip, InnerLr, InnerSteps, Learner
from metadist_cli.models.types import HEAD, Model


def anil(
    model: Model,
    loss: Loss,
    *,
    first_order: Annotated[bool, Field(description="Omit the derivative through the inner loop.")] = False,
    inner_lr: InnerLr = 0.1,
    inner_steps: InnerSteps = 5,
    clip: InnerClip = None,
) -> Learner:
    """meta_gradient = d loss(query; meta with its output layer adapted to the support) / d meta."""
    inner = InnerLoop(model, loss, sgd(lr=inner_lr), lambda name: name.startswith(HEAD), first_order, clip=clip)
    return by_descent(inner, inner_steps, f"anil, {'first' if first_order else 'second'} order")
