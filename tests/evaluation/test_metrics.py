"""Further scores of new tasks: each as scikit-learn has it, nothing where it means nothing, and paired differences."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner import Lab
from scipy import stats
from sklearn import metrics as sk

from metadist_cli.evaluation.intervals import Sources
from metadist_cli.evaluation.metrics import METRICS, compute, probabilities
from metadist_cli.evaluation.summary import MetricValues, metric_over_rows, metric_per_task, summary, with_difference

ALONE = Sources(None)  # tasks from neither nodes nor classes
Oracle = Callable[[np.ndarray, np.ndarray], float]  # (probabilities or values, y)


def auc(p: np.ndarray, y: np.ndarray) -> float:
    if p.shape[1] == 2:
        return float(sk.roc_auc_score(y, p[:, 1]))
    return float(np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in np.unique(y)]))


def balanced(p: np.ndarray, y: np.ndarray) -> float:
    with warnings.catch_warnings():  # of classes that are predicted and not there
        warnings.simplefilter("ignore")
        return float(sk.balanced_accuracy_score(y, p.argmax(1)))


def brier(p: np.ndarray, y: np.ndarray) -> float:
    if p.shape[1] == 2:
        return float(sk.brier_score_loss(y, p[:, 1], pos_label=1))
    return sum(float(sk.mean_squared_error(y == c, p[:, c])) for c in range(p.shape[1]))


def calibration(p: np.ndarray, y: np.ndarray) -> float:
    """By a plain loop over the bins."""
    best, right = p.max(1), p.argmax(1) == y
    total = 0.0
    for b in range(15):
        inside = (best > b / 15) & (best <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - best[inside].mean())
    return total


ORACLES: dict[str, Oracle] = {
    "accuracy": lambda p, y: float(sk.accuracy_score(y, p.argmax(1))),
    "balanced_accuracy": balanced,
    "macro_f1": lambda p, y: float(sk.f1_score(y, p.argmax(1), average="macro")),
    "auc": auc,
    "log_loss": lambda p, y: float(sk.log_loss(y, p, labels=range(p.shape[1]))),
    "brier": brier,
    "calibration_error": calibration,
    "mse": lambda out, y: float(sk.mean_squared_error(y, out)),
    "rmse": lambda out, y: float(sk.mean_squared_error(y, out)) ** 0.5,
    "mae": lambda out, y: float(sk.mean_absolute_error(y, out)),
    "r2": lambda out, y: float(sk.r2_score(y, out, multioutput="variance_weighted")),
}
CLASSES = [name for name, rule in METRICS.items() if rule.kind == "classification"]
VALUES = [name for name, rule in METRICS.items() if rule.kind == "regression"]


def test_every_score_has_its_oracle():
    assert set(ORACLES) == set(METRICS)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("count", [2, 3, 10])
@settings(deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(150, 250), spread=st.sampled_from([0.0, 1.0, 4.0]))
def test_classes_as_scikit_learn_has_them(name: str, count: int, seed: int, rows: int, spread: float):
    """Ties and sure mistakes among them; a class may be missing."""
    rng = np.random.default_rng(seed)
    outputs = (spread * rng.normal(size=(rows, count))).round(rng.integers(0, 3)).astype(np.float32)
    y = rng.integers(0, max(2, count - 1), rows)
    found = compute(name, outputs, y)
    assert found == pytest.approx(ORACLES[name](probabilities(outputs.astype(np.float64)), y), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", VALUES)
@settings(deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 40), width=st.integers(1, 3))
def test_values_as_scikit_learn_has_them(name: str, seed: int, rows: int, width: int):
    rng = np.random.default_rng(seed)
    outputs, y = (rng.normal(size=(rows, width)).astype(np.float32) for _ in range(2))
    assert compute(name, outputs, y) == pytest.approx(ORACLES[name](outputs.astype(np.float64), y.astype(np.float64)))


def test_chances_are_softmax():
    from scipy.special import softmax

    outputs = np.array([[0.0, 1000.0], [-1000.0, 3.0], [1.0, 1.0]])
    np.testing.assert_allclose(probabilities(outputs), softmax(outputs, axis=1), rtol=1e-14)


def test_by_hand():
    """Four rows, two classes: probabilities of the second 0.9, 0.2, 0.6, 0.4; truths 1, 0, 0, 1."""
    p = np.array([0.9, 0.2, 0.6, 0.4])
    outputs, y = np.log(np.stack([1 - p, p], 1)), np.array([1, 0, 0, 1])
    assert compute("accuracy", outputs, y) == 0.5
    assert compute("balanced_accuracy", outputs, y) == 0.5
    assert compute("auc", outputs, y) == 0.75  # of the four pairs just (0.4, 0.6) is the wrong way round
    assert compute("brier", outputs, y) == pytest.approx((0.01 + 0.04 + 0.36 + 0.36) / 4)
    assert compute("log_loss", outputs, y) == pytest.approx(-math.log(0.9 * 0.8 * 0.4 * 0.4) / 4)
    assert compute("macro_f1", outputs, y) == 0.5
    three = np.repeat(outputs[:1], 200, 0)  # sure to 0.9, right in 160 of 200
    assert compute("calibration_error", three, np.arange(200) % 5 > 0) == pytest.approx(0.1)


# Where it means nothing


@pytest.mark.parametrize("name", ["auc", "balanced_accuracy", "macro_f1"])
def test_one_class_alone_tells_nothing(name: str):
    outputs = np.random.default_rng(0).normal(size=(200, 3))
    assert compute(name, outputs, np.ones(200, dtype=int)) is None
    assert compute("accuracy", outputs, np.ones(200, dtype=int)) is not None


def test_too_few_rows():
    outputs, y = np.zeros((149, 2)), np.arange(149) % 2
    assert compute("calibration_error", outputs, y) is None
    assert compute("calibration_error", np.zeros((150, 2)), np.arange(150) % 2) == 0
    assert compute("r2", np.zeros((3, 1)), np.ones((3, 1))) is None
    assert compute("r2", np.zeros((1, 1)), np.ones((1, 1))) is None
    assert compute("mae", np.zeros((1, 1)), np.ones((1, 1))) == 1


@pytest.mark.parametrize("name", METRICS)
def test_what_diverged_is_no_number(name: str):
    width = 1 if METRICS[name].kind == "regression" else 2
    y = np.arange(200)[:, None] / 7 if width == 1 else np.arange(200) % 2
    outputs = np.zeros((200, width))
    for bad in (np.nan, np.inf):
        outputs[3, 0] = bad
        assert math.isnan(compute(name, outputs, y) or 0)


def answers(*labels: list[int], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(len(y), 3)), np.array(y)) for y in labels]


def test_tasks_where_it_is_not_defined_are_counted_and_left_out():
    some = answers([0, 1, 2], [1, 1, 1], [0, 0, 1, 1])
    found = metric_per_task("auc", some, ALONE, alike=True)
    assert found.values.tolist() == [compute("auc", *some[0]), compute("auc", *some[2])]
    assert (found.rows.tolist(), found.undefined) == ([3, 4], 1)
    assert found.over_rows == compute("auc", *(np.concatenate(column) for column in zip(*some, strict=True)))
    none = metric_per_task("auc", some[1:2], ALONE, alike=True)
    assert (len(none.values), none.over_rows, none.undefined) == (0, None, 1)
    empty = with_difference(none, none)
    assert (empty["mean"], empty["over_rows"], empty["n"], empty["difference"]["mean"]) == (None, None, 0, None)


def test_rows_of_tasks_with_other_classes_are_not_scored_together_by_class():
    some = answers([0, 1, 2], [2, 1, 0])
    for name in CLASSES[:-1]:
        assert (metric_over_rows(name, some, alike=False) is None) == METRICS[name].by_class
        assert metric_over_rows(name, some, alike=True) is not None
    assert {name for name in CLASSES if METRICS[name].by_class} == {"auc", "balanced_accuracy", "macro_f1"}
    assert metric_over_rows("auc", [], alike=True) is None


def test_a_task_that_diverged_is_counted_and_leaves_no_mean():
    some = answers([0, 1, 2], [0, 1, 1])
    some[1][0][0, 0] = np.nan
    out = with_difference(metric_per_task("log_loss", some, ALONE, alike=True), None)
    assert (out["mean"], out["over_rows"], out["non_finite"], out["n"]) == (None, None, 1, 2)


# Beside the main model


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_differences_are_those_of_a_paired_t_test(pairs: list[tuple[float, float]]):
    mine, main = np.array(pairs).T
    rows = np.ones(len(mine))
    out = with_difference(MetricValues(mine, rows, ALONE, 0.4), MetricValues(main, rows, ALONE, 0.7))["difference"]
    assert out["mean"] == pytest.approx(mine.mean() - main.mean(), abs=1e-12)
    assert out["over_rows"] == pytest.approx(-0.3)
    if np.ptp(mine - main) > 1e-6:
        low, high = stats.ttest_rel(mine, main).confidence_interval(0.95)
        assert out["ci95"] == pytest.approx((high - low) / 2)


def test_the_figure_itself_and_one_task():
    lone = MetricValues(np.array([0.5]), np.ones(1), ALONE, 0.5)
    out = with_difference(lone, None)
    assert out == summary(lone.values, lone.rows, ALONE) | {"difference": None}
    gap = with_difference(lone, MetricValues(np.array([0.75]), np.ones(1), ALONE, None))["difference"]
    assert (gap["mean"], gap["ci95"], gap["over_rows"]) == (-0.25, None, None)
    lost = with_difference(
        MetricValues(np.array([np.inf, 1.0]), np.ones(2), ALONE, None),
        MetricValues(np.array([np.inf, 1.0]), np.ones(2), ALONE, None),
    )
    assert (lost["difference"]["mean"], lost["difference"]["non_finite"]) == (None, 1)


# From the predictions that a run leaves behind

LOCAL = """\
data: {name: digits}
task: {kind: local, support: 20, query: 12, new: {test: 2}}
partition: {name: iid, nodes: 6, relabel: true}
model: {name: mlp, hidden: [16]}
train: {rounds: 1, local_steps: 4}
finetune: {episodes: 15, predictions: true, steps: 6, save: none, metrics: [METRICS]}
execution: {threads: 1}
baselines: {other: {learner: {name: reptile}}}
"""
EPISODIC = """\
task: {kind: episodic, way: 3, shot: 1, query: 4, new: {from: classes, test: 4}}
partition: {name: iid, nodes: 2}
model: {name: mlp, hidden: [16]}
learner: {name: LEARNER}
train: {rounds: 1, local_steps: 3}
finetune: {episodes: 14, predictions: true, save: none, metrics: [METRICS]}
execution: {threads: 1}
"""
SINUSOID = """\
data: {name: sinusoid, functions: 40, points: 12}
task: {kind: episodic, way: 1, shot: 4, query: 5, new: {from: classes, test: 8}}
partition: {name: natural, by: phase}
model: {name: mlp, hidden: [16]}
train: {rounds: 1, local_steps: 2}
finetune: {episodes: 10, predictions: true, save: none, metrics: [METRICS]}
execution: {threads: 1}
"""


def judged(tmp_path: Path, text: str, names: list[str]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """(metrics.json, predictions.csv) of a run."""
    lab = Lab(tmp_path, text.replace("METRICS", ", ".join(names)))
    lab("run")
    folder = lab.run() / "finetune" / "new"
    with (folder / "predictions.csv").open(newline="") as lines:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(lines))


def by_task(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    return [[row for row in rows if row["episode"] == number] for number in dict.fromkeys(r["episode"] for r in rows)]


def named(rows: list[dict[str, str]], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, y) of the rows of one task by the names of its outputs, in the order of `names`."""
    p = np.array([[float(row[f"p{i}"]) for i in range(len(names))] for row in rows])
    return p / p.sum(1, keepdims=True), np.array([names.index(row["label"]) for row in rows])


