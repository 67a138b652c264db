"""Model-agnostic meta-learning, second and first order, with two of MAML++'s improvements.

Finn, Abbeel, Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
https://arxiv.org/abs/1703.03400, algorithm 2; the first-order form is their section 5.2 (FOMAML).
We differ from the released code in the loss: ours is a mean, theirs a sum over classes, so that its `update_lr` 0.4 for
5-way 1-shot is an `inner_lr` of 2.0 here.
Antoniou, Edwards, Storkey, How to train your MAML, ICLR 2019, https://arxiv.org/abs/1810.09502, section 4:
`multi_step` (multi-step loss) and `learn_rates` (LSLR). We differ: the weights of the earlier steps fall to 0, theirs
to 0.03 / steps until they are dropped.
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
from metadist_cli.learners.dual_gradient import dual_gradient
from metadist_cli.learners.inner_loop import by_descent
from metadist_cli.learners.types import InnerLr, InnerSteps, Learner
from metadist_cli.models.types import NORM, Model


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
    learn_rates: Annotated[
        bool, Field(description="Learn a step size for each tensor and inner step (MAML++), from inner_lr on.")
    ] = False,
    multi_step: Annotated[
        int, Field(ge=0, description="Outer steps in which the losses after earlier inner steps fade out (MAML++).")
    ] = 0,
) -> Learner:
    """meta_gradient = d loss(query; meta adapted to the support) / d meta."""

    def adapts(name: str) -> bool:
        return adapt_norm or not name.startswith(NORM)

    def rates(params: Params) -> Params:
        if not learn_rates:
            return {}
        return {k: torch.full((max(1, inner_steps),), inner_lr) for k in params if adapts(k)}

    def weights(step: Tensor) -> Tensor:
        early = (1 - step / multi_step).clamp(min=0) / inner_steps
        return torch.cat([early.expand(inner_steps - 1), (1 - early * (inner_steps - 1))[None]])

    def optimizer(rates: Params) -> Optimizer:
        return by_step(rates) if learn_rates else sgd(lr=inner_lr)

    text = f"maml, {'first' if first_order else 'second'} order" + (", learned rates" if learn_rates else "")
    several = weights if multi_step and inner_steps > 1 else None
    text += ", multi-step" if several else ""
    options = {"adapts": adapts, "first_order": first_order}
    learner = by_descent(model, loss, optimizer, rates, inner_steps, text, several, **options)
    if learn_rates or model.upper is None:
        return learner
    dual = dual_gradient(
        model, model.upper, loss, sgd(lr=inner_lr), inner_steps, several, learner.meta_gradient, **options
    )
    return learner._replace(meta_gradient=dual)


def by_step(rates: Params) -> Optimizer:
    """Gradient descent with a rate for each tensor and step, (steps,); the last one holds for all further steps."""

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        at = {k: rate[min(int(step), len(rate) - 1)] for k, rate in rates.items()}
        return tree.apply(lambda p, d, rate: p - rate * d, params, direction, at), state

    return sgd()._replace(update=update)
