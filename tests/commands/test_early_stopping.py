"""Rounds are evaluated on validation tasks: training stops early and the best round is adapted, in every launch."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner import ROOT, Lab, by_hand, crash, environment, node_by_node, results

from metadist_cli.core import files
from metadist_cli.core.errors import RETRY

pytestmark = pytest.mark.usefixtures("plain")
ROUNDS = 8
JUMPY = (  # the score goes up and down: a step size that is too large
    "data={name: synthetic, nodes: 5, rows: 24, features: 12}",
    "partition.nodes=5",
    "task.new={test: 1, validation: 1}",
    "task.support=4",
    "train.outer.lr=0.3",
    "finetune={episodes: 2, tune: false, headline: accuracy}",
)
LONG = (*JUMPY, f"train.rounds={ROUNDS}")
MANY = "data={name: synthetic, nodes: 5, rows: 60, features: 12}"
NEVER = "train.early_stopping.patience=null"
ONE = "execution.block=1"


def patience(count: int) -> str:
    return f"train.early_stopping.patience={count}"


def scores(run: Path) -> dict[int, float]:
    """The validation score of every evaluated round."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["round"]: line["validation"] for line in lines if "validation" in line}


def closed(run: Path) -> int:
    return max(int(path.parent.name) for path in run.glob("rounds/*/global.safetensors"))


def metrics(run: Path, folder: str = "new") -> dict[str, Any]:
    return json.loads((run / "finetune" / folder / "metrics.json").read_text())


def last_round(found: dict[int, float], count: int) -> int:
    """By a plain loop, for scores of which higher is better."""
    best, since = -math.inf, 0
    for number, score in found.items():
        best, since = (score, 0) if score > best else (best, since + 1)
        if since == count:
            return number
    return ROUNDS


def weights(checkpoint: bytes) -> dict[str, list[float]]:
    return {name: leaf.tolist() for name, leaf in files.unpack(checkpoint, "")[0].items()}


# ------------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("every", [1, 2])
def test_training_stops_where_a_plain_loop_over_the_scores_stops(lab: Lab, every: int):
    settings = (*LONG, "finetune.save=none", f"train.early_stopping.every={every}")
    lab("run", *settings, NEVER, name="whole")
    found = scores(lab.run("whole"))
    assert list(found) == list(range(every, ROUNDS + 1, every))
    assert last_round(found, 1) < ROUNDS
    for count in (1, 2, 3):
        name, stop = f"patience-{count}", last_round(found, count)
        told = lab("run", *settings, patience(count), name=name)
        assert closed(lab.run(name)) == stop
        assert (f"training stopped early after round {stop}" in told.out) == (stop < ROUNDS)
        assert lab.checkpoint(stop, name) == lab.checkpoint(stop, "whole")


def test_evaluation_does_not_change_training(lab: Lab):
    lab("run", *LONG, "train.rounds=3", name="plain")
    lab("run", *LONG, NEVER, "train.rounds=3")
    assert weights(lab.checkpoint(3)) == weights(lab.checkpoint(3, "plain"))
    assert files.unpack(lab.checkpoint(3, "plain"), "")[1].keys() == {"round", "parent", "nodes", "dropped", "metrics"}


def test_the_score_is_that_of_finetune_on_the_same_tasks(lab: Lab):
    lab("run", *LONG, NEVER, "train.rounds=3")
    found = scores(lab.run())
    assert len(set(found.values())) == 3
    for number, score in found.items():
        on = ("finetune.held_out=validation", "finetune.episodes=100", f"finetune.round={number}")
        lab("finetune", *LONG, NEVER, "train.rounds=3", *on, f"finetune.name=at-{number}")
        assert metrics(lab.run(), f"at-{number}")["after"]["mean"] == pytest.approx(score, abs=1e-9)


def test_scores_of_unlike_nodes_and_of_rows_are_those_of_finetune(lab: Lab):
    """Tasks of several nodes are computed together; rows that a node keeps back begin with what that node keeps."""
    unlike = (
        *("data={name: synthetic, nodes: 7, rows: 30, features: 12}", "partition={name: quantity, nodes: 7}"),
        *("task.new={test: 1, validation: 3}", "task.query=rest"),
    )
    rows = (MANY, "task.new={from: rows, test: 0.2, validation: 0.3}", "train.personal={name: ditto}", ONE)
    for name, more, count in (("unlike", unlike, 100), ("rows", rows, 100)):
        settings = (*LONG, *more, NEVER, "train.rounds=2")
        lab("run", *settings, name=name)
        on = ("finetune.held_out=validation", f"finetune.episodes={count}", "finetune.name=again")
        lab("finetune", *settings, *on, name=name)
        assert metrics(lab.run(name), "again")["after"]["mean"] == pytest.approx(scores(lab.run(name))[2], abs=1e-6)


