"""MAML's gradient with the first layer's outputs at a task's rows in the place of its weights.

A step of gradient descent on a linear layer moves what it gives at all rows of the task by the rows' Gram matrix:
W' = W - lr G^T X_s gives X W'^T = X W^T - lr (X X_s^T) G, G (n, H) being the gradient at the n support rows. So the
layer's own weights (H x D) are neither adapted nor differentiated through for each task. It is exact, and less work
where a task has few support rows and a row many features.
The change of variables is that of kernel methods, e.g. B. Scholkopf, A. Smola (2002), Learning with Kernels, MIT Press.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import Optimizer
from metadist_cli.core.tree import Params
from metadist_cli.learners.inner_loop import descend, query_gradient
from metadist_cli.learners.types import Adapted, MetaGradient
from metadist_cli.models.types import FIRST, Forward, Model
from metadist_cli.tasks.types import Episode

_LAYER = (f"{FIRST}.weight", f"{FIRST}.bias")
_SUPPORT, _QUERY = f"{FIRST}.support", f"{FIRST}.query"  # what it gives at these rows, (n, H)
# times the support rows. Measured: of 784 features 5 rows take 0.36 of the time, 25 rows 0.7; of 64, 32 rows all of it
_ROWS = 4


def dual_gradient(
    model: Model,
    upper: Forward,
    loss: Loss,
    plain: Optimizer,
    steps: int,
    weights: Callable[[Tensor], Tensor] | None,
    otherwise: MetaGradient,
    **options: Any,
) -> MetaGradient:
    """The meta_gradient of `by_descent` for a model that begins with a linear layer, where a task has few rows.

    upper: the model's. plain: gradient descent with one rate for all. otherwise: what is taken where a task has more
    than a quarter as many support rows as a row has features. options: those of `descend`; the first layer adapts.
    """

    def at(rows: str) -> Model:
        return model._replace(
            apply=lambda params, stats, x, train, seed: upper(params, stats, params[rows], train, seed)
        )

    def meta_gradient(
        meta: Params, stats: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, dict[str, Tensor]]:
        support, query = episode.support_x.flatten(1), episode.query_x.flatten(1)
        if _ROWS * len(support) > support.shape[1]:
            return otherwise(meta, stats, episode, step, seed)
        near, far = (rows @ support.T + 1 for rows in (support, query))  # the 1 is the bias

        def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
            moved = {_SUPPORT: near @ direction[_SUPPORT], _QUERY: far @ direction[_SUPPORT]}
            return plain.update(direction | moved, state, params, step)

        inner = plain._replace(update=update)

        def adapt(
            meta: Params, stats: Params, x: Tensor, y: Tensor, seed: Tensor, steps: int, batch: int | None
        ) -> Iterator[Adapted]:
            given = F.linear(torch.cat([support, query]), *(meta[name] for name in _LAYER)).split([len(x), len(query)])
            rows = dict(zip((_SUPPORT, _QUERY), given, strict=True))
            start = Adapted({k: v for k, v in meta.items() if k not in _LAYER} | rows, stats)
            for adapted, _ in descend(at(_SUPPORT), loss, inner, start, {}, x, y, seed, steps, batch, **options):
                yield adapted

        return query_gradient(at(_QUERY), loss, adapt, steps, weights)(meta, stats, episode, step, seed)

    return meta_gradient
