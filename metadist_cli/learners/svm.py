"""A multi-class support vector machine as the output layer: MetaOptNet-SVM.

Lee, Maji, Ravichandran, Soatto, Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
https://arxiv.org/abs/1904.03758, equations 5 to 8: the dual of Crammer and Singer (JMLR 2001), with C = 0.1 and a
learned scale that starts at 1. We differ in the dual too: see solvers.py.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core import solvers
from metadist_cli.core.losses import Loss
from metadist_cli.core.tree import Params
from metadist_cli.learners.ridge import LearnScale, Scale
from metadist_cli.learners.solved_heads import with_solved_head
from metadist_cli.learners.types import Learner
from metadist_cli.models.types import Model


def svm(
    model: Model,
    loss: Loss,
    *,
    c: Annotated[float, Field(gt=0, description="C: cost of an example on the wrong side of the margin.")] = 0.1,
    scale: Scale = 10.0,
    learn_scale: LearnScale = True,
) -> Learner:
    """meta_gradient = d loss(query; SVM on the support's features) / d (features, scale).

    The dual is differentiated
    to first order.

    Raises:
        Problem: for a regression.
    """
    extra: Params = {"scale": torch.tensor(scale)} if learn_scale else {}

    def solve(meta: Params, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wide = features.double()  # in float32 the kernel of n > F rows is not positive definite
        weight = (solvers.crammer_singer(wide @ wide.T, targets.double(), c).T @ wide).to(features.dtype)
        weight = weight * meta.get("scale", scale)
        return weight, torch.zeros_like(weight[:, 0])

    return with_solved_head(model, loss, "svm", solve, extra, regression=False)