def test_nothing_of_the_test_nodes_is_read(lab: Lab):
    lab("partition", *LONG, patience(1))
    [test] = [node["file"] for node in lab.shards()["nodes"] if node["role"] == "test"]
    (lab.run() / "shards" / test).unlink()
    lab("train", *LONG, patience(1))
    lab("run", *LONG, patience(1), name="whole")
    stop = closed(lab.run("whole"))
    assert stop == closed(lab.run()) < ROUNDS
    assert lab.checkpoint(stop) == lab.checkpoint(stop, "whole")


def test_a_stopped_run_says_so_and_goes_on_with_more_patience_or_without_the_rule(lab: Lab):
    settings = (*LONG, "baselines={fedavg: {learner: {name: supervised}}}")
    lab("run", *settings, patience(1))
    stop = closed(lab.run())
    before = results(lab.run())
    for more in ((), ("train.rounds=99",)):
        told = lab("train", *settings, patience(1), *more).out
        assert f"train: already done, training stopped early after round {stop}: 1 evaluation without" in told
        assert "set train.early_stopping.patience to more than 1, or to null" in told
        assert results(lab.run()) == before
    lab("run", *settings, patience(3))
    longer, more_patient = closed(lab.run()), results(lab.run())
    assert stop < longer < ROUNDS
    lab("run", *settings, "train.early_stopping=null")
    assert closed(lab.run()) == ROUNDS
    assert set(scores(lab.run())) == set(range(1, longer + 1))
    lab.runs = lab.folder / "one-go"
    lab("run", *settings, patience(3))
    assert results(lab.run()) == more_patient


def test_balanced_accuracy_decides_where_it_is_the_headline(lab: Lab):
    settings = (*LONG, "task.query=20", NEVER, "train.rounds=2", "finetune.headline=balanced_accuracy")
    lab("run", *settings)
    lab("finetune", *settings, "finetune.held_out=validation", "finetune.episodes=100", "finetune.name=again")
    found = metrics(lab.run(), "again")
    assert found["selection"]["main"]["metric"] == "balanced_accuracy"
    score = found["after"]["metrics"]["balanced_accuracy"]["mean"]
    assert scores(lab.run())[2] == pytest.approx(score, abs=1e-6)


def test_a_baseline_whose_adaptation_is_chosen_is_scored_by_its_best_choice(lab: Lab):
    """By a loop over the step sizes, on the 20 tasks; the same learner as the main model is scored as configured."""
    learner = "{name: supervised, inner_lr: 0.01, inner_steps: 1}"
    settings = (*LONG, f"learner={learner}", NEVER, "train.rounds=2", f"baselines={{same: {{learner: {learner}}}}}")
    lab("run", *settings, "finetune.tune=true", "finetune.save=none")
    tried = []
    for rate in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        by_rate = (*settings[:-1], f"learner.inner_lr={rate}", "finetune.steps=100")
        lab.runs = lab.folder / f"rate-{rate}"
        shutil.copytree(lab.folder / "runs", lab.runs)
        for path in lab.runs.rglob("config.yaml"):
            path.write_text(path.read_text().replace("inner_lr: 0.01", f"inner_lr: {rate}"))
        lab("finetune", *by_rate, "finetune.held_out=validation", "finetune.episodes=20")
        tried += [step["mean"] for step in metrics(lab.run())["per_step"]]
    lab.runs = lab.folder / "runs"
    assert scores(lab.run() / "baselines" / "same")[2] == pytest.approx(max(tried), abs=1e-6)
    assert scores(lab.run())[2] < max(tried)


# ------------------------------------------------------------------------------------------------- every launch


def test_by_hand_node_by_node_and_with_workers_the_same_round_is_the_last(lab: Lab):
    settings = (*LONG, ONE, patience(2))
    lab("run", *settings, name="run")
    stop = closed(lab.run("run"))
    assert 2 < stop < ROUNDS
    end = lab.checkpoint(stop, "run")
    assert by_hand(lab, *settings, name="hand", rounds=stop) == end
    assert node_by_node(lab, *settings, name="nodes", rounds=stop) == end
    lab("run", *settings, "execution.workers=2", name="crew")
    lab("partition", *settings, name="train")
    lab("train", *settings, name="train")
    for name in ("hand", "nodes", "crew", "train"):
        for command in (("train",), ("train", "--nodes", "0"), ("aggregate",)):
            lab(*command, *settings, name=name)
        assert closed(lab.run(name)) == stop, name
        assert not list(lab.run(name).glob(f"rounds/{stop + 1:04d}/nodes-*"))
        assert lab.checkpoint(stop, name) == end, name
        assert scores(lab.run(name)) == scores(lab.run("run")), name


