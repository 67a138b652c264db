"""Evaluate a global model on new tasks, with the same `adapt` and `predict` as in training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli.core.losses import Loss
from metadist_cli.core.threads import side_by_side
from metadist_cli.core.tree import Params
from metadist_cli.learners.types import Adapted, Learner
from metadist_cli.tasks.episodes import Pool, TaskIndices
from metadist_cli.tasks.gathering import gather
from metadist_cli.tasks.types import Episode

_CHUNK_BYTES = 128 << 20


class Protocol(NamedTuple):
    """How new tasks are adapted to and scored.

    Attributes:
        steps: adaptation steps.
        transductive: predict a task's queries as one batch. Otherwise each query is put alone into a batch with the
            whole support (Nichol et al. 2018, section 6.1). The two differ only for models with batch statistics.
        batch: support rows per step; None for all.
        chunk: episodes computed as one program, see `chunk_size`.
        threads: chunks computed in parallel, which does not change the bits.
    """

    steps: int
    transductive: bool = False
    batch: int | None = None
    chunk: int = 16
    threads: int = 1


class Outcome(NamedTuple):
    """Results of E episodes with Q query rows each.

    Attributes:
        score: (E, steps + 1) the loss's metric, averaged over the query, before the first step and after each.
        first: (E, Q, outputs) the model's outputs before adaptation.
        out: (E, Q, outputs) its outputs after the last step.
    """

    score: np.ndarray
    first: Tensor
    out: Tensor


def run_episode(learner: Learner, start: tuple[Params, Params], episode: Episode, seed: Tensor, by: Protocol) -> Tensor:
    """Adapt to ONE episode and predict its query.

    Args:
        learner: with `adapt` and `predict`.
        start: (meta, stats) of the global model.
        episode: support of n rows, query of Q rows.
        seed: the task's, int64 scalar.
        by: the protocol.

    Returns:
        (steps + 1, Q, outputs): the outputs before the first step and after each.
    """
    outs = []
    for adapted in learner.adapt(*start, episode.support, seed, by.steps, by.batch):
        if by.transductive:
            outs.append(learner.predict(adapted, episode.query_x))
        else:
            outs.append(_one_by_one(learner, adapted, episode))
    return torch.stack(outs)


def _one_by_one(learner: Learner, adapted: Adapted, episode: Episode) -> Tensor:
    def alone(x: Tensor) -> Tensor:
        return learner.predict(adapted, torch.cat([episode.support_x, x[None]]))[-1]

    return vmap(alone)(episode.query_x)


def evaluate(
    learner: Learner, loss: Loss, start: tuple[Params, Params], pool: Pool, tasks: TaskIndices, by: Protocol
) -> Outcome:
    """Adapt to every task and score its query.

    Args:
        learner: with `adapt` and `predict`.
        loss: whose metric is the score.
        start: (meta, stats) of the global model.
        pool: the rows.
        tasks: E tasks in all, in the order nodes, steps, tasks.
        by: the protocol.

    Returns:
        The Outcome of the E episodes, on the CPU.
    """
    support, query = (rows.reshape(-1, rows.shape[-1]) for rows in (tasks.support, tasks.query))
    task_seeds = torch.from_numpy(tasks.seeds.reshape(-1)).to(pool.x.device)

    def one(episode: Episode, seed: Tensor) -> Tensor:
        return run_episode(learner, start, episode, seed, by)

    def some(begin: int) -> tuple[Tensor, Tensor, Tensor]:
        part = slice(begin, begin + by.chunk)
        episodes = gather(pool, support[part], query[part], tasks.labels)
        if by.chunk == 1:  # a large task: torch's own kernels
            out = one(Episode(*(leaf[0] for leaf in episodes)), task_seeds[begin])[None].detach()
        else:
            out = vmap(one)(episodes, task_seeds[part]).detach()  # (E, steps + 1, Q, outputs)
        score = vmap(vmap(loss.score, in_dims=(0, None)))(out, episodes.query_y).mean(-1)
        return score, out[:, 0], out[:, -1]

    parts = list(side_by_side(some, range(0, len(support), by.chunk), by.threads))
    score, first, last = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Outcome(score.double().numpy(), first, last)


def chunk_size(row_bytes: int, support: int, query: int, transductive: bool) -> int:
    """Episodes to compute as one program: a function of shapes alone, since it decides the last bits.

    Args:
        row_bytes: memory that a forward pass keeps per row.
        support: rows per task.
        query: rows per task; unless transductive, each comes with a copy of the support.
        transductive: see Protocol.

    Returns:
        1 to 64 episodes, within 128 MiB.
    """
    rows = support + (query if transductive else query * (support + 1))
    return max(1, min(64, _CHUNK_BYTES // max(1, rows * row_bytes)))
