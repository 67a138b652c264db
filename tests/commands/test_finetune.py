"""What finetune leaves behind: figures that can be worked out again, predictions, models that stand alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from maths import EPS
from runner import Lab, results

import metadist_cli
from metadist_cli.data.sets import DATASETS

QUICK = ("train.rounds=1", "finetune.predictions=true")
DIGITS = """\
task: {kind: episodic, way: 2, shot: 1, query: 3, new: {from: classes, test: ["7", "8", "9"]}}
partition: {name: iid, nodes: 3}
model: {name: mlp, hidden: [16]}
train: {rounds: 2, local_steps: 2, meta_batch: 2}
finetune: {episodes: 20, predictions: true, steps: 2}
execution: {threads: 1}
"""
SINUSOID = """\
data: {name: sinusoid, functions: 40, points: 12}
task: {kind: episodic, way: 1, shot: 4, query: 5, new: {from: classes, test: 8}}
partition: {name: natural, by: phase}
model: {name: mlp, hidden: [16]}
learner: {name: reptile, inner_lr: 0.01, inner_steps: 2}
train: {rounds: 2, local_steps: 2, meta_batch: 2}
finetune: {episodes: 10, predictions: true}
execution: {threads: 1}
"""
SYNTHETIC = """\
data: {name: synthetic, nodes: 6, features: 12, rows: 30}
task: {kind: local, support: 0.2, new: {test: [user-2, user-5]}}
partition: {name: natural, by: user}
model: {name: mlp, hidden: [8]}
learner: {name: supervised, inner_lr: 0.5}
train: {rounds: 2, local_epochs: 2, batch: 8, outer: {name: sgd, lr: 0.1}}
finetune: {episodes: 9, predictions: true}
execution: {threads: 1}
baselines:
  second: {learner: {name: maml, inner_lr: 0.5}, train: {rounds: 1, local_steps: 2}}