def test_jobs_for_later_rounds_end_without_waiting(lab: Lab):
    settings = (*LONG, ONE, patience(1))
    lab("run", *settings)
    stop = closed(lab.run())
    for number in (stop + 1, stop + 2):
        for job in (("train", "--nodes", "0/2"), ("aggregate",)):
            told = lab(job[0], *settings, *job[1:], "--round", str(number)).out
            assert f"training stopped early after round {stop}" in told
    lab("aggregate", *settings, NEVER, "--round", str(stop + 2), code=RETRY)


def test_killed_in_any_write_the_same_round_is_the_last(lab: Lab):
    settings = (*LONG, patience(1), "finetune.round=best", "finetune.save=none")
    lab("run", *settings)
    calm, stop = results(lab.run()), closed(lab.run())
    assert stop < ROUNDS
    for n in itertools.count(1):
        lab.runs = lab.folder / f"runs-{n}"
        died = crash(lab, [("run", *settings)], n, "renamed")
        assert results(lab.run()) == calm, f"killed in write {n}"
        if not died:
            assert n > stop
            break


def test_killed_by_hand_the_best_round_is_known_without_its_line(lab: Lab):
    """Killed between the checkpoint and metrics.jsonl: the checkpoint knows."""
    settings = (*LONG, patience(1), "finetune.round=best")
    lab("run", *settings)
    calm = results(lab.run())
    (lab.run() / "metrics.jsonl").unlink()
    lab("finetune", *settings, "finetune.name=again")
    assert metrics(lab.run(), "again")["selection"] == metrics(lab.run())["selection"]
    lab("run", *settings)
    assert results(lab.run()).keys() >= calm.keys()
    assert len(scores(lab.run())) == closed(lab.run())


@pytest.mark.slow
def test_a_process_that_is_killed_while_training(lab: Lab):
    settings = (*LONG, patience(2))
    lab("run", *settings, name="calm")
    done = lab.process("run", *settings, FAULT=f"temp:12:{signal.SIGKILL}")
    assert done.code == -signal.SIGKILL
    assert lab.process("run", *settings).code == 0
    stop = closed(lab.run("calm"))
    assert closed(lab.run()) == stop
    assert lab.checkpoint(stop) == lab.checkpoint(stop, "calm")


