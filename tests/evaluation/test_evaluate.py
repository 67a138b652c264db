"""New tasks: scores against a plain loop, and the two ways to ask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maths import LEARNER_CASES, Case, double, gap, learner_of, model_of, name_of, nodes_of
from torch import Tensor

from metadist_cli.core import seeds
from metadist_cli.core.losses import CROSS_ENTROPY, SQUARED_ERROR
from metadist_cli.core.tree import Params
from metadist_cli.evaluation.evaluate import Outcome, Protocol, chunk_size, evaluate
from metadist_cli.learners import Learner
from metadist_cli.tasks.episodes import episodic
from metadist_cli.tasks.gathering import gather
from metadist_cli.tasks.types import Episode

POOL = nodes_of([40, 60], classes=4)
PLAN = episodic(0, 1, 4, way=3, shot=2, query=3)(POOL, "new")
BATCHY = ("mlp", {"hidden": [6], "norm": "batch"})


def made(case: Case = ("maml", {"inner_lr": 0.5}), model: Case = BATCHY) -> tuple[Learner, Params, Params]:
    learner = learner_of(case, model_of(model, (4,)))
    meta, stats = learner.init(seeds.generator(0))
    return learner, double(meta), double(stats)


def run(learner: Learner, meta: Params, stats: Params, steps: int = 3, **options: object) -> Outcome:
    by = Protocol(steps, **{"transductive": True} | options)
    return evaluate(learner, CROSS_ENTROPY, (meta, stats), POOL, PLAN, by)


def episodes() -> list[tuple[Episode, Tensor]]:
    """All episodes of the plan, node by node."""
    e = gather(POOL, PLAN.support, PLAN.query, PLAN.labels)
    places = [(i, 0, t) for i in range(2) for t in range(4)]
    return [(Episode(*(leaf[place] for leaf in e)), torch.from_numpy(PLAN.seeds)[place]) for place in places]


@pytest.mark.parametrize("case", LEARNER_CASES, ids=name_of)
@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("batch", [None, 4])
def test_scores_are_those_of_a_plain_loop(case: Case, transductive: bool, batch: int | None) -> None:
    learner, meta, stats = made(case)
    outcome = run(learner, meta, stats, transductive=transductive, batch=batch)
    assert outcome.score.shape == (8, 4)
    assert outcome.first.shape == outcome.out.shape == (8, 9, 3)
    for i, (e, seed) in enumerate(episodes()):
        for step, adapted in enumerate(learner.adapt(meta, stats, e.support, seed, 3, batch)):
            if transductive:
                out = learner.predict(adapted, e.query_x)
            else:
                alone = [learner.predict(adapted, torch.cat([e.support_x, x[None]]))[-1] for x in e.query_x]
                out = torch.stack(alone)
            right = sum(int(o.argmax()) == int(y) for o, y in zip(out, e.query_y, strict=True))
            assert outcome.score[i, step] == pytest.approx(right / 9)
            if step in (0, 3):
                assert gap(outcome.out[i] if step else outcome.first[i], out) < 1e-12


def test_one_query_alone_by_hand() -> None:
    """No adaptation, batch norm by torch: each query row is normalised with the support and without its neighbours."""
    learner, meta, stats = made()
    outcome = run(learner, meta, stats, steps=0, transductive=False)
    together = run(learner, meta, stats, steps=0, transductive=True)
    assert gap(outcome.out, together.out) > 1e-3
    for i, (e, _) in enumerate(episodes()):
        for j, x in enumerate(e.query_x):
            hidden = F.linear(torch.cat([e.support_x, x[None]]), meta["layer0.weight"], meta["layer0.bias"])
            hidden = F.batch_norm(hidden, None, None, meta["norm0.scale"], meta["norm0.shift"], training=True).relu()
            assert gap(outcome.out[i, j], F.linear(hidden[-1], meta["head.weight"], meta["head.bias"])) < 1e-12


@pytest.mark.parametrize("norm", ["none", "group", "batch_running"])
def test_both_ways_agree_without_statistics_of_the_batch(norm: str) -> None:
    learner, meta, stats = made(model=("mlp", {"hidden": [6], "norm": norm}))
    one, two = (run(learner, meta, stats, transductive=t) for t in (True, False))
    assert gap(one.out, two.out) < 1e-12


@pytest.mark.parametrize("transductive", [True, False])
def test_chunks_do_not_matter(transductive: bool) -> None:
    learner, meta, stats = made()
    told = {"transductive": transductive, "batch": 4}  # minibatches are drawn by the task's seed
    one, *others = (run(learner, meta, stats, chunk=c, **told) for c in (1, 3, 8, 100))
    for other in others:
        assert gap(one.out, other.out) < 1e-12
        np.testing.assert_array_equal(one.score, other.score)


def test_adaptation_helps_and_leaves_no_graph() -> None:
    learner, meta, stats = made()
    outcome = run(learner, meta, stats, steps=20)
    assert outcome.score[:, -1].mean() > outcome.score[:, 0].mean() + 0.2
    assert not outcome.out.requires_grad


def test_regression_scores_are_mean_squared_errors() -> None:
    learner = learner_of(("maml", {}), model_of(("mlp", {"hidden": [6]}), (4,), 1), SQUARED_ERROR)
    meta, stats = learner.init(seeds.generator(0))
    targets = POOL._replace(y=POOL.x[:, :1] * 2)
    plan = PLAN._replace(labels=None)
    outcome = evaluate(learner, SQUARED_ERROR, (double(meta), stats), targets, plan, Protocol(1, transductive=True))
    wanted = targets.y[torch.from_numpy(plan.query.reshape(8, -1))]
    expected = [float(F.mse_loss(out, y)) for out, y in zip(outcome.out, wanted, strict=True)]
    np.testing.assert_allclose(outcome.score[:, -1], expected, rtol=1e-12)


def test_chunk_size_is_bounded_by_memory() -> None:
    assert chunk_size(1, 5, 5, True) == 64
    assert chunk_size(1 << 30, 5, 5, True) == 1
    assert chunk_size(1 << 16, 25, 75, True) == 20  # 128 MiB / (100 rows of 64 KiB)
    assert chunk_size(1 << 16, 25, 75, False) == 1  # 75 * 26 rows
