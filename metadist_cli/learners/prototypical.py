"""Prototypical networks: classify a query by the nearest class mean of the support's features.

Snell, Swersky, Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017, https://arxiv.org/abs/1703.05175,
algorithm 1 and section 2.4: with squared Euclidean distance it is a linear layer, weight 2 c_k and bias -|c_k|^2. We
differ: training normalises support and query separately; a class missing from the support (local tasks allow that) gets
the mean of the whole support as its prototype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metadist_cli.core.losses import Loss
from metadist_cli.core.tree import Params
from metadist_cli.learners.solved_heads import with_solved_head
from metadist_cli.learners.types import Learner
from metadist_cli.models.types import Model


def prototypical(model: Model, loss: Loss) -> Learner:
    """meta_gradient = d loss(query; nearest prototype) / d features.

    Raises:
        Problem: for a regression.
    """

    def solve(meta: Params, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        count = targets.sum(0)[:, None]
        centres = torch.where(count > 0, targets.T @ features / count.clamp(min=1), features.mean(0))
        return 2 * centres, -(centres * centres).sum(-1)

    return with_solved_head(model, loss, "prototypical", solve, {}, regression=False)
