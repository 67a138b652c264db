"""Intervals over nodes and classes: against SciPy, plain sums, and their coverage in simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metadist_cli.evaluation.intervals import Sources, over_sources, over_tasks
from metadist_cli.evaluation.summary import summary

ALONE = Sources(None)


@settings(deadline=None)
@given(st.integers(5, 12), st.integers(1, 6), st.integers(0, 99))
def test_equal_nodes_give_students_interval_of_their_means(nodes: int, tasks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(nodes, tasks)) + rng.normal(size=(nodes, 1))
    low, high = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    order = rng.permutation(nodes * tasks)
    found = over_sources(values.ravel()[order], Sources(np.repeat(np.arange(nodes), tasks)[order]))
    assert found == pytest.approx((high - low) / 2)


def test_unequal_nodes_give_the_cluster_robust_variance() -> None:
    """Of a regression on a constant: the sum over nodes of squared sums of residuals (Cameron and Miller 2015)."""
    rng = np.random.default_rng(0)
    nodes = np.repeat(np.arange(6), [1, 4, 2, 9, 3, 5])
    values = rng.normal(size=24) + rng.normal(size=6)[nodes]
    total = sum((values[nodes == node] - values.mean()).sum() ** 2 for node in range(6))
    wanted = stats.t.ppf(0.975, 5) * math.sqrt(6 / 5 * total) / 24
    assert over_sources(values, Sources(nodes)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("sources", "over"),
    [
        (Sources(np.repeat(np.arange(4), 25)), {"nodes": 4}),
        (Sources(None, np.arange(200).reshape(100, 2) % 4), {"classes": 4}),
        (Sources(None, np.tile(np.arange(6), (100, 1))), {"classes": 6}),  # every task has all of them
        (Sources(np.repeat(np.arange(4), 25), np.arange(200).reshape(100, 2)), {"nodes": 4}),
    ],
    ids=["four nodes", "four classes", "the same classes", "four nodes of own classes"],
)
def test_nothing_is_claimed_about_others_from_too_few(sources: Sources, over: dict[str, int]) -> None:
    values = np.random.default_rng(0).normal(size=100)
    assert (over_sources(values, sources), sources.enough, sources.over) == (None, False, over)
    assert over_tasks(values) == pytest.approx(1.96 * values.std(ddof=1) / 10)


def test_classes_of_a_single_node_are_accounted_for_by_the_nodes() -> None:
    rng = np.random.default_rng(0)
    nodes = np.repeat(np.arange(8), 10)
    own = np.stack([rng.choice(6, 3, replace=False) + 6 * node for node in nodes])
    values = rng.normal(size=80)
    assert over_sources(values, Sources(nodes, own)) == over_sources(values, Sources(nodes))
    assert over_sources(values, Sources(nodes, own % 6)) >= over_sources(values, Sources(nodes))


@pytest.mark.parametrize("by_node", [False, True])
def test_the_pairs_of_tasks_are_counted_as_by_plain_matrices(by_node: bool) -> None:
    rng = np.random.default_rng(1)
    nodes = rng.permutation(np.repeat(np.arange(5), 8))
    classes = np.stack([rng.choice(9, 3, replace=False) for _ in nodes])
    member = (classes[:, :, None] == np.arange(9)).any(1).astype(float)
    same = nodes[:, None] == nodes if by_node else np.ones((40, 40))
    centre = np.eye(40) - same / same.sum(1, keepdims=True)
    shared = centre @ member @ member.T @ centre
    own, pairs = Sources(nodes if by_node else None, classes).pairs
    np.testing.assert_allclose(own, np.diag(shared), atol=1e-12)
    assert pairs == pytest.approx((shared**2).sum() - (np.diag(shared) ** 2).sum())


def study(
    rng: np.random.Generator, nodes: int, classes: int, tasks: int = 200, way: int = 3
) -> tuple[np.ndarray, Sources]:
    """Values of tasks with mean 0: an effect of the node, one of each class, and noise."""
    node = np.arange(tasks) * max(nodes, 1) // tasks
    drawn = np.stack([rng.choice(max(classes, way), way, replace=False) for _ in range(tasks)])
    values = rng.normal(size=tasks) + rng.normal(size=max(nodes, 1))[node] * (nodes > 0)
    values += rng.normal(size=max(classes, way))[drawn].sum(1) * (classes > 0)
    return values, Sources(node if nodes else None, drawn if classes else None)


@pytest.mark.parametrize(
    ("nodes", "classes"), [(5, 0), (30, 0), (0, 8), (0, 40), (0, 1000), (10, 12)], ids=lambda n: str(n)
)
def test_95_percent_intervals_cover_the_truth_in_95_percent_of_studies(nodes: int, classes: int) -> None:
    """Over tasks alone they cover it in a quarter to three quarters; 400 studies leave a standard error of 1.1%."""
    rng = np.random.default_rng(nodes + classes)
    studies = [study(rng, nodes, classes) for _ in range(400)]
    wide = np.mean([abs(values.mean()) <= over_sources(values, sources) for values, sources in studies])
    assert 0.92 <= wide <= 0.98
    if classes < 1000:
        assert np.mean([abs(values.mean()) <= over_tasks(values) for values, _ in studies]) < 0.75


def test_summary_of_a_known_sample() -> None:
    values = np.array([0.2, 0.4, 0.9])
    out = summary(values, np.arange(1, len(values) + 1), ALONE)
    assert out["over_rows"] == pytest.approx(np.average(values, weights=np.arange(1, len(values) + 1)))
    assert out["mean"] == pytest.approx(0.5)
    assert out["median"] == pytest.approx(0.4)
    error = math.sqrt(0.13 / 3)  # squares 0.09 + 0.01 + 0.16 over n - 1 = 2
    assert out["ci95"] == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert out["ci95_tasks"] == pytest.approx(1.96 * error)
    assert (out["n"], out["non_finite"]) == (3, 0)


NOTHING = {"mean": None, "over_rows": None, "ci95": None, "ci95_tasks": None, "median": None}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_summary_counts_what_diverged_and_gives_no_mean(bad: float) -> None:
    out = summary(np.array([1.0, bad, 3.0, 2.0]), np.ones(4), ALONE)
    assert out == NOTHING | {"median": 2.0, "non_finite": 1, "n": 4}


def test_summary_of_one_and_of_none() -> None:
    one = summary(np.array([0.7]), np.ones(1), ALONE)
    assert one == NOTHING | {"mean": 0.7, "over_rows": 0.7, "median": 0.7, "non_finite": 0, "n": 1}
    assert summary(np.array([]), np.ones(0), ALONE) == NOTHING | {"non_finite": 0, "n": 0}
    assert summary(np.array([np.nan]), np.ones(1), ALONE) == NOTHING | {"non_finite": 1, "n": 1}
