"""Plain supervised steps on the node's data; averaged over nodes this is FedAvg.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient Learning of Deep Networks from Decentralized
Data, AISTATS 2017, https://arxiv.org/abs/1602.05629, algorithm 1. Fine-tuning to a new task is the same gradient
descent from the averaged model, so that every figure stands beside the meta-learners' with the same adaptation.
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
from metadist_cli.learners.inner_loop import descend
from metadist_cli.learners.types import Adapted, InnerLr, InnerSteps, Learner, predict_with, scores, whole
from metadist_cli.models.types import Model
from metadist_cli.tasks.types import Episode


def supervised(
    model: Model,
    loss: Loss,
    *,
    inner_lr: InnerLr = 0.1,
    inner_steps: InnerSteps = 1,
    pull: Annotated[
        float,
        Field(ge=0, description="In fine-tuning: weight of half the squared distance from the shared model, in rows."),
    ] = 0.0,
) -> Learner:
    """meta_gradient = the gradient of the loss on the rows of the step; no support is set aside."""
    inner = sgd(lr=inner_lr)

    def adapt(
        meta: Params, stats: Params, x: Tensor, y: Tensor, seed: Tensor, steps: int, batch: int | None = None
    ) -> Iterator[Adapted]:
        start = Adapted(meta, stats)
        for adapted, _ in descend(model, loss, inner, start, {}, x, y, seed, steps, batch, pull=inner_lr * pull):
            yield adapted

    def meta_gradient(
        meta: Params, stats: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, dict[str, Tensor]]:
        x, y = whole(episode)

        def batch_loss(meta: Params) -> tuple[Tensor, tuple[Params, dict[str, Tensor]]]:
            out, new = model.apply(meta, stats, x, True, seed)
            value = loss.value(out, y)
            return value, (new, scores(loss, value, out, y))

        direction, (_, (new, metrics)) = grad_and_value(batch_loss)(meta)
        return direction, new, metrics

    return Learner(model.init, adapt, predict_with(model), meta_gradient, inner_steps, splits=False, text="supervised")