"""


def metrics(lab: Lab) -> dict:
    return json.loads((lab.run() / "finetune" / "new" / "metrics.json").read_text())


def table(lab: Lab) -> list[dict[str, str]]:
    with (lab.run() / "finetune" / "new" / "predictions.csv").open(newline="") as text:
        return list(csv.DictReader(text))


def by_episode(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    return [[row for row in rows if row["episode"] == str(i)] for i in range(1 + int(rows[-1]["episode"]))]


def right(rows: list[dict[str, str]]) -> float:
    return float(np.mean([row["label"] == row["prediction"] for row in rows]))


def chances(row: dict[str, str]) -> list[float]:
    return [float(row[key]) for key in row if key[0] == "p" and key[1:].isdigit()]


def test_every_figure(lab: Lab):
    """The real report, its keys and the four ways to say how good a method is."""
    lab("run", *QUICK, "finetune.steps=2")
    folder, found = lab.run() / "finetune" / "new", metrics(lab)
    keys = "format name task metric headline learner model round global seed device task_text interval episodes steps "
    keys += "transductive before after untrained per_step untrained_per_step baselines local per_node node_spread "
    keys += "inputs diverged selection seconds files"
    assert set(found) == set(keys.split())
    for key in ("before", "after", "untrained"):
        told = {"mean", "over_rows", "ci95", "ci95_tasks", "median", "non_finite", "n"}
        assert told | {"difference", "metrics"} == set(found[key])
        if key != "after":
            assert set(found[key]["difference"]) == told
            gap = found[key]["mean"] - found["after"]["mean"]
            assert found[key]["difference"]["mean"] == pytest.approx(gap, abs=1e-7)
        assert 0 <= found[key]["mean"] <= 1
        assert found[key]["n"] == found["episodes"] == 6
    for steps in (found["per_step"], found["untrained_per_step"]):
        assert [s["step"] for s in steps] == [0, 1, 2]
    for step, one in (
        (found["per_step"][0], found["before"]),
        (found["per_step"][2], found["after"]),
        (found["untrained_per_step"][2], found["untrained"]),
    ):
        assert {k: v for k, v in one.items() if k not in ("difference", "metrics")} | {"step": step["step"]} == step
    assert found["after"]["difference"] is None
    held = [n["node"] for n in lab.shards()["nodes"] if n["role"] == "test"]
    assert [(n["node"], n["episodes"]) for n in found["per_node"]] == [(n, 3) for n in held]
    assert np.mean([n["after"] for n in found["per_node"]]) == pytest.approx(found["after"]["mean"])
    assert set(found["files"]) | {"metrics.json"} == {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    }
    page = (folder / "report.html").read_text()
    assert f"{100 * found['after']['mean']:.1f}" in page
    assert page.count("data:image/png;base64,") >= 4
    for outside in ("http:", "https:", "<script", 'src="/'):
        assert outside not in page


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("relabel", ["false", "true"])
def test_predictions_of_local_tasks(lab: Lab, relabel: str):
    lab("run", *QUICK, f"partition.relabel={relabel}", "finetune.steps=3", "learner.inner_lr=0.5")
    found, rows, data = metrics(lab), table(lab), DATASETS["digits"](0)
    assert len(rows) == 6 * 10
    episodes = by_episode(rows)
    assert [len(e) for e in episodes] == [10] * 6
    assert np.mean([right(e) for e in episodes]) == pytest.approx(found["after"]["mean"], abs=1e-6)
    held = {str(n["node"]): n for n in lab.shards()["nodes"] if n["role"] == "test"}
    numbering = {tuple(n.get("labels", ())) for n in held.values()}
    assert len(numbering) == (2 if relabel == "true" else 1)
    for row in rows:
        assert data.classes[data.label[int(row["row"])]] == row["label"]
        assert row["node"] in held
        assert sum(chances(row)) == pytest.approx(1, abs=1e-5)
    for node, entry in held.items():
        mine = [e for e in episodes if e[0]["node"] == node]
        told = next(n for n in found["per_node"] if n["node"] == int(node))
        assert np.mean([right(e) for e in mine]) == pytest.approx(told["after"], abs=1e-6)
        names = [""] * 10  # of the outputs
        for c, number in enumerate(entry.get("labels", range(10))):
            names[number] = data.classes[c]
        for row in (row for e in mine for row in e):
            assert names[int(np.argmax(chances(row)))] == row["prediction"]
    check_model(lab, data.x, episodes)


def check_model(lab: Lab, x: np.ndarray, episodes: list[list[dict[str, str]]]) -> None:
    """The saved model stands alone, and says of episode 0's rows what the table says."""
    model = metadist_cli.load(lab.run() / "finetune" / "new" / "adapted.safetensors")
    rows = x[[int(row["row"]) for row in episodes[0]]]
    answer = model.predict(rows)
    if model.classes:
        assert list(answer) == [row["prediction"] for row in episodes[0]]
        assert set(answer) <= set(model.classes)
    else:
        written = np.array([float(row["prediction"]) for row in episodes[0]])
        np.testing.assert_allclose(answer[:, 0], written, rtol=0, atol=64 * EPS * np.abs(written).max())
    with pytest.raises(metadist_cli.core.errors.Problem, match="rows of shape"):
        model.predict(rows[..., :0])


@pytest.mark.usefixtures("plain")
def test_new_nodes_of_unlike_sizes_are_told_as_they_are(tmp_path: Path):
    lab = Lab(tmp_path, SYNTHETIC.replace(", rows: 30", ""))
    lab("run")
    sizes = [len(rows) for rows in by_episode(table(lab))]
    assert min(sizes) < max(sizes)
    assert f"{min(sizes)} to {max(sizes)} query rows" in metrics(lab)["task_text"]


