"""Learners that solve the output layer from the support in one step, on features learned over tasks.

The solved head is an ordinary linear layer, so an adapted model is the same model with another head, sized for the
task's number of classes.
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
from metadist_cli.tasks.types import Examples

Solve = Callable[[Params, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(meta, features (n, F), targets (n, W)) -> (weight (W, F), bias (W,)); targets are one-hot for classes."""


def with_solved_head(model: Model, loss: Loss, name: str, solve: Solve, extra: Params, regression: bool) -> Learner:
    """Build a learner with meta_gradient = d loss(query; head solved on the support's features) / d (features, extra).

    Args:
        model: its output layer is replaced, so meta holds no "head." parameters.
        loss: on the query.
        name: the learner's, for messages and reports.
        solve: from the support's features to the head, differentiably.
        extra: further parameters to learn, such as a scale.
        regression: whether `solve` handles regression targets as well as classes.

    Returns:
        The Learner.

    Raises:
        Problem: for a model without hidden layers, and for a regression where `regression` is False.
    """
    if all(k.startswith(HEAD) for k in model.init(seeds.generator(0))[0]):
        what = f'learner "{name}" needs hidden layers to learn: it solves the output layer, the only one in this model'
        raise Problem(what, "model", "add hidden layers, or use a learner that adapts weights, such as maml", CONFIG)
    if loss.metric != "accuracy" and not regression:
        what = f'learner "{name}" is for classification; this task is a regression'
        raise Problem(what, "learner.name", "use ridge", CONFIG)

    def init(generator: torch.Generator) -> tuple[Params, Params]:
        params, stats = model.init(generator)
        return {k: v for k, v in params.items() if not k.startswith(HEAD)} | extra, stats

    def adapting(train: bool) -> Callable[..., Iterator[Adapted]]:
        def adapt(
            meta: Params, stats: Params, support: Examples, seed: Tensor, steps: int, batch: int | None = None
        ) -> Iterator[Adapted]:
            x, y = support
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
    """Booleans (n, W) for class numbers (n,); torch.nn.functional.one_hot fails inside vmap(grad)."""
    return y[..., None] == torch.arange(width, device=y.device)
