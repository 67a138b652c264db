"""Plain supervised steps on the node's data; averaged over nodes this is FedAvg.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient Learning of Deep Networks from Decentralized
Data, AISTATS 2017, https://arxiv.org/abs/1602.05629, algorithm 1. Fine-tuning to a new task is the same gradient
descent from the averaged model, so that every figure stands beside the meta-learners' with the same adaptation.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.func import grad

from metadist_cli.learners.types import (
    Adapted,
    Episode,
    InnerLr,
    InnerSteps,
    Learner,
    descend,
    no_state,
    predict_with,
    scores,
    whole,
)
from metadist_cli.losses import Loss
from metadist_cli.models.types import Model
from metadist_cli.optim import sgd
from metadist_cli.tree import Params


def supervised(model: Model, loss: Loss, *, inner_lr: InnerLr = 0.1, inner_steps: InnerSteps = 1) -> Learner:
    """meta_gradient = the gradient of the loss on the rows of the step; no support is set aside."""
    inner = sgd(lr=inner_lr)

    def adapt(
        meta: Params, stats: Params, x: Tensor, y: Tensor, seed: Tensor, steps: int, batch: int | None = None
    ) -> Iterator[Adapted]:
        for adapted, _ in descend(model, loss, inner, Adapted(meta, stats), {}, x, y, seed, steps, batch):
            yield adapted

    def meta_gradient(
        meta: Params, stats: Params, node_state: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, Params, dict[str, Tensor]]:
        x, y = whole(episode)

        def batch_loss(meta: Params) -> tuple[Tensor, tuple[Params, dict[str, Tensor]]]:
            out, new = model.apply(meta, stats, x, True, seed)
            value = loss.value(out, y)
            return value, (new, scores(loss, value, out, y))

        direction, (new, metrics) = grad(batch_loss, has_aux=True)(meta)
        return direction, new, node_state, metrics

    return Learner(
        no_state(model), adapt, predict_with(model), meta_gradient, inner_steps, splits=False, text="supervised"
    )
