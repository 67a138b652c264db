"""Ordinary supervised training on the node's rows; averaged over nodes this is FedAvg.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient Learning of Deep Networks from Decentralized
Data, AISTATS 2017, https://arxiv.org/abs/1602.05629, algorithm 1. It adapts to a new task by gradient descent from the
averaged model, so that its results compare with the meta-learners' after the same adaptation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from torch import Tensor

from metadist_cli.core.gradients import grad_and_value
from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import sgd
from metadist_cli.core.tree import Params
from metadist_cli.learners.inner_loop import InnerLoop, descend
from metadist_cli.learners.types import Adapted, InnerClip, InnerLr, InnerSteps, Learner, predict_with, scores
from metadist_cli.models.types import Model
from metadist_cli.tasks.types import Episode, Examples


def supervised(
    model: Model,
    loss: Loss,
    *,
    inner_lr: InnerLr = 0.1,
    inner_steps: InnerSteps = 1,
    pull: Annotated[
        float,
        Field(
            ge=0,
            description="Proximal term of fine-tuning: weight of half the squared distance from the shared model, "
            "relative to the sum of the rows' losses.",
        ),
    ] = 0.0,
    clip: InnerClip = None,
) -> Learner:
    """meta_gradient = the gradient of the loss on all rows of the step, support and query together."""
    inner = InnerLoop(model, loss, sgd(lr=inner_lr), proximal=inner_lr * pull, clip=clip)

    def adapt(
        meta: Params, stats: Params, support: Examples, seed: Tensor, steps: int, batch: int | None = None
    ) -> Iterator[Adapted]:
        for adapted, _ in descend(inner, (Adapted(meta, stats), {}), support, seed, steps, batch):
            yield adapted

    def meta_gradient(
        meta: Params, stats: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, dict[str, Tensor]]:
        x, y = episode.merged()

        def batch_loss(meta: Params) -> tuple[Tensor, tuple[Params, dict[str, Tensor]]]:
            out, new = model.apply(meta, stats, x, True, seed)
            value = loss.value(out, y)
            return value, (new, scores(loss, value, out, y))

        direction, (_, (new, metrics)) = grad_and_value(batch_loss)(meta)
        return direction, new, metrics

    return Learner(model.init, adapt, predict_with(model), meta_gradient, inner_steps, splits=False, text="supervised")
