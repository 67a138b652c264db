"""Learners that solve the output layer from the support in one step, on features that are learned over tasks.

A solved head is a linear layer like any other, so an adapted model is the model with another head, for as many classes
as the task has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from metadist_cli.core import seeds
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.losses import Loss
from metadist_cli.core.tree import Params
from metadist_cli.learners.inner_loop import query_gradient
from metadist_cli.learners.types import Adapted, Learner, predict_with
from metadist_cli.models.types import HEAD, Model

Solve = Callable[[Params, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(meta, features (n, F), targets (n, W)) -> (weight (W, F), bias (W,)); targets are one-hot for classes."""


def with_solved_head(model: Model, loss: Loss, name: str, solve: Solve, extra: Params, regression: bool) -> Learner:
    """meta_gradient = d loss(query; head solved on the support's features) / d (features, extra).

    extra: further parameters to learn, such as a scale. Raises Problem for a model without features to learn, and for
    a regression where the head is for classes alone.
    """
    if all(k.startswith(HEAD) for k in model.init(seeds.generator(0))[0]):
        what = f'learner "{name}" solves the output layer, and this model has no other to learn'
        raise Problem(what, "model", "use hidden layers, or a learner that adapts weights, such as maml", CONFIG)
    if loss.metric != "accuracy" and not regression:
        raise Problem(f'learner "{name}" tells classes apart, these are values', "learner.name", "use ridge", CONFIG)

    def init(generator: torch.Generator) -> tuple[Params, Params]:
        params, stats = model.init(generator)
        return {k: v for k, v in params.items() if not k.startswith(HEAD)} | extra, stats

    def adapting(train: bool) -> Callable[..., Iterator[Adapted]]:
        def adapt(
            meta: Params, stats: Params, x: Tensor, y: Tensor, seed: Tensor, steps: int, batch: int | None = None
        ) -> Iterator[Adapted]:
            body = {k: v for k, v in meta.items() if k not in extra}
            features, new = model.features(body, stats, x, train, seed)
            targets = y if y.is_floating_point() else one_hot(y, model.outputs).to(features.dtype)
            zeros = features.new_zeros(targets.shape[-1], features.shape[-1])
            yield Adapted(body | {"head.weight": zeros, "head.bias": zeros[:, 0]}, new)
            if steps:
                weight, bias = solve(meta, features, targets)
            for _ in range(steps):
                yield Adapted(body | {"head.weight": weight, "head.bias": bias}, new)

        return adapt

    meta_gradient = query_gradient(model, loss, adapting(train=True), 1)
    return Learner(
        init, adapting(train=False), predict_with(model), meta_gradient, 1, splits=True, text=name, solves=True
    )


def one_hot(y: Tensor, width: int) -> Tensor:
    """(n, W) booleans; torch.nn.functional.one_hot fails inside vmap(grad)."""
    return y[..., None] == torch.arange(width, device=y.device)
