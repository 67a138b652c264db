"""How well a global model adapts to new tasks: the same `adapt` and `predict` that training uses."""

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


class Outcome(NamedTuple):
    """What E episodes of Q query rows each gave.

    score: (E, steps + 1) the episode's metric before, and after each step. first, out: (E, Q, outputs) the model's
    outputs before and after adaptation.
    """

    score: np.ndarray
    first: Tensor
    out: Tensor


def run_episode(
    learner: Learner,
    meta: Params,
    stats: Params,
    episode: Episode,
    seed: Tensor,
    steps: int,
    batch: int | None,
    transductive: bool,
) -> Tensor:
    """The outputs for the query of ONE episode before and after each step, (steps + 1, Q, outputs).

    transductive: all query rows are one batch. Otherwise each query row is put alone into a batch with the whole
    support (Nichol et al. 2018, section 6.1); the two differ only for models with batch statistics.
    """
    outs = []
    for adapted in learner.adapt(meta, stats, episode.support_x, episode.support_y, seed, steps, batch):
        if transductive:
            outs.append(learner.predict(adapted, episode.query_x))
        else:
            outs.append(_one_by_one(learner, adapted, episode))
    return torch.stack(outs)


def _one_by_one(learner: Learner, adapted: Adapted, episode: Episode) -> Tensor:
    def alone(x: Tensor) -> Tensor:
        return learner.predict(adapted, torch.cat([episode.support_x, x[None]]))[-1]

    return vmap(alone)(episode.query_x)


def evaluate(
    learner: Learner,
    loss: Loss,
    meta: Params,
    stats: Params,
    pool: Pool,
    plan: TaskIndices,
    steps: int,
    transductive: bool,
    batch: int | None = None,
    chunk: int = 16,
    threads: int = 1,
) -> Outcome:
    """All episodes of a plan (of its nodes, steps and tasks, in this order), `chunk` at a time as one program.

    threads: chunks that are computed side by side, which changes no bit.
    """
    support, query = (rows.reshape(-1, rows.shape[-1]) for rows in (plan.support, plan.query))
    task_seeds = torch.from_numpy(plan.seeds.reshape(-1)).to(pool.x.device)

    def one(episode: Episode, seed: Tensor) -> Tensor:
        return run_episode(learner, meta, stats, episode, seed, steps, batch, transductive)

    def some(begin: int) -> tuple[Tensor, Tensor, Tensor]:
        part = slice(begin, begin + chunk)
        episodes = gather(pool, support[part], query[part], plan.labels)
        if chunk == 1:  # a large task: torch's own kernels
            out = one(Episode(*(leaf[0] for leaf in episodes)), task_seeds[begin])[None].detach()
        else:
            out = vmap(one)(episodes, task_seeds[part]).detach()  # (E, steps + 1, Q, outputs)
        score = vmap(vmap(loss.score, in_dims=(0, None)))(out, episodes.query_y).mean(-1)
        return score, out[:, 0], out[:, -1]

    parts = list(side_by_side(some, range(0, len(support), chunk), threads))
    score, first, last = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Outcome(score.double().numpy(), first, last)


def chunk_size(row_bytes: int, support: int, query: int, transductive: bool) -> int:
    """Episodes that are evaluated as one program: a function of shapes alone, since it decides the last bits.

    row_bytes: what a forward pass keeps of one row. Asked one by one, each query row brings the support along.
    """
    rows = support + (query if transductive else query * (support + 1))
    return max(1, min(64, _CHUNK_BYTES // max(1, rows * row_bytes)))


def summary(values: np.ndarray, rows: np.ndarray, width: float = 1.96) -> dict[str, float | int | None]:
    """Mean, 95% interval of it (width sd / sqrt(n)), median and the count of non-finite episodes of (E,) scores.

    rows: (E,) query rows of each; over_rows is the mean over all of them, where `mean` counts every task alike. The
    mean of a set with non-finite entries is None: they are never dropped silently. One episode has no interval.
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
    """One score of one method on new tasks.

    values, rows: (E,) of each task where it is defined, and its query rows; undefined: how many other tasks there are.
    over_rows: of the rows of all tasks at once, None where that is not defined.
    """

    values: np.ndarray
    rows: np.ndarray
    over_rows: float | None
    undefined: int = 0


def metric_per_task(name: str, answers: Sequence[tuple[np.ndarray, np.ndarray]], alike: bool) -> MetricValues:
    """A score of the answers to E tasks, (outputs (Q, C), y (Q,)) each.

    alike: whether a class number means the same in all of them; else what depends on it is not told over all rows.
    """
    values = [metrics.score(name, *answer) for answer in answers]
    kept = [i for i, value in enumerate(values) if value is not None]
    found = np.array([values[i] for i in kept], dtype=np.float64)
    rows = np.array([len(answers[i][1]) for i in kept])
    return MetricValues(found, rows, metric_over_rows(name, answers, alike), len(values) - len(kept))


def metric_over_rows(name: str, answers: Sequence[tuple[np.ndarray, np.ndarray]], alike: bool) -> float | None:
    """A score of the rows of all tasks at once; None where it is not defined, or the outputs diverged."""
    if not answers or (metrics.METRICS[name].by_class and not alike):
        return None
    outputs, y = (np.concatenate(column) for column in zip(*answers, strict=True))
    value = metrics.score(name, outputs, y)
    return value if value is not None and math.isfinite(value) else None


def with_difference(mine: MetricValues, main: MetricValues | None) -> dict[str, Any]:
    """`summary` of a score, and of its paired difference to the main model's on the same tasks; None: it is that.

    The interval of a difference is Student's, since claims are made from it and tasks may be a handful of nodes.
    """
    difference = None
    if main is not None:
        from scipy.special import stdtrit

        with np.errstate(invalid="ignore"):  # infinite less infinite: counted as non-finite
            gap = mine.values - main.values
        difference = summary(gap, mine.rows, float(stdtrit(max(len(gap) - 1, 1), 0.975)))
        difference["over_rows"] = None
        if mine.over_rows is not None and main.over_rows is not None:
            difference["over_rows"] = mine.over_rows - main.over_rows
    return summary(mine.values, mine.rows) | {"over_rows": mine.over_rows, "difference": difference}
