"""The inner loop, and the derivative of what it leads to: what the learners share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from metadist_cli.core import seeds, tree
from metadist_cli.core.gradients import grad_and_value
from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import Optimizer
from metadist_cli.core.tree import Params
from metadist_cli.learners.types import Adapt, Adapted, Learner, MetaGradient, last, predict_with, scores
from metadist_cli.models.types import Model
from metadist_cli.tasks.types import Episode


def descend(
    model: Model,
    loss: Loss,
    optimizer: Optimizer,
    start: Adapted,
    state: Params,
    x: Tensor,
    y: Tensor,
    seed: Tensor,
    steps: int,
    batch: int | None = None,
    adapts: Callable[[str], bool] = lambda name: True,
    first_order: bool = False,
    pull: float = 0.0,
) -> Iterator[tuple[Adapted, Params]]:
    """The inner loop: yields (adapted, optimiser state) before, and after each of `steps` steps on the rows of x, y.

    x: (n, ...). batch: rows a step, taken in turn from a permutation that is drawn anew each time round (Reptile's
    mini-batches); None: all n. adapts(name): whether a parameter moves. first_order: the gradients count as constants;
    otherwise MAML's second-order term is the gradient around it. pull: a step size times the weight with which half
    the squared distance from the start is added to the sum of the rows' losses, so that it counts the less the more
    rows there are; biases are left free, as in any penalised regression.
    """
    params, stats = start
    held = {k: v for k, v in params.items() if not adapts(k)}
    begin = free = {k: v for k, v in params.items() if k not in held}
    order = _minibatches(seed, len(x), steps, batch)
    still = tree.apply(torch.detach, held) if first_order else held
    yield start, state
    for step in range(steps):
        rows = order(step)

        def support_loss(free: Params, stats: Params = stats, rows: Tensor | None = rows) -> tuple[Tensor, Params]:
            some_x, some_y = (x, y) if rows is None else (x[rows], y[rows])
            out, new = model.apply(free | still, stats, some_x, True, seed)
            return loss.value(out, some_y), new

        gradient, (_, stats) = grad_and_value(support_loss, constant=first_order)(free)
        free, state = optimizer.update(gradient, state, free, step)
        if pull:  # the implicit step of a quadratic, stable for any weight
            share = pull / len(x)
            free |= {k: (v + share * begin[k]) / (1 + share) for k, v in free.items() if v.ndim > 1}
        yield Adapted(free | held, stats), state


def _minibatches(seed: Tensor, n: int, steps: int, batch: int | None) -> Callable[[int], Tensor | None]:
    if batch is None or batch >= n:
        return lambda step: None
    passes = -(-steps * batch // n)
    order = torch.cat([seeds.shuffle(seed, i, n) for i in range(passes)]) if passes else torch.empty(0)
    return lambda step: order[step * batch : (step + 1) * batch]


def query_gradient(
    model: Model, loss: Loss, adapt: Adapt, steps: int, weights: Callable[[Tensor], Tensor] | None = None
) -> MetaGradient:
    """meta_gradient = d loss(query; meta adapted to the support) / d meta, for MAML and its kin and for solved heads.

    weights(step) -> (steps,): a loss after every inner step, weighted so (MAML++); None: after the last one alone.
    """

    def meta_gradient(
        meta: Params, stats: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, dict[str, Tensor]]:
        def query_loss(meta: Params) -> tuple[Tensor, tuple[Params, dict[str, Tensor]]]:
            stages = adapt(meta, stats, episode.support_x, episode.support_y, seed, steps, None)
            outs = [last(stages)] if weights is None else list(stages)[1:]
            values = []
            for params, running in outs:
                out, new = model.apply(params, running, episode.query_x, True, seed)
                values.append(loss.value(out, episode.query_y))
            total = values[-1] if weights is None else (weights(step) * torch.stack(values)).sum()
            return total, (new, scores(loss, values[-1], out, episode.query_y))

        direction, (_, (new, metrics)) = grad_and_value(query_loss)(meta)
        return direction, new, metrics

    return meta_gradient


def by_descent(
    model: Model,
    loss: Loss,
    optimizer: Callable[[Params], Optimizer],
    rates: Callable[[Params], Params],
    steps: int,
    text: str,
    weights: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Learner:
    """MAML's frame: gradient descent on the support, the derivative of the query loss through it.

    rates(params) -> inner rates that are learned, {} for none; optimizer(rates) -> the inner optimiser with them.
    options: `adapts` and `first_order` of `descend`.
    """

    def init(generator: torch.Generator) -> tuple[Params, Params]:
        params, stats = model.init(generator)
        return params | tree.prefixed(rate=rates(params)), stats

    def adapt(
        meta: Params, stats: Params, x: Tensor, y: Tensor, seed: Tensor, steps: int, batch: int | None = None
    ) -> Iterator[Adapted]:
        inner = optimizer(tree.part(meta, "rate"))
        start = Adapted({k: v for k, v in meta.items() if not k.startswith("rate/")}, stats)
        for adapted, _ in descend(model, loss, inner, start, {}, x, y, seed, steps, batch, **options):
            yield adapted

    meta_gradient = query_gradient(model, loss, adapt, steps, weights)
    return Learner(init, adapt, predict_with(model), meta_gradient, steps, splits=True, text=text)
