"""Reptile: move towards the parameters that ordinary training on a task ends with.

Nichol, Achiam, Schulman, On First-Order Meta-Learning Algorithms, 2018, https://arxiv.org/abs/1803.02999, algorithm 2
(batched) and appendix A. As published, the inner optimiser is Adam with beta1 = 0; its second moment carries over from
task to task, as in the released code, which resets only the weights. We differ: the tasks of one step run in parallel,
so all start from the same second moment, and we keep the mean of their results (as a statistic: averaged over nodes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import adam, sgd
from metadist_cli.core.tree import Params
from metadist_cli.learners.inner_loop import InnerLoop, descend
from metadist_cli.learners.types import Adapted, InnerClip, InnerLr, InnerSteps, Learner, predict_with, scores
from metadist_cli.models.types import Model
from metadist_cli.tasks.types import Episode, Examples


def reptile(
    model: Model,
    loss: Loss,
    *,
    inner_lr: InnerLr = 1e-3,
    inner_steps: InnerSteps = 5,
    inner_batch: Annotated[
        int | None, Field(ge=1, description="Rows per inner step, in order from a shuffled episode; null: all.")
    ] = None,
    inner_optimizer: Annotated[
        Literal["adam", "sgd"], Field(description="adam: with beta1 = 0, and its second moment kept between tasks.")
    ] = "adam",
    clip: InnerClip = None,
) -> Learner:
    """meta_gradient = meta - (meta after inner_steps on the whole episode, support and query together)."""
    optimizer = adam(lr=inner_lr, beta1=0.0) if inner_optimizer == "adam" else sgd(lr=inner_lr)
    inner = InnerLoop(model, loss, optimizer, clip=clip)

    def init(generator: torch.Generator) -> tuple[Params, Params]:
        params, stats = model.init(generator)
        return params, tree.prefixed(model=stats, inner=inner.optimizer.init(params))

    def train(
        meta: Params, stats: Params, examples: Examples, seed: Tensor, steps: int, batch: int | None
    ) -> Iterator[tuple[Adapted, Params]]:
        start = Adapted(meta, tree.part(stats, "model")), tree.part(stats, "inner")
        yield from descend(inner, start, examples, seed, steps, batch)

    def adapt(
        meta: Params, stats: Params, support: Examples, seed: Tensor, steps: int, batch: int | None = None
    ) -> Iterator[Adapted]:
        for adapted, _ in train(meta, stats, support, seed, steps, batch):
            yield adapted

    def meta_gradient(
        meta: Params, stats: Params, episode: Episode, step: Tensor, seed: Tensor
    ) -> tuple[Params, Params, dict[str, Tensor]]:
        examples = episode.merged()
        *_, (adapted, state) = train(meta, stats, examples, seed, inner_steps, inner_batch)
        out, _ = model.apply(adapted.params, adapted.stats, examples.x, True, seed)
        metrics = scores(loss, loss.value(out, examples.y), out, examples.y)
        direction = tree.apply(torch.sub, meta, adapted.params)
        return direction, tree.prefixed(model=adapted.stats, inner=state), metrics

    text = f"reptile, inner {inner_optimizer}"
    return Learner(init, adapt, predict_with(model), meta_gradient, inner_steps, splits=False, text=text)
