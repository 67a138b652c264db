"""The inner loop and the gradient through it, shared by the learners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from metadist_cli.core import seeds, tree
from metadist_cli.core.gradients import clipped, grad_and_value
from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import Optimizer
from metadist_cli.core.tree import Params
from metadist_cli.learners.types import Adapt, Adapted, Learner, MetaGradient, last, predict_with, scores
from metadist_cli.models.types import Model
from metadist_cli.tasks.types import Episode, Examples

Weights = Callable[[Tensor], Tensor]
"""(the node's global step, int64 scalar) -> (inner steps,) weights of the query losses after each inner step."""


def everything(name: str) -> bool:
    """An `InnerLoop.adapts` that lets every parameter adapt."""
    return True


class InnerLoop(NamedTuple):
    """What the inner loop descends, and how.

    Attributes:
        model: the network.
        loss: on the support rows.
        optimizer: of the inner loop.
        adapts: (parameter name) -> whether it adapts; the others stay fixed.
        first_order: treat inner gradients as constants. Otherwise differentiating through the loop gives MAML's
            second-order term.
        proximal: inner_lr times the weight of half the squared distance from the start, which is added to the SUM of
            the rows' losses, so that it matters less the more rows there are. Biases are exempt, as in any penalised
            regression.
        clip: the largest norm of a step's gradient, over all parameters that adapt.
    """

    model: Model
    loss: Loss
    optimizer: Optimizer
    adapts: Callable[[str], bool] = everything
    first_order: bool = False
    proximal: float = 0.0
    clip: float | None = None


class InnerRates(NamedTuple):
    """Learned inner learning rates. init: (params) -> rates; optimizer: (rates) -> the inner optimiser using them."""

    init: Callable[[Params], Params]
    optimizer: Callable[[Params], Optimizer]


def descend(
    inner: InnerLoop, start: tuple[Adapted, Params], support: Examples, seed: Tensor, steps: int, batch: int | None
) -> Iterator[tuple[Adapted, Params]]:
    """Run the inner loop.

    Args:
        inner: the loop's model, loss and optimiser.
        start: the model before adaptation, and the inner optimiser's state.
        support: n rows to descend on.
        seed: int64 scalar for what the model draws and for the order of mini-batches.
        steps: how many.
        batch: rows per step, taken in order from a permutation that is redrawn after each pass (Reptile's
            mini-batches); None for all n.

    Yields:
        steps + 1 pairs like start: before the first step, and after each.
    """
    (params, stats), state = start
    fixed = {k: v for k, v in params.items() if not inner.adapts(k)}
    begin = free = {k: v for k, v in params.items() if k not in fixed}
    order = _minibatches(seed, len(support.x), steps, batch)
    still = tree.apply(torch.detach, fixed) if inner.first_order else fixed
    yield start
    for step in range(steps):
        rows = order(step)

        def support_loss(free: Params, stats: Params = stats, rows: Tensor | None = rows) -> tuple[Tensor, Params]:
            x, y = support if rows is None else (support.x[rows], support.y[rows])
            out, new = inner.model.apply(free | still, stats, x, True, seed)
            return inner.loss.value(out, y), new

        gradient, (_, stats) = grad_and_value(support_loss, constant=inner.first_order)(free)
        free, state = inner.optimizer.update(clipped(gradient, inner.clip), state, free, step)
        if inner.proximal:  # the implicit step of a quadratic, stable for any weight
            share = inner.proximal / len(support.x)
            free |= {k: (v + share * begin[k]) / (1 + share) for k, v in free.items() if v.ndim > 1}
        yield Adapted(free | fixed, stats), state


def _minibatches(seed: Tensor, n: int, steps: int, batch: int | None) -> Callable[[int], Tensor | None]:
    if batch is None or batch >= n:
        return lambda step: None
    passes = -(-steps * batch // n)
    order = torch.cat([seeds.shuffle(seed, i, n) for i in range(passes)]) if passes else torch.empty(0)
    return lambda step: order[step * batch : (step + 1) * batch]


def query_gradient(model: Model, loss: Loss, adapt: Adapt, steps: int, weights: Weights | None = None) -> MetaGradient:
    """Build meta_gradient = d loss(query; meta adapted to the support) / d meta.

    Args:
        model: applied to the query with the adapted parameters.
        loss: on the query.
        adapt: the learner's, differentiated through.
        steps: adaptation steps.
        weights: of the query losses after each step (MAML++); None: the loss after the last step alone.

    Returns:
        A `Learner.meta_gradient`; its metrics are those after the last step.
    """

    def meta_gradient(
        meta: Params, stats: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, dict[str, Tensor]]:
        def query_loss(meta: Params) -> tuple[Tensor, tuple[Params, dict[str, Tensor]]]:
            stages = adapt(meta, stats, episode.support, seed, steps, None)
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
    inner: InnerLoop, steps: int, text: str, rates: InnerRates | None = None, weights: Weights | None = None
) -> Learner:
    """Build a learner of MAML's form: gradient descent on the support, the query loss differentiated through it.

    Args:
        inner: the inner loop; with `rates` its optimiser is replaced by theirs.
        steps: inner steps during training.
        text: name and variant, for reports.
        rates: inner learning rates to learn, stored in meta as "rate/...".
        weights: of the query losses after each step (MAML++); None: the loss after the last step alone.

    Returns:
        The Learner.
    """

    def init(generator: torch.Generator) -> tuple[Params, Params]:
        params, stats = inner.model.init(generator)
        return params | tree.prefixed(rate=rates.init(params) if rates else {}), stats

    def adapt(
        meta: Params, stats: Params, support: Examples, seed: Tensor, steps: int, batch: int | None = None
    ) -> Iterator[Adapted]:
        loop = inner._replace(optimizer=rates.optimizer(tree.part(meta, "rate"))) if rates else inner
        start = Adapted({k: v for k, v in meta.items() if not k.startswith("rate/")}, stats)
        for adapted, _ in descend(loop, (start, {}), support, seed, steps, batch):
            yield adapted

    meta_gradient = query_gradient(inner.model, inner.loss, adapt, steps, weights)
    return Learner(init, adapt, predict_with(inner.model), meta_gradient, steps, splits=True, text=text)
