"""Several seeds in one experiment: each is a run as if it were alone, and the summary is that of their figures."""

from __future__ import annotations

import csv
import json
import signal
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner import SMALL, Lab, contents, process

SEEDS = "seeds=[0, 3]"
pytestmark = pytest.mark.usefixtures("plain")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def checkpoint(lab: Lab, seed: int, number: int = 2) -> bytes:
    return (lab.run() / f"seed-{seed}" / "rounds" / f"{number:04d}" / "global.safetensors").read_bytes()


def metrics(path: Path) -> dict[str, Any]:
    return json.loads((path / "finetune" / "new" / "metrics.json").read_text())


def test_every_seed_is_the_run_that_it_would_be_alone(lab: Lab):
    lab("run", *SMALL, SEEDS)
    for seed in (0, 3):
        lab("run", *SMALL, f"seed={seed}", name=f"alone-{seed}")
        assert checkpoint(lab, seed) == lab.checkpoint(2, f"alone-{seed}")
        mine, alone = metrics(lab.run() / f"seed-{seed}"), metrics(lab.run(f"alone-{seed}"))
        assert mine["after"] == alone["after"]
    assert checkpoint(lab, 0) != checkpoint(lab, 3)


def test_the_summary_has_the_mean_and_the_spread_of_every_method(lab: Lab):
    said = lab("run", *SMALL, SEEDS).out
    found = json.loads((lab.run() / "finetune" / "new" / "seeds.json").read_text())
    each = [metrics(lab.run() / f"seed-{seed}") for seed in (0, 3)]
    assert (found["seeds"], found["metric"]) == ([0, 3], "accuracy")
    for label, of in (("maml", lambda m: m["after"]), ("nearest", lambda m: m["local"]["nearest"]["after"])):
        values = [of(m)["mean"] for m in each]
        assert found["methods"][label]["each"] == values
        assert found["methods"][label]["mean"] == pytest.approx(statistics.mean(values))
        assert found["methods"][label]["sd"] == pytest.approx(statistics.stdev(values))
    assert "mean and standard deviation over 2 seeds" in said


def test_step_by_step_and_killed_it_ends_in_the_same_bytes(lab: Lab):
    lab("run", *SMALL, SEEDS, name="calm")
    wanted = {k: v for k, v in contents(lab.run("calm")).items() if k.endswith((".safetensors", "metrics.json"))}
    killed = lab.process("run", *SMALL, SEEDS, FAULT=f"renamed:30:{int(signal.SIGKILL)}")
    assert killed.code == -signal.SIGKILL
    for command in ("partition", "train", "aggregate", "finetune"):
        lab(command, *SMALL, SEEDS)
    assert "already done" in lab("finetune", *SMALL, SEEDS).out
    found = contents(lab.run())
    for name, data in wanted.items():
        if name.endswith(".safetensors"):
            assert found[name] == data, name
        else:
            assert json.loads(found[name])["after"] == json.loads(data)["after"]


def test_the_folder_of_all_seeds_is_a_config_and_a_dry_run_writes_nothing(lab: Lab):
    assert "seed 3" in lab("run", *SMALL, SEEDS, "--dry-run").out
    assert not lab.runs.exists()
    lab("run", *SMALL, SEEDS)
    again = process("run", str(lab.run()))
    assert again.code == 0, again
    assert again.out.count("already done") >= 4
    assert "twice" in lab("run", "seeds=[1, 1]", code=3).err


def test_scores_by_node_and_method_are_written_for_any_number_of_nodes(lab: Lab):
    many = (*SMALL, "partition.nodes=20", "data.nodes=20", "task.new.test=14", "finetune.episodes=28")
    lab("run", *many, "finetune.parquet=true", "finetune.predictions=true", "finetune.metrics=[log_loss]")
    folder = lab.run() / "finetune" / "new"
    with (folder / "nodes.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = metrics(lab.run())
    methods = {"main", "untrained", "local-only", "constant", "nearest", "linear"}
    assert {row["method"] for row in rows} == methods
    after = [row for row in rows if row["method"] == "main" and row["when"] == "after"]
    assert len(after) == 14
    assert np.mean([float(row["accuracy"]) for row in after]) == pytest.approx(found["after"]["mean"])
    nearest = [float(row["accuracy"]) for row in rows if row["method"] == "nearest"]
    assert np.mean(nearest) == pytest.approx(found["local"]["nearest"]["after"]["mean"])

    from pyarrow import parquet

    same = parquet.read_table(folder / "nodes.parquet").to_pylist()
    assert [{k: str(v) for k, v in row.items()} for row in same] == rows
    for method in methods - {"main"}:
        with (folder / "predictions" / f"{method}.csv").open(newline="") as lines:
            told = list(csv.DictReader(lines))
        right = np.mean([row["label"] == row["prediction"] for row in told])
        node = [float(row["accuracy"]) for row in rows if row["method"] == method and row["when"] == "after"]
        assert right == pytest.approx(np.mean(node))


def test_the_training_figures_of_every_node_are_kept_where_asked(lab: Lab):
    asked = (*SMALL, "train.node_metrics=true")
    lab("run", *asked)
    lab("partition", *SMALL, name="hand")
    for _ in range(2):
        for node in (2, 0, 1):
            lab("train", *asked, "execution.block=1", "--nodes", str(node), name="hand")
        lab("aggregate", *asked, "execution.block=1", name="hand")
    with (lab.run() / "rounds.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["round"], row["node"]) for row in rows] == [(r, n) for r in "12" for n in "012"]
    lines = [json.loads(line) for line in (lab.run() / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        mine = [row for row in rows if row["round"] == str(line["round"])]
        weights = [int(row["rows"]) for row in mine]
        assert np.average([float(row["loss"]) for row in mine], weights=weights) == pytest.approx(line["loss"])
    by_hand = (lab.run("hand") / "rounds.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in by_hand] == [
        line.split(",")[:3] for line in (lab.run() / "rounds.csv").read_text().splitlines()
    ]
    lab("run", *SMALL, name="not-asked")
    assert not list(lab.run("not-asked").rglob("rounds.csv"))