def check(found: dict[str, Any], name: str, tasks: list[tuple[np.ndarray, np.ndarray]], alike: bool = True) -> None:
    """A score in metrics.json is scikit-learn's, of the predictions (six decimals) of every task, and of all rows."""
    stat, rule = found["after"]["metrics"][name], METRICS[name]
    enough = [(p, y) for p, y in tasks if len(np.unique(y)) > rule.varied and len(y) >= rule.min_rows]
    assert (stat["n"], stat["undefined"]) == (len(enough), len(tasks) - len(enough))
    if enough:
        assert stat["mean"] == pytest.approx(np.mean([ORACLES[name](*task) for task in enough]), abs=1e-4)
    p, y = (np.concatenate(column) for column in zip(*tasks, strict=True))
    if len(y) < rule.min_rows or (rule.by_class and not alike):
        assert stat["over_rows"] is None
    else:
        assert stat["over_rows"] == pytest.approx(ORACLES[name](p, y), abs=1e-4)


@pytest.mark.usefixtures("plain")
def test_local_tasks(tmp_path: Path):
    """Nodes number the classes in ways of their own, and are scored together by what the classes are called."""
    found, rows = judged(tmp_path, LOCAL, CLASSES)
    shards = json.loads((tmp_path / "runs" / "tiny" / "shards" / "manifest.json").read_text())
    own = {str(n["node"]): n["labels"] for n in shards["nodes"]}
    tasks = []
    for task in by_task(rows):
        names = [""] * 10  # of the outputs of this node's model
        for c, number in enumerate(own[task[0]["node"]]):
            names[number] = shards["classes"][c]
        p, _ = named(task, names)
        p = p[:, [names.index(c) for c in shards["classes"]]]
        tasks.append((p, np.array([shards["classes"].index(row["label"]) for row in task])))
    assert len(tasks) == 15
    for name in CLASSES:
        check(found, name, tasks)
    assert found["after"]["metrics"]["calibration_error"]["undefined"] == 15
    assert found["after"]["metrics"]["accuracy"]["mean"] == pytest.approx(found["after"]["mean"])
    assert found["after"]["metrics"]["accuracy"]["over_rows"] == pytest.approx(found["after"]["over_rows"])
    first, second = (np.concatenate([y for _, y in tasks[s]]) for s in (slice(0, 8), slice(8, 15)))
    assert [len(first), len(second)] == [12 * n["episodes"] for n in found["per_node"]]
    for node, part in zip(found["per_node"], (tasks[:8], tasks[8:]), strict=True):
        p, y = (np.concatenate(column) for column in zip(*part, strict=True))
        here = node["methods"]["main"]["after"]
        assert here["mean"] == pytest.approx(node["after"])
        assert here["metrics"]["auc"] == pytest.approx(ORACLES["auc"](p, y), abs=1e-4)
        assert here["metrics"]["calibration_error"] is None
        for other in ("untrained", "other"):
            there = node["methods"][other]["after"]
            assert there["difference"]["mean"] == pytest.approx(there["mean"] - node["after"])
    for method in (found["untrained"], found["before"], *(found["baselines"]["other"][k] for k in ("before", "after"))):
        for name in CLASSES:
            stat, best = method["metrics"][name], found["after"]["metrics"][name]
            assert (stat["n"], stat["undefined"]) == (best["n"], best["undefined"])
            if stat["n"]:
                assert stat["difference"]["mean"] == pytest.approx(stat["mean"] - best["mean"])


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("learner", ["maml", "ridge", "prototypical"])
def test_episodic_tasks(tmp_path: Path, learner: str):
    found, rows = judged(tmp_path, EPISODIC.replace("LEARNER", learner), CLASSES)
    tasks = []
    for task in by_task(rows):
        names = list(dict.fromkeys(row["label"] for row in task))  # queries stand class by class
        tasks.append(named(task, names))
    for name in CLASSES:
        check(found, name, tasks, alike=False)
    assert found["after"]["metrics"]["calibration_error"]["over_rows"] is not None  # 14 times 12 rows


