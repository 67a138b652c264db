"""Classical methods and what is chosen in the support: against scikit-learn, by hand, and by what may be looked at."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from metadist_cli.evaluation.classical import CLASSICAL, constant, linear, mean, nearest
from metadist_cli.evaluation.tuning import best, folds
from metadist_cli.tasks.episodes import TaskIndices

RNG = np.random.default_rng(0)
X, QUERY = RNG.normal(size=(40, 5)) * [1, 10, 0.1, 1, 1], RNG.normal(size=(25, 5)) * [1, 10, 0.1, 1, 1]
Y = (X[:, 0] + X[:, 1] / 10 + RNG.normal(size=40) > 0).astype(np.int64) + 2 * (X[:, 4] > 1)
VALUES = X @ RNG.normal(size=(5, 2)) + RNG.normal(size=(40, 2))


@pytest.mark.parametrize("count", [1, 3, 9])
def test_nearest_neighbours_predict_as_scikit_learn_does(count: int) -> None:
    found = nearest(X, Y, QUERY, 4, count, False).argmax(1)
    model = KNeighborsClassifier(count).fit(X, Y)
    votes = np.sort(model.predict_proba(QUERY), axis=1)
    clear = votes[:, -1] > votes[:, -2]  # ties go to the nearest row here, to the first class there
    assert clear.sum() > 10
    np.testing.assert_array_equal(found[clear], model.predict(QUERY)[clear])
    wanted = KNeighborsRegressor(count).fit(X, VALUES).predict(QUERY)
    np.testing.assert_allclose(nearest(X, VALUES, QUERY, 2, count, False), wanted)


@pytest.mark.parametrize("option", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("balanced", [False, True])
def test_linear_models_are_those_of_standardized_features(option: float, balanced: bool) -> None:
    x, query = ((rows - X.mean(0)) / X.std(0) for rows in (X, QUERY))
    weight = "balanced" if balanced else None
    model = LogisticRegression(C=option, max_iter=2000, class_weight=weight).fit(x, Y)
    found = np.exp(linear(X, Y, QUERY, 6, option, balanced))
    np.testing.assert_allclose(found[:, :4], model.predict_proba(query), atol=0.02)
    assert (found[:, 4:] <= 1.01e-6).all()  # no row of the support
    wanted = Ridge(alpha=1 / option).fit(x, VALUES).predict(query)
    np.testing.assert_allclose(linear(X, VALUES, QUERY, 2, option, balanced), wanted)


def test_a_constant_answer_looks_at_no_input() -> None:
    found = constant(X, Y, QUERY, 5, 0.0, False)
    shares = (np.bincount(Y, minlength=5) + 0.2) / 41
    np.testing.assert_allclose(np.exp(found), np.tile(shares, (25, 1)))
    np.testing.assert_allclose(mean(X, VALUES, QUERY, 2, 0.0, False), np.tile(VALUES.mean(0), (25, 1)))


@pytest.mark.parametrize("kind", list(CLASSICAL))
@pytest.mark.parametrize("name", ["constant", "nearest", "linear"])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_every_method_gives_finite_outputs_for_every_support(kind: str, name: str, rows: int) -> None:
    method = CLASSICAL[kind][name]
    y = Y[:rows] if kind == "classification" else VALUES[:rows]
    for option in method.options:
        out = method.fit(X[:rows], y, QUERY, 4 if kind == "classification" else 2, option, False)
        assert out.shape == (25, 4 if kind == "classification" else 2)
        assert np.isfinite(out).all()
        if kind == "classification":
            assert (np.exp(out).sum(1) <= 1.001).all()


def plan(support: np.ndarray, labels: tuple[np.ndarray, np.ndarray] | None = None) -> TaskIndices:
    tasks = len(support)
    query = np.full((1, 1, tasks, 3), 10_000)
    return TaskIndices(support[None, None], query, np.ones((1, 1), bool), np.zeros((1, 1, tasks), int), labels)


def test_folds_hold_every_support_row_once_and_no_query_row() -> None:
    support = np.stack([RNG.permutation(100)[:22] for _ in range(3)])
    labels = np.stack([RNG.integers(0, 3, 22) for _ in range(3)])
    found = folds(plan(support), labels)
    assert len(found) == 5
    for task in range(3):
        judged = np.concatenate([part.query[0, 0, task] for part in found])
        assert len(set(judged)) == len(judged) == 20
        assert set(judged) <= set(support[task])
        for part in found:
            assert not set(part.support[0, 0, task]) & set(part.query[0, 0, task])
            assert {*part.support[0, 0, task], *part.query[0, 0, task]} == set(support[task])


def test_folds_of_episodes_have_every_class_in_both_parts() -> None:
    shots, way = 5, 3
    labels = np.arange(way).repeat(shots)
    found = folds(plan(np.arange(15)[None], (labels, np.arange(way))), labels[None])
    for part in found:
        assert part.labels is not None
        np.testing.assert_array_equal(part.labels[0], labels[part.support[0, 0, 0]])
        np.testing.assert_array_equal(part.labels[1], labels[part.query[0, 0, 0]])
        assert set(part.labels[0]) == set(part.labels[1]) == {0, 1, 2}


def test_nothing_can_be_chosen_with_one_row_of_each_class() -> None:
    labels = np.arange(5)
    assert folds(plan(np.arange(5)[None], (labels, labels)), labels[None]) == []


def test_the_best_mean_is_finite_and_the_first_of_equal_ones() -> None:
    scores = np.array([[[1.0, 0.0], [0.2, np.nan]], [[0.9, 0.1], [0.6, 0.1]]])
    assert best(scores, higher=True) == (0, 0)
    assert best(scores, higher=False) == (1, 1)
    assert best(np.full((2, 3, 4), np.inf), higher=False) == (0, 0)
