"""Model-agnostic meta-learning, second and first order.

Finn, Abbeel, Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
https://arxiv.org/abs/1703.03400, algorithm 2; the first-order form is their section 5.2 (FOMAML).
We differ from the released code in the loss: ours is a mean, theirs a sum over classes, so that its `update_lr` 0.4 for
5-way 1-shot is an `inner_lr` of 2.0 here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.func import grad

from metadist_cli.learners.types import (
    Adapted,
    Episode,
    InnerLr,
    InnerSteps,
    Learner,
    descend,
    last,
    no_state,
    predict_with,
    scores,
)
from metadist_cli.losses import Loss
from metadist_cli.models.types import Model
from metadist_cli.optim import sgd
from metadist_cli.tree import Params


def maml(
    model: Model,
    loss: Loss,
    *,
    first_order: Annotated[
        bool, Field(description="Leave out the derivative through the inner loop (FOMAML); false is MAML itself.")
    ] = False,
    inner_lr: InnerLr = 0.1,
    inner_steps: InnerSteps = 1,
    adapt_norm: Annotated[
        bool, Field(description="Adapt the normalisation layers too; the released code of MAML does not.")
    ] = True,
) -> Learner:
    """meta_gradient = d loss(query; meta adapted to the support) / d meta."""
    inner = sgd(lr=inner_lr)
    frozen = () if adapt_norm else ("norm",)

    def adapt(
        meta: Params, stats: Params, x: Tensor, y: Tensor, seed: Tensor, steps: int, batch: int | None = None
    ) -> Iterator[Adapted]:
        start = Adapted(meta, stats)
        for adapted, _ in descend(model, loss, inner, start, {}, x, y, seed, steps, batch, frozen):
            yield adapted

    def meta_gradient(
        meta: Params, stats: Params, node_state: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, Params, dict[str, Tensor]]:
        def adapted(meta: Params) -> Adapted:
            return last(adapt(meta, stats, episode.support_x, episode.support_y, seed, inner_steps))

        def query_loss(params: Params, stats: Params) -> tuple[Tensor, tuple[Params, dict[str, Tensor]]]:
            out, new = model.apply(params, stats, episode.query_x, True, seed)
            value = loss.value(out, episode.query_y)
            return value, (new, scores(loss, value, out, episode.query_y))

        if first_order:
            direction, (new, metrics) = grad(query_loss, has_aux=True)(*adapted(meta))
        else:
            direction, (new, metrics) = grad(lambda meta: query_loss(*adapted(meta)), has_aux=True)(meta)
        return direction, new, node_state, metrics

    order = "first order" if first_order else "second order"
    return Learner(
        no_state(model), adapt, predict_with(model), meta_gradient, inner_steps, splits=True, text=f"maml, {order}"
    )
