"""The Learner contract, and the small helpers that every learner uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core.losses import Loss
from metadist_cli.core.tree import Params
from metadist_cli.models.types import Model
from metadist_cli.tasks.types import Episode, Examples

InnerLr = Annotated[float, Field(gt=0, description="Inner-loop learning rate, for a loss averaged over rows.")]
InnerClip = Annotated[
    float | None, Field(gt=0, description="Largest norm of an inner step's gradient; null: no limit.")
]
InnerSteps = Annotated[int, Field(ge=0, description="Inner-loop steps during training.")]


class Adapted(NamedTuple):
    """A model adapted to a task: its parameters and running statistics, as `Model.apply` takes them."""

    params: Params
    stats: Params


Adapt = Callable[[Params, Params, Examples, Tensor, int, int | None], Iterator[Adapted]]
MetaGradient = Callable[[Params, Params, Episode, Tensor, Tensor], tuple[Params, Params, dict[str, Tensor]]]


class Learner(NamedTuple):
    """A meta-learning algorithm as four pure functions of ONE node and ONE task; vmap adds nodes and tasks.

    Example, five adaptation steps and the accuracy after them:

        learner = maml(model, CROSS_ENTROPY, inner_lr=0.4)
        meta, stats = learner.init(seeds.generator(0))
        adapted = last(learner.adapt(meta, stats, episode.support, seed, 5, None))
        accuracy = CROSS_ENTROPY.score(learner.predict(adapted, episode.query_x), episode.query_y).mean()

    Attributes:
        init: (generator) -> (meta, stats). meta: what the outer loop descends and nodes average, i.e. the model's
            parameters plus, where the learner learns them, inner learning rates ("rate/...") or scales. stats: what
            nodes average but nothing descends (running statistics).
        adapt: (meta, stats, support, seed, steps, batch) -> iterator of steps + 1 Adapted, before the first step and
            after each. seed: int64 scalar; batch: rows per step, None for all of them.
        predict: (adapted, x (n, ...)) -> outputs (n, outputs), with the model in test mode.
        meta_gradient: (meta, stats, episode, step, seed) -> (direction, stats, metrics). direction: like meta, what
            the outer optimiser descends; step: the node's global step, int64 scalar; metrics: scalars by name. Over
            the tasks of a step all three are averaged (integers: the first).
        inner_steps: adaptation steps during training, and the default at test.
        splits: True where training keeps support and query apart; False where it uses both as one set.
        text: name and variant, as reports print them.
        solves: True where the output layer is solved from the support in one step, for any number of classes.
    """

    init: Callable[[torch.Generator], tuple[Params, Params]]
    adapt: Adapt
    predict: Callable[[Adapted, Tensor], Tensor]
    meta_gradient: MetaGradient
    inner_steps: int
    splits: bool
    text: str
    solves: bool = False


def last(iterator: Iterator[Adapted]) -> Adapted:
    """The last item of `Learner.adapt`: the model after all steps."""
    item = None
    for item in iterator:  # noqa: B007
        pass
    assert item is not None, "adapt yields at least the model before adaptation"
    return item


def scores(loss: Loss, value: Tensor, out: Tensor, y: Tensor) -> dict[str, Tensor]:
    """A step's metrics: its loss, and the mean of the loss's own metric over the rows of out (n, outputs)."""
    return {"loss": value.detach(), loss.metric: loss.score(out.detach(), y).mean()}


def predict_with(model: Model) -> Callable[[Adapted, Tensor], Tensor]:
    """`Learner.predict` for a learner that adapts the model's own parameters."""
    unused = torch.zeros((), dtype=torch.int64)
    return lambda adapted, x: model.apply(adapted.params, adapted.stats, x, False, unused)[0]
