"""Model-agnostic meta-learning, second and first order, with two of MAML++'s improvements.

Finn, Abbeel, Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
https://arxiv.org/abs/1703.03400, algorithm 2; section 5.2 has the first-order form (FOMAML).
We differ from the released code in the loss: ours is a mean over rows, theirs a sum over classes, so their `update_lr`
of 0.4 for 5-way 1-shot equals our `inner_lr` of 2.0.
Antoniou, Edwards, Storkey, How to train your MAML, ICLR 2019, https://arxiv.org/abs/1810.09502, section 4:
`multi_step` (multi-step loss) and `learn_rates` (LSLR). We differ: the weights of the earlier steps decay to 0, theirs
to 0.03 / steps, after which they are dropped.
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
from metadist_cli.learners.inner_loop import InnerLoop, InnerRates, by_descent
from metadist_cli.learners.types import InnerClip, InnerLr, InnerSteps, Learner
from metadist_cli.models.types import NORM, Model


def maml(
    model: Model,
    loss: Loss,
    *,
    first_order: Annotated[
        bool, Field(description="Omit the derivative through the inner loop (FOMAML); false: full MAML.")
    ] = False,
    inner_lr: InnerLr = 0.1,
    inner_steps: InnerSteps = 1,
    adapt_norm: Annotated[
        bool, Field(description="Adapt normalization layers too; MAML's released code does not.")
    ] = True,
    learn_rates: Annotated[
        bool, Field(description="Learn a rate for each tensor and inner step, starting at inner_lr (MAML++).")
    ] = False,
    multi_step: Annotated[
        int, Field(ge=0, description="Outer steps over which the losses after earlier inner steps fade out (MAML++).")
    ] = 0,
    clip: InnerClip = None,
) -> Learner:
    """meta_gradient = d loss(query; meta adapted to the support) / d meta."""

    def adapts(name: str) -> bool:
        return adapt_norm or not name.startswith(NORM)

    def rates(params: Params) -> Params:
        return {k: torch.full((max(1, inner_steps),), inner_lr) for k in params if adapts(k)}

    def fading(step: Tensor) -> Tensor:
        early = (1 - step / multi_step).clamp(min=0) / inner_steps
        return torch.cat([early.expand(inner_steps - 1), (1 - early * (inner_steps - 1))[None]])

    text = f"maml, {'first' if first_order else 'second'} order" + (", learned rates" if learn_rates else "")
    weights = fading if multi_step and inner_steps > 1 else None
    text += ", multi-step" if weights else ""
    inner = InnerLoop(model, loss, sgd(lr=inner_lr), adapts, first_order, clip=clip)
    learner = by_descent(inner, inner_steps, text, InnerRates(rates, by_step) if learn_rates else None, weights)
    if learn_rates or clip or model.upper is None:  # the dual form has no gradient of the first layer's weights
        return learner
    dual = dual_gradient(inner, model.upper, inner_steps, weights, learner.meta_gradient)
    return learner._replace(meta_gradient=dual)


def by_step(rates: Params) -> Optimizer:
    """Gradient descent with rates (steps,) for each tensor; the last one applies to all further steps."""

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        at = {k: rate[min(int(step), len(rate) - 1)] for k, rate in rates.items()}
        return tree.apply(lambda p, d, rate: p - rate * d, params, direction, at), state

    return sgd()._replace(update=update)
