"""Evaluate a global model on new tasks, with the same `adapt` and `predict` as in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli.core.losses import Loss
from metadist_cli.core.threads import side_by_side
from metadist_cli.core.tree import Params
from metadist_cli.evaluation import metrics
from metadist_cli.learners.types import Adapted, Learner
from metadist_cli.tasks.episodes import Pool, TaskIndices, gather
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


def summary(values: np.ndarray, rows: np.ndarray, width: float = 1.96) -> dict[str, float | int | None]:
    """Summarise the scores of E tasks.

    Args:
        values: (E,) one score per task.
        rows: (E,) query rows of each task.
        width: half width of the interval, in standard errors.

    Returns:
        "mean" over tasks and "over_rows", weighted by query rows: None where any value is not finite, since those are
        never dropped silently. "ci95": half width of the mean's 95% interval, width * sd / sqrt(n), None for a single
        task. "median" of the finite values, "non_finite": their complement's count, "n": E.
    """
    n = len(values)
    good = values[np.isfinite(values)]
    whole = len(good) == n and n > 0
    sd = float(good.std(ddof=1)) if whole and n > 1 else 0.0
    return {
        "mean": float(good.mean()) if whole else None,
        "over_rows": float(np.average(good, weights=rows)) if whole else None,
        "ci95": width * sd / math.sqrt(n) if whole and n > 1 else None,
        "median": float(np.median(good)) if len(good) else None,
        "non_finite": n - len(good),
        "n": n,
    }


class MetricValues(NamedTuple):
    """One metric of one method on new tasks.

    Attributes:
        values: (E,) of each task on which it is defined.
        rows: (E,) query rows of these tasks.
        over_rows: on the rows of all tasks together; None where undefined.
        undefined: number of tasks on which it is undefined.
    """

    values: np.ndarray
    rows: np.ndarray
    over_rows: float | None
    undefined: int = 0


def metric_per_task(name: str, answers: Sequence[tuple[np.ndarray, np.ndarray]], alike: bool) -> MetricValues:
    """Compute a metric on each of E tasks.

    Args:
        name: in METRICS.
        answers: (outputs (Q, C), y (Q,)) of each task.
        alike: whether all tasks number the same classes alike; without it metrics by class have no `over_rows`.
    """
    values = [metrics.compute(name, *answer) for answer in answers]
    kept = [i for i, value in enumerate(values) if value is not None]
    found = np.array([values[i] for i in kept], dtype=np.float64)
    rows = np.array([len(answers[i][1]) for i in kept])
    return MetricValues(found, rows, metric_over_rows(name, answers, alike), len(values) - len(kept))


def metric_over_rows(name: str, answers: Sequence[tuple[np.ndarray, np.ndarray]], alike: bool) -> float | None:
    """A metric on the rows of all tasks together; None where it is undefined or the outputs are not finite."""
    if not answers or (metrics.METRICS[name].by_class and not alike):
        return None
    outputs, y = (np.concatenate(column) for column in zip(*answers, strict=True))
    value = metrics.compute(name, outputs, y)
    return value if value is not None and math.isfinite(value) else None


def with_difference(mine: MetricValues, main: MetricValues | None) -> dict[str, Any]:
    """Summarise a metric and its paired difference to the adapted main model's on the same tasks.

    The difference has a Student's t interval: verdicts rest on it, and the tasks may be a handful of nodes.

    Args:
        mine: the method's values.
        main: the adapted main model's; None where mine are those.

    Returns:
        `summary` of mine, with "difference": `summary` of mine - main, or None.
    """
    difference = None
    if main is not None:
        from scipy.special import stdtrit

        with np.errstate(invalid="ignore"):  # inf - inf counts as non-finite
            gap = mine.values - main.values
        difference = summary(gap, mine.rows, float(stdtrit(max(len(gap) - 1, 1), 0.975)))
        difference["over_rows"] = None
        if mine.over_rows is not None and main.over_rows is not None:
            difference["over_rows"] = mine.over_rows - main.over_rows
    return summary(mine.values, mine.rows) | {"over_rows": mine.over_rows, "difference": difference}
