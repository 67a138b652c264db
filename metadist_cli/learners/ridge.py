"""Ridge regression as the output layer, in closed form: R2-D2, and MetaOptNet's ridge head.

Bertinetto, Henriques, Torr, Vedaldi, Meta-learning with differentiable closed-form solvers, ICLR 2019,
https://arxiv.org/abs/1805.08136, equation 6 (R2-D2: learn_penalty true). We differ: its code appends a column of
ones, i.e. a bias per class, and divides by the square root of the number of rows n, so its lambda is n times ours.
Lee, Maji, Ravichandran, Soatto, Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
https://arxiv.org/abs/1904.03758, section 4.2 (MetaOptNet-RR: penalty 50, a learned scale that starts at 1).
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
    float, Field(gt=0, description="Factor on the outputs before softmax; its initial value if it is learned.")
]
LearnScale = Annotated[bool, Field(description="Learn the factor on the outputs.")]


def ridge(
    model: Model,
    loss: Loss,
    *,
    penalty: Annotated[float, Field(gt=0, description="Lambda: weight of the head's squared weights.")] = 1.0,
    learn_penalty: Annotated[bool, Field(description="Learn lambda too (its logarithm), as R2-D2 does.")] = False,
    scale: Scale = 10.0,
    learn_scale: LearnScale = True,
) -> Learner:
    """meta_gradient = d loss(query; ridge regression on the support) / d (features, scale, penalty)."""
    extra: Params = {}
    if learn_penalty:
        extra["log_penalty"] = torch.tensor(penalty).log()
    classes = loss.metric == "accuracy"  # a regression's outputs are not scaled
    if classes and learn_scale:
        extra["scale"] = torch.tensor(scale)

    def solve(meta: Params, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weight = solvers.ridge(features, targets, meta["log_penalty"].exp() if learn_penalty else penalty)
        if classes:
            weight = weight * meta.get("scale", scale)
        return weight, torch.zeros_like(weight[:, 0])

    return with_solved_head(model, loss, "ridge", solve, extra, regression=True)
