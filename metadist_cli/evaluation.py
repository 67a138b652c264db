"""How well a global model adapts to new tasks: the same `adapt` and `predict` that training uses."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli.episodes import Plan, Pool, gather
from metadist_cli.learners.types import Adapted, Episode, Learner
from metadist_cli.losses import Loss
from metadist_cli.parallel import side_by_side
from metadist_cli.tree import Params

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
    plan: Plan,
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


def summary(values: np.ndarray, rows: np.ndarray) -> dict[str, float | int | None]:
    """Mean, 95% interval of it (1.96 sd / sqrt(n)), median and the count of non-finite episodes of (E,) scores.

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
        "ci95": 1.96 * sd / math.sqrt(n) if whole and n > 1 else None,
        "median": float(np.median(good)) if len(good) else None,
        "non_finite": n - len(good),
        "n": n,
    }