def test_new_classes(tmp_path: Path):
    lab = Lab(tmp_path, DIGITS)
    lab("run")
    found, rows, data = metrics(lab), table(lab), DATASETS["digits"](0)
    assert "2-way 1-shot" in found["task_text"]
    episodes = by_episode(rows)
    assert [len(e) for e in episodes] == [6] * 20
    for episode in episodes:
        labels = {row["label"] for row in episode}
        assert len(labels) == 2
        assert labels <= {"7", "8", "9"}
        for row in episode:
            assert data.classes[data.label[int(row["row"])]] == row["label"]
            assert row["prediction"] in labels
            assert len(chances(row)) == 2
    assert np.mean([right(e) for e in episodes]) == pytest.approx(found["after"]["mean"], abs=1e-6)
    trained = {c for n in lab.shards()["nodes"] if n["role"] == "train" for c, _ in n["classes"]}
    assert trained == set(range(7))
    check_model(lab, data.x, episodes)
    lab("finetune", "finetune.task={shot: 2, query: 4}")
    assert "2-way 2-shot" in metrics(lab)["task_text"]
    assert len(table(lab)) == 20 * 8
    for way in (1, 3):
        for more in ((), ("--dry-run",)):
            said = lab("finetune", f"finetune.task={{way: {way}}}", *more, code=3).err
            assert f"the model has 2 outputs, but a new task has {way} classes" in said
    assert "with 1001 rows each" in lab("finetune", "finetune.task={query: 1000}", code=3).err


@pytest.mark.usefixtures("plain")
def test_regression(tmp_path: Path):
    lab = Lab(tmp_path, SINUSOID)
    lab("run")
    found, rows, data = metrics(lab), table(lab), DATASETS["sinusoid"](0, functions=40, points=12)
    assert found["metric"] == "mse"
    episodes = by_episode(rows)
    assert [len(e) for e in episodes] == [5] * 10
    errors = []
    for episode in episodes:
        for row in episode:
            assert float(row["target"]) == data.target[int(row["row"]), 0]
        assert len({data.label[int(row["row"])] for row in episode}) == 1
        errors.append(np.mean([(float(row["target"]) - float(row["prediction"])) ** 2 for row in episode]))
    assert np.mean(errors) == pytest.approx(found["after"]["mean"], rel=1e-5)
    check_model(lab, data.x, episodes)


@pytest.mark.usefixtures("plain")
def test_natural_nodes_and_baselines(tmp_path: Path):
    lab = Lab(tmp_path, SYNTHETIC)
    lab("run")
    found, rows = metrics(lab), table(lab)
    data = DATASETS["synthetic"](0, nodes=6, features=12, rows=30)
    assert [n["name"] for n in found["per_node"]] == ["user-2", "user-5"]
    assert [n["episodes"] for n in found["per_node"]] == [5, 4]
    assert {data.groups["user"].code[int(row["row"])] for row in rows} == {2, 5}
    assert len(rows) == 9 * 24
    second = found["baselines"]["second"]
    assert second["round"] == 1
    assert second["after"]["n"] == 9
    check_model(lab, data.x, by_episode(rows))
    lab("partition", name="alone")
    lab("train", name="alone")
    lab("aggregate", name="alone")
    assert "baseline second is left out, since it is not trained yet" in lab("finetune", name="alone").out
    assert lab.checkpoint(2, "alone") == lab.checkpoint(2)