@pytest.mark.usefixtures("plain")
def test_regression(tmp_path: Path):
    found, rows = judged(tmp_path, SINUSOID, VALUES)
    tasks = [
        tuple(np.array([[float(row[key])] for row in task]) for key in ("prediction", "target"))
        for task in by_task(rows)
    ]
    for name in VALUES:
        stat = found["after"]["metrics"][name]
        assert stat["mean"] == pytest.approx(np.mean([ORACLES[name](*task) for task in tasks]), rel=1e-5)
        every = (np.concatenate(column) for column in zip(*tasks, strict=True))
        assert stat["over_rows"] == pytest.approx(ORACLES[name](*every), rel=1e-5)
    assert found["after"]["metrics"]["mse"]["mean"] == pytest.approx(found["after"]["mean"])


@pytest.mark.usefixtures("plain")
def test_a_task_of_ones_own_with_and_without_labels(lab: Lab):
    x = np.arange(40 * 64).reshape(40, 8, 8) % 17
    y = np.arange(20) % 3
    np.savez(lab.folder / "told.npz", support_x=x[:20], support_y=y, query_x=x[20:], query_y=y)
    np.savez(lab.folder / "untold.npz", support_x=x[:20], support_y=y, query_x=x[20:])
    wanted = "finetune.metrics=[auc, calibration_error]"
    lab("run", "train.rounds=1")
    for name, count in (("told", 1), ("untold", 0)):
        lab("finetune", "train.rounds=1", wanted, "--task", str(lab.folder / f"{name}.npz"))
        found = json.loads((lab.run() / "finetune" / f"task-{name}" / "metrics.json").read_text())
        for key in ("before", "after", "untrained"):
            some = found[key]["metrics"]
            assert [some[s]["n"] + some[s]["undefined"] for s in ("auc", "calibration_error")] == [count, count]
            assert (some["auc"]["over_rows"] is None) == (count == 0)
            assert some["auc"]["mean"] == some["auc"]["over_rows"]


# In a config


def test_wrong_names_and_kinds_are_reported_before_anything_is_written(lab: Lab):
    said = lab("run", "finetune.metrics=[auc, brierr]", code=3).err
    assert "item 2 of `metrics` must be accuracy, " in said
    assert "did you mean `brier`?" in said
    said = lab("run", "finetune.metrics=[auc, rmse]", code=3).err
    assert "`rmse` is a metric for regression, not for classification" in said
    for command in ("run", "partition"):
        said = lab(command, "finetune.metrics=[rmse]", code=3).err
        assert "`rmse` is a metric for regression, not for classification" in said
        assert (
            "metrics for classification: accuracy, balanced_accuracy, macro_f1, auc, log_loss, brier, calibration_error"
            in said
        )
    assert not lab.runs.exists()
    lab("run", "train.rounds=1")
    before = (lab.run() / "finetune" / "new" / "metrics.json").read_bytes()
    assert "`mae` is a metric for regression" in lab("finetune", "train.rounds=1", "finetune.metrics=[mae]", code=3).err
    assert (lab.run() / "finetune" / "new" / "metrics.json").read_bytes() == before
