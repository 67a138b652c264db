"""Standardized targets, and what is said and done where training diverges."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from runner import Lab
from safetensors.torch import load

import metadist_cli

CONFIG = """\
data: {name: table, path: PATH, target: y, kind: regression, groups: [site]}
task: {kind: local, support: 8, query: 8, new: {from: nodes, test: [g, h]}}
partition: {name: natural, by: site, scale: train}
model: {name: mlp, hidden: [8]}
learner: {name: maml, inner_lr: 0.1, inner_steps: 3}
train: {rounds: 2, local_steps: 10, meta_batch: 2, outer: {name: adam, lr: 0.01}}
finetune: {steps: 5, episodes: 6, metrics: [mae], predictions: true}
execution: {threads: 1}
"""
SUPERVISED = "learner: {name: supervised, inner_lr: 0.01}"
pytestmark = pytest.mark.usefixtures("plain")


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Of 8 sites with 30 rows each: x (240, 2), and y (240,) of 29 +- 10."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 2)).round(4)
    return x, (29 + 7 * x @ [1, -1] + np.repeat(rng.normal(0, 3, 8), 30) + rng.normal(size=240)).round(3)


def write(folder: Path, x: np.ndarray, y: np.ndarray, text: str = CONFIG) -> Lab:
    folder.mkdir(exist_ok=True)
    lines = [
        f"{'abcdefgh'[i // 30]},{a!r},{b!r},{c!r}"
        for i, ((a, b), c) in enumerate(zip(x.tolist(), y.tolist(), strict=True))
    ]
    (folder / "rows.csv").write_text("\n".join(["site,u,v,y", *lines]) + "\n")
    return Lab(folder, text.replace("PATH", str(folder / "rows.csv")))


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def metrics(lab: Lab) -> dict:
    return json.loads((lab.run() / "finetune" / "new" / "metrics.json").read_text())


# ------------------------------------------------------------------------------------------------------- targets


def test_targets_are_standardized_by_the_training_nodes_and_everything_is_in_the_datas_units(tmp_path: Path) -> None:
    """Beside the same experiment on targets that were standardized by hand: the same weights, to the bit."""
    x, y = rows()
    train = y[:180].astype(np.float32).astype(float)
    mean, deviation = train.mean(), train.std(ddof=1)
    z = ((y.astype(np.float32) - mean) / deviation).astype(np.float32)
    ours, hand = write(tmp_path / "ours", x, y), write(tmp_path / "hand", x, z.astype(float))
    ours("run")
    hand("run", "partition.targets=none")
    one, two = (load(lab.checkpoint(2)) for lab in (ours, hand))
    assert {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in two.items()}
    spec, bare = (lab.shards()["spec"] for lab in (ours, hand))
    assert spec["target_mean"] == pytest.approx([mean], rel=1e-12)
    assert spec["target_deviation"] == pytest.approx([deviation], rel=1e-12)
    assert bare["target_mean"] == bare["target_deviation"] == []
    for when in ("before", "after"):
        mine, theirs = metrics(ours)[when], metrics(hand)[when]
        assert mine["mean"] == pytest.approx(theirs["mean"] * deviation**2, rel=1e-4)
        assert mine["metrics"]["mae"]["mean"] == pytest.approx(theirs["metrics"]["mae"]["mean"] * deviation, rel=1e-4)
    lines, others = (table(lab.run() / "finetune" / "new" / "predictions.csv") for lab in (ours, hand))
    for line, other in zip(lines, others, strict=True):
        assert float(line["target"]) == np.float32(y[int(line["row"])])
        assert float(line["prediction"]) == pytest.approx(float(other["prediction"]) * deviation + mean, rel=1e-5)
    last, before = (json.loads((lab.run() / "metrics.jsonl").read_text().splitlines()[-1]) for lab in (ours, hand))
    assert last["loss"] == before["loss"]
    assert last["mse"] == pytest.approx(before["mse"] * deviation**2, rel=1e-4)


def test_a_users_task_has_targets_and_predictions_in_the_datas_units(tmp_path: Path) -> None:
    x, y = rows()
    lab = write(tmp_path, x, y, CONFIG.replace(", scale: train", ""))
    lab("run", "learner.inner_lr=0.05")
    mine = tmp_path / "mine.csv"
    lines = [f"{'support' if i < 8 else 'query'},{y[180 + i]},{x[180 + i, 0]},{x[180 + i, 1]}" for i in range(20)]
    mine.write_text("\n".join(["part,target,u,v", *lines]) + "\n")
    lab("finetune", "learner.inner_lr=0.05", "--task", str(mine))
    folder = lab.run() / "finetune" / "task-mine"
    lines = table(folder / "predictions.csv")
    assert [float(line["target"]) for line in lines] == [np.float32(v) for v in y[188:200]]
    predicted = np.array([float(line["prediction"]) for line in lines])
    assert abs(predicted - y[188:200]).mean() < 6
    told = json.loads((folder / "metrics.json").read_text())
    assert told["after"]["mean"] == pytest.approx(((predicted - y[188:200]) ** 2).mean(), rel=1e-4)
    model = metadist_cli.load(folder / "adapted.safetensors")
    np.testing.assert_allclose(model.predict(x[188:200].astype(np.float32))[:, 0], predicted, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------- divergence


def large_features(x: np.ndarray, y: np.ndarray) -> None:
    x *= 1000


def outlier(x: np.ndarray, y: np.ndarray) -> None:
    x[3, 0] = 1e9


def nothing(x: np.ndarray, y: np.ndarray) -> None:
    pass


RAW = "partition.targets=none"
# What is wrong, settings, what the message says that it saw, and what the hint names.
WRONG = {
    "targets": (nothing, [RAW, "learner.inner_steps=5"], "largest target ", "partition.targets=train"),
    "features": (large_features, ["partition.scale=none"], "e+03", "partition.scale=train"),
    "outlier": (outlier, ["partition.scale=robust"], "largest feature ", "partition.clip=5"),
    "outer": (nothing, ["train.outer={name: sgd, lr: 5.0}"], "train.outer.lr 5", "train.outer.lr=0.5"),
    "inner": (nothing, ["learner.inner_lr=3.0", "learner.inner_steps=8"], "learner.inner_lr 3", "learner.inner_lr=0.3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_run_that_diverges_says_what_it_saw_and_its_hint_helps(tmp_path: Path, name: str) -> None:
    change, settings, saw, named = WRONG[name]
    x, y = rows()
    change(x, y)
    lab = write(tmp_path, x, y)
    told = " ".join(lab("run", *settings, code=4).err.split())
    assert "training diverged" in told
    assert saw in told
    hint = told.partition("-> ")[2]
    assert named in hint
    lab("run", *settings, *shlex.split(hint.partition(": ")[2]))
    assert np.isfinite(metrics(lab)["after"]["mean"])


BASELINES = "baselines={wild: {train: {rounds: 2, outer: {name: sgd, lr: 1e30}}}, calm: {learner: {name: supervised}}}"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_baseline_that_diverges_is_reported_and_does_not_end_the_run(tmp_path: Path, workers: int) -> None:
    lab = write(tmp_path, *rows())
    settings = (BASELINES, f"execution.workers={workers}", "execution.block=2")
    told = lab("run", *settings)
    assert "baseline wild is left out" in told.out + told.err
    assert "train.outer.lr 1e+30" in " ".join((told.out + told.err).split())
    found = metrics(lab)
    assert list(found["baselines"]) == ["calm"]
    assert list(found["diverged"]) == ["wild"]
    assert "training diverged" in found["diverged"]["wild"]
    from metadist_cli.report.how_to_read import notes

    assert any(note.startswith("wild is missing because its training diverged") for note in notes(found))
    again = lab("finetune", *settings)
    assert "baseline wild is left out" in again.out
    assert "already done" in again.out