@pytest.mark.usefixtures("plain")
def test_again_with_other_settings(lab: Lab):
    lab("run", *QUICK)
    rounds = {k: v for k, v in results(lab.run()).items() if k.startswith(("rounds", "shards"))}
    before = results(lab.run())
    assert "already done" in lab("finetune", *QUICK).out
    assert results(lab.run()) == before
    lab("finetune", *QUICK, "finetune.steps=4")
    assert metrics(lab)["steps"] == 4
    assert {k: v for k, v in results(lab.run()).items() if k.startswith(("rounds", "shards"))} == rounds
    lab("finetune", *QUICK, "finetune.steps=0")
    start = metrics(lab)["before"]
    assert (start["difference"]["mean"], start["difference"]["ci95_tasks"]) == (0, 0)
    assert start | {"difference": None} == metrics(lab)["after"]
    lab("finetune", *QUICK)
    assert results(lab.run()) == before
    lab("finetune", *QUICK, "finetune.name=more", "finetune.steps=2")
    assert {k: v for k, v in results(lab.run()).items() if "/more/" not in k} == before
    lab("finetune", *QUICK, "finetune.round=0")
    assert metrics(lab)["round"] == 0
    assert "round 1 is the newest" in lab("finetune", *QUICK, "finetune.round=2", code=4).err
    (lab.run() / "finetune" / "new" / "report.html").unlink()
    lab("finetune", *QUICK, "finetune.round=0")
    assert (lab.run() / "finetune" / "new" / "report.html").exists()


@pytest.mark.usefixtures("plain")
def test_which_models_are_saved(lab: Lab):
    folder = lab.run() / "finetune" / "new"
    lab("run", *QUICK, "finetune.save=all")
    first = (folder / "adapted.safetensors").read_bytes()
    all_of_them = sorted((folder / "adapted").iterdir())
    assert [p.name for p in all_of_them] == [f"episode-{i:05d}.safetensors" for i in range(6)]
    assert all_of_them[0].read_bytes() == first
    x = DATASETS["digits"](0).x
    for path, episode in zip(all_of_them, by_episode(table(lab)), strict=True):
        answer = metadist_cli.load(path).predict(x[[int(row["row"]) for row in episode]])
        assert list(answer) == [row["prediction"] for row in episode]
    lab("finetune", *QUICK, "finetune.save=none", "finetune.predictions=false")
    assert {p.name for p in folder.rglob("*") if p.is_file()} == {"metrics.json", "report.html", "nodes.csv"}
    lab("finetune", *QUICK)
    assert (folder / "adapted.safetensors").read_bytes() == first
    assert not list(folder.glob("adapted/*"))


EPISODIC = (
    "task={kind: episodic, way: 3, shot: 2, query: 3, new: {from: classes, test: 4}}",
    "partition={name: iid, nodes: 2}",
    "finetune.episodes=4",
)


def test_a_solved_head_takes_another_number_of_classes(lab: Lab, plain: None):
    """Of new tasks, and of a task of one's own; a last layer that was trained does not."""
    import metadist_cli

    x = np.arange(8 * 64).reshape(8, 8, 8) % 17
    two = lab.folder / "two.npz"
    np.savez(two, support_x=x[:4], support_y=[0, 1, 0, 1], query_x=x[4:], query_y=[0, 1, 0, 1])
    lab("run", *EPISODIC, "learner={name: ridge}", "finetune.task.way=4")
    assert metrics(lab)["task_text"].startswith("4-way 2-shot")
    assert len(metadist_cli.load(lab.run() / "finetune" / "new" / "adapted.safetensors").classes) == 4
    lab("finetune", *EPISODIC, "learner={name: ridge}", "--task", str(two))
    own = metadist_cli.load(lab.run() / "finetune" / "task-two" / "adapted.safetensors")
    assert own.classes == ("0", "1")
    assert set(own.predict(x)) <= {"0", "1"}
    assert "the model has 3 outputs" in lab("run", *EPISODIC, "finetune.task.way=4", name="maml", code=3).err
    beside = "baselines.other={learner: {name: maml}}"
    told = lab("run", *EPISODIC, "learner={name: ridge}", beside, "finetune.task.way=4", name="both", code=3).err
    assert "baselines.other.finetune.task.way" in told
    lab("run", *EPISODIC, name="maml")
    assert (
        "the model's last layer has 3 outputs"
        in lab("finetune", *EPISODIC, "--task", str(two), name="maml", code=4).err
    )