@pytest.mark.slow
def test_ranks_of_torchrun_stop_after_the_same_round(lab: Lab):
    settings = (*LONG, ONE, patience(2))
    lab("run", *settings, name="alone")
    door = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "metadist_cli"]
    extra = environment(PYTHONWARNINGS="default")
    command = [*door, *lab.arguments("run", *settings)]
    done = subprocess.run(command, env=extra, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    stop = closed(lab.run("alone"))
    assert closed(lab.run()) == stop
    assert lab.checkpoint(stop) == lab.checkpoint(stop, "alone")


# ------------------------------------------------------------------------------------------------- the best round


def test_the_best_round_is_adapted(lab: Lab):
    settings = (*LONG, NEVER, "baselines={fedavg: {learner: {name: supervised, inner_lr: 0.1}}}")
    told = lab("run", *settings, "finetune.round=best").out
    found = metrics(lab.run())
    for name, run in (("main", lab.run()), ("fedavg", lab.run() / "baselines" / "fedavg")):
        by_round = scores(run)
        best = max(by_round, key=by_round.__getitem__)
        shown = found if name == "main" else found["baselines"][name]
        assert shown["round"] == best
        checkpoint = (run / "rounds" / f"{best:04d}" / "global.safetensors").read_bytes()
        assert shown["global"] == files.sha256(checkpoint)
        chosen = {"by": "validation", "metric": "accuracy", "best": by_round[best], "best_round": best}
        assert found["selection"][name] == chosen | {"newest": ROUNDS, "stopped": False}
    assert found["round"] < ROUNDS
    assert f"round {found['round']} of {ROUNDS}, the best on validation tasks" in told
    lab("finetune", *settings, f"finetune.round={found['round']}", "finetune.name=named")
    named = metrics(lab.run(), "named")
    assert named["after"] == found["after"]
    assert named["selection"]["main"]["by"] == "finetune.round"
    lab("finetune", *settings, "finetune.name=newest")
    assert metrics(lab.run(), "newest")["selection"]["main"]["by"] == "newest"


def test_lower_is_better_for_a_regression(lab: Lab):
    waves = ("data={name: sinusoid}", "task.support=5", "train.outer.lr=0.1", "finetune.headline=auto")
    lab("run", *LONG, *waves, NEVER, "finetune.round=best")
    by_round = scores(lab.run())
    assert metrics(lab.run())["round"] == min(by_round, key=by_round.__getitem__)
    assert metrics(lab.run())["selection"]["main"]["metric"] == "mse"


@pytest.mark.parametrize("sampling", [("train.nodes_per_round=all",), ("train.nodes_per_round=0.5", "seed=4")])
def test_what_nodes_keep_from_the_best_round_is_still_there(lab: Lab, sampling: tuple[str, ...]):
    """The best round, evaluated when it was the newest, and after further rounds."""
    rows = (MANY, "task.new={from: rows, test: 0.2, validation: 0.3}", "train.personal={name: ditto}", *sampling)
    settings = (*LONG, *rows, NEVER, "finetune.round=best")
    lab("run", *settings)
    best = metrics(lab.run())["round"]
    assert best < ROUNDS
    lab("run", *settings, f"train.rounds={best}", name="short")
    assert metrics(lab.run("short"))["after"] == metrics(lab.run())["after"]
    states = sorted(path.parent.name for path in lab.run().glob("rounds/*/state-*"))
    if sampling[0].endswith("all"):
        assert states == [f"{best:04d}", f"{ROUNDS:04d}"]


# ------------------------------------------------------------------------------------------------- refusals


def test_a_rule_without_validation_nodes_is_refused_and_the_hint_helps(lab: Lab):
    for new, hinted in (
        ("{test: 1}", "{test: 1, validation: 1}"),
        ("{from: rows, test: 0.25}", "{from: rows, test: 0.25, validation: 0.1}"),
    ):
        rule = (*LONG, f"task.new={new}", patience(1), "train.rounds=2")
        told = lab("run", *rule, code=3).err
        assert "nothing is held out for validation" in told
        assert f"add `validation: {hinted.rpartition(' ')[2].strip('}')}` to `new` in `task`" in told
        assert not lab.run().exists()
        lab("run", *rule, f"task.new={hinted}", name="rows" if "rows" in new else "nodes")


def test_the_best_round_without_evaluation_is_refused_and_the_hint_helps(lab: Lab):
    best = (*LONG, "finetune.round=best", "train.rounds=2")
    assert "add `early_stopping: {patience: null}` to `train`" in lab("run", *best, code=3).err
    lab("run", *best, "train.early_stopping={patience: null}")


def test_the_best_round_of_a_run_that_was_never_evaluated_is_refused_and_the_hint_helps(lab: Lab):
    lab("run", *LONG, "train.rounds=2")
    best = (*LONG, "finetune.round=best", NEVER)
    told = lab("finetune", *best, "train.rounds=2", code=4).err
    assert "no round of this run was evaluated on validation tasks" in told
    assert "raise train.rounds" in told
    lab("run", *best, "train.rounds=4")
    assert metrics(lab.run())["round"] in (3, 4)


def test_a_split_of_the_data_set_without_validation_is_refused_and_the_hint_helps(lab: Lab):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(120, 4)), "y": rng.integers(0, 2, 120), "who": np.arange(120) % 3}
    for name, parts in (("two", (0, 0, 0, 2)), ("three", (0, 0, 1, 2))):
        np.savez(lab.folder / f"{name}.npz", **arrays, part=np.tile(np.repeat(parts, 3), 10))
    new = "task.new={from: rows, test: null}"
    own = ("partition={name: natural, by: who}", "task.query=5", "train.rounds=2", patience(1), new)

    def data(name: str) -> str:
        return f"data={{name: arrays, path: {lab.folder / name}.npz, groups: [who], split: part}}"

    told = lab("run", data("two"), *own, code=3).err
    assert "task.new.validation: nothing is held out for validation" in told
    assert "hold some rows out" in told
    assert not (lab.run() / "shards").exists()
    lab("run", data("two"), *own, "task.new.validation=0.2")
    lab("run", data("three"), *own, name="three")
    assert set(scores(lab.run("three"))) == {1, 2}
