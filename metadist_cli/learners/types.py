"""What a learner is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core.losses import Loss
from metadist_cli.core.tree import Params
from metadist_cli.models.types import Model
from metadist_cli.tasks.types import Episode

InnerLr = Annotated[float, Field(gt=0, description="Step size of the inner loop, for a loss that is a mean.")]
InnerSteps = Annotated[int, Field(ge=0, description="Steps of the inner loop in training.")]


class Adapted(NamedTuple):
    """A model that has seen a task's support: the model's own parameters and statistics, ready for `model.apply`."""

    params: Params
    stats: Params


Adapt = Callable[[Params, Params, Tensor, Tensor, Tensor, int, int | None], Iterator[Adapted]]
MetaGradient = Callable[[Params, Params, Episode, Tensor, Tensor], tuple[Params, Params, dict[str, Tensor]]]


class Learner(NamedTuple):
    """A meta-learning algorithm as four pure functions of ONE node and ONE task; vmap adds nodes and tasks.

    init(generator) -> (meta, stats). meta: what is shared, descended and averaged: the model's parameters, and learned
      inner rates ("rate/") or scales beside them; stats: what is averaged, but not descended (running statistics).
    adapt(meta, stats, support_x, support_y, seed, steps, batch) -> iterator of Adapted: before, and after each step.
    predict(adapted, x) -> out (n, outputs), as at test time.
    meta_gradient(meta, stats, episode, step, seed) -> (direction, stats, metrics): the direction is what the outer
      optimiser descends; step: the node's global step; metrics: 0-d tensors. Over the tasks of a step all three are
      averaged (integers: the first).
    inner_steps: steps of adaptation in training, the default at test.
    splits: the learner trains on support and query apart; False: on both together (Reptile, supervised).
    solves: the output layer is solved from the support: one step, and any number of classes at test.
    text: its name and order, as every report prints it.
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
    """The last item: the task after all steps."""
    item = None
    for item in iterator:  # noqa: B007
        pass
    assert item is not None, "adapt yields at least the task before adaptation"
    return item


def whole(episode: Episode) -> tuple[Tensor, Tensor]:
    """Support and query as one set: x (n, ...), y (n, ...)."""
    if not len(episode.support_y):
        return episode.query_x, episode.query_y
    return torch.cat([episode.support_x, episode.query_x]), torch.cat([episode.support_y, episode.query_y])


def scores(loss: Loss, value: Tensor, out: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The metrics of a step: the loss and the loss's own metric, both means."""
    return {"loss": value.detach(), loss.metric: loss.score(out.detach(), y).mean()}


def predict_with(model: Model) -> Callable[[Adapted, Tensor], Tensor]:
    """`predict` of a learner that adapts the model's own parameters."""
    unused = torch.zeros((), dtype=torch.int64)
    return lambda adapted, x: model.apply(adapted.params, adapted.stats, x, False, unused)[0]
