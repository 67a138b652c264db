"""Ridge regression as the output layer, in closed form: R2-D2, and MetaOptNet's ridge head.

Bertinetto, Henriques, Torr, Vedaldi, Meta-learning with differentiable closed-form solvers, ICLR 2019,
https://arxiv.org/abs/1805.08136, equation 6 (R2-D2: learn_penalty true). We differ: its code appends a column of ones,
a bias for each class, and divides by the root of the number of rows, so that its lambda counts as many times ours.
Lee, Maji, Ravichandran, Soatto, Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
https://arxiv.org/abs/1904.03758, section 4.2 (MetaOptNet-RR: penalty 50, a learned scale that begins with 1).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core import solvers
from metadist_cli.core.losses import Loss
from metadist_cli.core.tree import Params
from metadist_cli.learners.solved_heads import with_solved_head
from metadist_cli.learners.types import Learner
from metadist_cli.models.types import Model

Scale = Annotated[
    float, Field(gt=0, description="Factor of the outputs, which softmax needs; learning begins with it.")
]
LearnScale = Annotated[bool, Field(description="Learn the factor of the outputs.")]


def ridge(
    model: Model,
    loss: Loss,
    *,
    penalty: Annotated[float, Field(gt=0, description="Lambda: weight of the squared weights of the head.")] = 1.0,
    learn_penalty: Annotated[bool, Field(description="Learn lambda too, as R2-D2 does (its logarithm).")] = False,
    scale: Scale = 10.0,
    learn_scale: LearnScale = True,
) -> Learner:
    """meta_gradient = d loss(query; ridge regression on the support) / d (features, scale, penalty)."""
    extra: Params = {}
    if learn_penalty:
        extra["log_penalty"] = torch.tensor(penalty).log()
    classes = loss.metric == "accuracy"  # values are what they are: no factor
    if classes and learn_scale:
        extra["scale"] = torch.tensor(scale)

    def solve(meta: Params, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weight = solvers.ridge(features, targets, meta["log_penalty"].exp() if learn_penalty else penalty)
        if classes:
            weight = weight * meta.get("scale", scale)
        return weight, torch.zeros_like(weight[:, 0])

    return with_solved_head(model, loss, "ridge", solve, extra, regression=True)
