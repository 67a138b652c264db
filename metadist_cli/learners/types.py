"""What a learner is, and the inner loop that most of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.func import grad_and_value

from metadist_cli import seeds
from metadist_cli.losses import Loss
from metadist_cli.models.types import Model
from metadist_cli.optim import Optimizer
from metadist_cli.tree import Params

InnerLr = Annotated[float, Field(gt=0, description="Step size of the inner loop, for a loss that is a mean.")]
InnerSteps = Annotated[int, Field(ge=0, description="Steps of the inner loop in training.")]


class Episode(NamedTuple):
    """One task's data. support_x: (n, ...), support_y: (n,) or (n, out), query alike; leaves may carry leading axes."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


class Adapted(NamedTuple):
    """A model that has seen a task's support: what `predict` needs."""

    params: Params
    stats: Params


class Learner(NamedTuple):
    """A meta-learning algorithm as four pure functions of ONE node and ONE task; vmap adds nodes and tasks.

    init(generator) -> (meta, stats, node_state). meta: what is shared, descended and averaged; stats: what is shared
      and averaged, but not descended (running statistics); node_state: what stays at its node ({} for most).
    adapt(meta, stats, support_x, support_y, seed, steps, batch) -> iterator of Adapted: before, and after each step.
    predict(adapted, x) -> out (n, outputs), as at test time.
    meta_gradient(meta, stats, node_state, episode, step, seed) -> (direction, stats, node_state, metrics): the
      direction is what the outer optimiser descends; step: the node's global step; metrics: 0-d tensors. Over the
      tasks of a step all four are averaged (integers: the first).
    inner_steps: steps of adaptation in training, the default at test.
    splits: the learner trains on support and query apart; False: on both together (Reptile, supervised).
    text: its name and order, as every report prints it.
    """

    init: Callable[[torch.Generator], tuple[Params, Params, Params]]
    adapt: Callable[[Params, Params, Tensor, Tensor, Tensor, int, int | None], Iterator[Adapted]]
    predict: Callable[[Adapted, Tensor], Tensor]
    meta_gradient: Callable[
        [Params, Params, Params, Episode, Tensor, Tensor], tuple[Params, Params, Params, dict[str, Tensor]]
    ]
    inner_steps: int
    splits: bool
    text: str


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
    frozen: tuple[str, ...] = (),
) -> Iterator[tuple[Adapted, Params]]:
    """The inner loop: yields (adapted, optimiser state) before, and after each of `steps` steps on the rows of x, y.

    x: (n, ...). batch: rows a step, taken in turn from a permutation that is drawn anew each time round (Reptile's
    mini-batches); None: all n. frozen: prefixes of names that are not adapted. Differentiable, so MAML's second-order
    term is torch.func.grad around it.
    """
    params, stats = start
    held = {k: v for k, v in params.items() if k.startswith(frozen)} if frozen else {}
    free = {k: v for k, v in params.items() if k not in held}
    order = _minibatches(seed, len(x), steps, batch)
    yield start, state
    for step in range(steps):
        rows = order(step)

        def support_loss(free: Params, stats: Params = stats, rows: Tensor | None = rows) -> tuple[Tensor, Params]:
            some_x, some_y = (x, y) if rows is None else (x[rows], y[rows])
            out, new = model.apply(free | held, stats, some_x, True, seed)
            return loss.value(out, some_y), new

        gradient, (_, stats) = grad_and_value(support_loss, has_aux=True)(free)
        free, state = optimizer.update(gradient, state, free, step)
        yield Adapted(free | held, stats), state


def _minibatches(seed: Tensor, n: int, steps: int, batch: int | None) -> Callable[[int], Tensor | None]:
    if batch is None or batch >= n:
        return lambda step: None
    passes = -(-steps * batch // n)
    order = torch.cat([seeds.shuffle(seed, i, n) for i in range(passes)]) if passes else torch.empty(0)
    return lambda step: order[step * batch : (step + 1) * batch]


def last(iterator: Iterator[Adapted]) -> Adapted:
    """The last item: the task after all steps."""
    item = None
    for item in iterator:  # noqa: B007
        pass
    assert item is not None, "adapt yields at least the task before adaptation"
    return item


def whole(episode: Episode) -> tuple[Tensor, Tensor]:
    """Support and query as one set: x (n, ...), y (n, ...)."""
    return torch.cat([episode.support_x, episode.query_x]), torch.cat([episode.support_y, episode.query_y])


def scores(loss: Loss, value: Tensor, out: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The metrics of a step: the loss and the loss's own metric, both means."""
    return {"loss": value.detach(), loss.metric: loss.score(out.detach(), y).mean()}


def no_state(model: Model) -> Callable[[torch.Generator], tuple[Params, Params, Params]]:
    """`init` of a learner that shares the model's parameters and keeps nothing at the node."""

    def init(generator: torch.Generator) -> tuple[Params, Params, Params]:
        params, stats = model.init(generator)
        return params, stats, {}

    return init


def predict_with(model: Model) -> Callable[[Adapted, Tensor], Tensor]:
    """`predict` of a learner that adapts the model's own parameters."""
    unused = torch.zeros((), dtype=torch.int64)
    return lambda adapted, x: model.apply(adapted.params, adapted.stats, x, False, unused)[0]
