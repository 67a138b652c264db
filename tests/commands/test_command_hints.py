"""Each hint of a command, followed to the letter, leads to a run, or to a better message."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runner import Lab
from typer.testing import CliRunner

from metadist_cli.cli import app
from metadist_cli.core import files
from metadist_cli.data.names import nearest

pytestmark = pytest.mark.usefixtures("plain")
EPISODES = "task={kind: episodic, way: 2, shot: 1, query: 1, new: {from: classes, test: 2}}"
SINES = "data={name: sinusoid, functions: 40, points: 20}"
ONE_WAY = "task={kind: episodic, way: 1, shot: 5, query: 5, new: {from: classes, test: 8}}"
USERS = "data={name: synthetic, nodes: 6, rows: 40, features: 12}"
NATURAL = "partition={name: natural, by: user}"
Settings = tuple[str, ...]
# (settings, words of the hint, the settings that follow it, a better message or "" for a plan)
PLANS: list[tuple[Settings, str, Settings, str]] = [
    # what is held out
    ((EPISODES, "task.new.test=null"), "for example test: 2", ("task.new.test=2",), "each need"),
    ((EPISODES, "partition.nodes=1", "task.new.test=[c]"), "known: 0, 1, 2", ("task.new.test=['1', '2']",), ""),
    ((EPISODES, "task.new.test=10"), "hold out fewer", ("task.new.test=4", "partition.nodes=2"), ""),
    (("task.new={from: nodes, test: [node-9]}",), "write how many, such as test: 1", ("task.new.test=1",), ""),
    ((USERS, NATURAL, "task.new.test=[user-9]"), "known: user-0, user-1", ("task.new.test=[user-0]",), ""),
    (
        (EPISODES, "task.new.test=[11, x]"),
        "put it in quotes to make it text",
        ("task.new.test=['1', '2']", "partition.nodes=2"),
        "",
    ),
    ((USERS, NATURAL, "task.new.test=6"), "hold out fewer", ("task.new.test=5",), ""),
    ((USERS, NATURAL, "task.new={from: rows, test: 3}"), "for example `test: 0.25`", ("task.new.test=0.25",), ""),
    (
        (USERS, NATURAL, "task.new={from: rows, test: 0.3, validation: 0.7}"),
        "hold out less than 1",
        ("task.new.validation=0.2",),
        "",
    ),
    ((USERS, NATURAL, "task.new={from: rows}"), "for example test: 0.2", ("task.new.test=0.2",), ""),
    ((USERS, NATURAL, "finetune.held_out=validation"), "hold some nodes out", ("task.new.validation=1",), ""),
    # how much there is
    ((USERS, NATURAL, "task.support=70"), "lower task.support or task.query", ("task.support=9",), ""),
    (
        (USERS, NATURAL, "task.support=70", "partition.nodes=5"),
        "use at most 3 nodes",
        ("partition.nodes=3", "task.new.test=1"),
        "",
    ),
    (("partition.nodes=900",), "use at most 119 nodes", ("partition.nodes=119",), ""),
    (
        (EPISODES, "task.way=5", "partition.nodes=2"),
        "use at most 1 node",
        ("partition.nodes=1",),
        "hold out at least 5",
    ),
    (
        (EPISODES, "task.way=5", "partition.nodes=1"),
        "hold out at least 5, or lower task.way to 2",
        ("task.new.test=5",),
        "",
    ),
    ((EPISODES, "task.way=5", "partition.nodes=1"), "hold out at least 5, or lower task.way to 2", ("task.way=2",), ""),
    (
        ("finetune.task.query=4000",),
        "let support and query take at most 224 rows together",
        ("finetune.task.query=219",),
        "",
    ),
    (("finetune.task.query=4000",), "or set finetune.task.query: rest", ("finetune.task.query=rest",), ""),
    (("partition={name: shards, nodes: 110, pieces: 20}",), "change partition.nodes", ("partition.nodes=80",), ""),
    (("partition={name: shards, nodes: 8, pieces: 20, pure: true}",), "partition.pieces", ("partition.pieces=2",), ""),
    (
        ("partition={name: shards, nodes: 8, pieces: 20, pure: true}",),
        "use partition.name dirichlet",
        ("partition={name: dirichlet, nodes: 8}",),
        "",
    ),
    (("partition={name: by_class, nodes: 119}",), "use fewer nodes", ("partition.nodes=40",), ""),
    (("partition={name: natural, by: user}",), "this data set defines no groups for this task", (USERS,), ""),
    ((USERS, "partition={name: natural, by: usr}"), "known: user", (NATURAL,), ""),
    ((USERS, "partition={name: natural, by: user, nodes: 9}"), "use at most 6 nodes", ("partition.nodes=6",), ""),
    ((USERS, "partition={name: natural, by: user, nodes: 9}"), "remove partition.nodes", ("partition.nodes=null",), ""),
    # what does not fit the data
    (("partition.scale=node",), "use scale: none", ("partition.scale=none",), ""),
    ((USERS, NATURAL, "partition.rotate=90"), "remove it", ("partition.rotate=0",), ""),
    ((SINES, "task.support=5", "partition.relabel=true"), "remove it", ("partition.relabel=false",), ""),
    ((SINES, "task.support=5", "finetune.metrics=[auc]"), "metrics for regression: ", ("finetune.metrics=[mae]",), ""),
    (
        (SINES, "task={kind: episodic, way: 2, shot: 5, query: 5, new: {from: classes, test: 8}}"),
        "use 1",
        ("task.way=1",),
        "",
    ),
    (
        (EPISODES, "finetune.task.way=3", "task.new.test=3", "partition.nodes=2"),
        "remove it",
        ("finetune.task.way=null",),
        "",
    ),
    (
        (EPISODES, "finetune.task.way=3", "task.new.test=3", "partition.nodes=2"),
        "only learners that solve",
        ("learner={name: ridge}",),
        "",
    ),
    ((USERS, NATURAL, "model={name: conv4}"), "use mlp", ("model={name: mlp}",), ""),
    ((USERS, NATURAL, "model={name: conv1d}"), "use mlp", ("model={name: mlp}",), ""),
    (("task.new={from: nodes, test: 8}",), "raise `partition.nodes`", ("partition.nodes=9",), ""),
    (("model={name: conv4, pool: max}",), "use pool: stride", ("model.pool=stride",), ""),
    (
        (SINES, "task.support=5", "model={name: logistic}"),
        "use model: {name: mlp, hidden: []}",
        ("model={name: mlp, hidden: []}",),
        "",
    ),
    (
        (EPISODES, "learner={name: svm}", "model={name: logistic}", "partition.nodes=2"),
        "add hidden layers",
        ("model={name: mlp, hidden: [8]}",),
        "",
    ),
    ((SINES, ONE_WAY, "learner={name: svm}"), "use ridge", ("learner={name: ridge}",), ""),
    (
        (USERS, NATURAL, "train.augment={name: affine}"),
        "use train.augment: {name: none}",
        ("train.augment={name: none}",),
        "",
    ),
    (
        (SINES, "task.support=5", "train.augment={name: affine}"),
        "use train.augment: {name: none}",
        ("train.augment={name: none}",),
        "",
    ),
    (("train.personal={name: fedrep}", "model={name: logistic}"), "use another model", ("model={name: mlp}",), ""),
    (("train.personal={name: fedrep}", "model={name: logistic}"), "or ditto", ("train.personal={name: ditto}",), ""),
    (("train.personal={name: fedbn}",), "use another model", ("model={name: conv4, pool: stride, norm: batch}",), ""),
    (
        ("train.personal={name: fedrep, head_steps: 2}", "train.local_steps=2"),
        "lower `head_steps`",
        ("train.personal.head_steps=1",),
        "",
    ),
    (
        ("train.personal={name: fedrep, head_steps: 2}", "train.local_steps=2"),
        "raise `local_steps`",
        ("train.local_steps=3",),
        "",
    ),
    (("execution.device=cuda:99",), "use auto or cpu", ("execution.device=cpu",), ""),
    (("execution.device=cuda:99",), "use auto or cpu", ("execution.device=auto",), ""),
    (("execution.precision=tf32",), "use float32", ("execution.precision=float32",), ""),
    (
        ("data={name: sinusoid, functions: 1000000, points: 1000}",),
        "lower data.functions or data.points",
        ("data={name: sinusoid, functions: 40, points: 20}", "task.support=5"),
        "",
    ),
    (("data={name: synthetic, nodes: 900000, rows: 900, features: 900}",), "lower data.nodes", (USERS,), ""),
]


@pytest.mark.parametrize(
    ("wrong", "said", "right", "then"), PLANS, ids=[f"{case[0][-1][:30]}: {case[1][:25]}" for case in PLANS]
)
def test_settings_that_a_hint_names_lead_to_a_plan(
    wrong: Settings, said: str, right: Settings, then: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METADIST_DATA", raising=False)

    def plan(*settings: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, lab.arguments("run", *settings, "--dry-run"))
        return done.exit_code, done.stderr

    code, before = plan(*wrong)
    assert code in (3, 4, 5), before
    assert said in before.split("  -> ")[1]
    code, after = plan(*wrong, *right)
    assert after != before
    assert (then in after and "  -> " in after) if then else (code == 0), after


def words(text: str) -> list[str]:
    return shlex.split(text)


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        ("partition CONFIG --nodes 99", "nodes: 0 to 7", "partition CONFIG --nodes 0"),
        ("partition CONFIG --nodes x", "use for example 3, 0-9,12, 0/8 or slurm", "partition CONFIG --nodes 0/8"),
        ("partition CONFIG --nodes 9/8", "the last of 8 parts is 7/8", "partition CONFIG --nodes 7/8"),
        ("partition CONFIG --nodes 0/0", "use for example 0/8", "partition CONFIG --nodes 0/8"),
        ("partition CONFIG --nodes 0-9999999", "name nodes of this run", "partition CONFIG --nodes 0-7"),
        ("partition CONFIG --nodes slurm", "elsewhere use --nodes 0/8", "partition CONFIG --nodes 0/8"),
        ("aggregate CONFIG --wait 90", "use for example 90s", "aggregate CONFIG --wait 90s"),
        ("help datta", "did you mean `data`?", "help data"),
        ("validate quickstrat", "did you mean `quickstart`?", "validate quickstart"),
        ("validate qqqq", "shipped: ", "validate tiny"),
    ],
)
def test_a_command_line_that_a_hint_names_works(wrong: str, said: str, right: str, lab: Lab) -> None:
    lab("run", "train.rounds=0")
    lab("partition", name="there")

    def call(line: str) -> tuple[int, str]:
        command, *rest = words(line.replace("CONFIG", str(lab.config)))
        runs = ["--runs-dir", str(lab.runs), "--name", "there"] if "CONFIG" in line else []
        if "--nodes" in rest:
            (lab.run("there") / "shards" / "manifest.json").unlink(missing_ok=True)
        if command == "aggregate":
            lab("train", "train.rounds=1", name="there")
        done = CliRunner().invoke(app, [command, *rest, *runs])
        return done.exit_code, done.stderr

    code, before = call(wrong)
    assert code in (2, 3), before
    assert said in before
    assert call(right) == (0, "")


# ------------------------------------------------------------------------------------------- what is in a run already


def metadist(line: str, lab: Lab, code: int = 0) -> str:
    """A command as a hint has it, on the run or the config that it names."""
    arguments = [str(lab.config) if word == "CONFIG" else word for word in words(line)]
    runs = [] if any(Path(word, "config.yaml").exists() for word in arguments) else ["--runs-dir", str(lab.runs)]
    done = CliRunner().invoke(app, [*arguments, *runs])
    assert done.exit_code == code, done.output
    return done.stderr


def test_a_step_before_its_turn_names_the_one_that_comes_first(lab: Lab) -> None:
    said = lab("train", code=4).err
    assert "first run `metadist partition` with the same config" in said
    lab("partition")
    assert "train first: metadist run does everything" in lab("finetune", code=4).err
    lab("train", "train.rounds=1")
    said = lab("finetune", "train.rounds=1", code=4).err
    assert "close the open round: metadist aggregate" in said
    lab("aggregate", "train.rounds=1")
    lab("finetune", "train.rounds=1")


def test_nodes_that_are_missing_are_trained_by_the_command_in_the_hint(lab: Lab) -> None:
    lab("partition")
    lab("train", "--nodes", "0-2")
    said = lab("aggregate", code=75).err
    [line] = re.findall(r"train them \(metadist (train .+? --nodes [0-9,]+)\)", said)
    [least] = re.findall(r"--min-nodes ([0-9]+)", said)
    lab("aggregate", "--min-nodes", least, name="few", code=4)  # another run has no shards
    metadist(line, lab)
    lab("aggregate")


def test_other_settings_go_into_a_run_of_another_name_or_start_over(lab: Lab) -> None:
    lab("run")
    said = lab("run", "seed=1", code=4).err
    assert "choose another --name, use --restart" in said
    lab("run", "seed=1", name="other")
    lab("run", "seed=1", "--restart")
    lab("run", "seed=0", "--restart")


def broken(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def other_round(lab: Lab) -> Path:
    path = lab.run() / "rounds" / "0003" / "global.safetensors"
    path.write_bytes(lab.checkpoint(2))
    return path


def damaged_round(lab: Lab) -> Path:
    path = lab.run() / "rounds" / "0003" / "global.safetensors"
    broken(path)
    return path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (other_round, "delete it and run the command again"),
        (damaged_round, "delete this file and rerun the step that writes it"),
    ],
)
def test_a_damaged_checkpoint_is_deleted_and_made_again(damage: Callable[[Lab], Path], said: str, lab: Lab) -> None:
    lab("run")
    whole = lab.checkpoint(3)
    path = damage(lab)
    assert said in lab("run", "finetune.steps=2", code=4).err
    path.unlink()
    lab("run", "finetune.steps=2")
    assert lab.checkpoint(3) == whole


def test_a_shard_is_copied_or_made_again_by_the_command_in_the_hint(lab: Lab) -> None:
    lab("partition")
    shard = lab.run() / "shards" / "node-000.safetensors"
    whole = shard.read_bytes()
    broken(shard)
    assert "copy it again, or delete it and run `metadist partition` again" in lab("train", "--nodes", "0", code=4).err
    shard.unlink()
    lab("partition")
    assert shard.read_bytes() == whole
    shard.unlink()
    said = lab("train", "--nodes", "0", code=4).err
    [line] = re.findall(r"metadist (partition \S+ --nodes [0-9]+)", said)
    lab("partition", "--nodes", line.split()[-1])
    assert shard.read_bytes() == whole
    lab("train", "--nodes", "0")


@pytest.mark.parametrize("change", ["round", "nodes", "strange"])
def test_a_foreign_node_file_is_deleted_and_its_nodes_trained_again(change: str, lab: Lab) -> None:
    lab("partition")
    lab("train", "--nodes", "1")
    path = lab.update(1, 1)
    tensors, head = files.unpack(path.read_bytes(), "")
    other = {"round": head | {"round": 2}, "nodes": {k: v for k, v in head.items() if k != "nodes"}}
    path.write_bytes(files.pack(tensors, other.get(change, head | {"nodes": [99]})))
    said = lab("train", code=4).err
    assert "delete the file" in said
    path.unlink()
    lab("train", "--nodes", "1")
    lab("train")


def test_a_round_for_one_node_and_rounds_for_all(lab: Lab) -> None:
    lab("partition")
    said = lab("train", "--round", "1", code=2).err
    assert "to train all nodes, set train.rounds=N" in said
    lab("train", "train.rounds=1")


def test_nodes_that_do_not_train_are_named_with_those_that_do(lab: Lab) -> None:
    lab("partition")
    said = lab("train", "--nodes", "7", code=2).err
    [last] = re.findall("training nodes: 0 to ([0-9]+)", said)
    lab("train", "--nodes", last)


def test_labels_without_a_value_are_left_out_as_the_hint_says(lab: Lab) -> None:
    """numpy makes a class of its own out of NaN.astype(int)."""
    x, y = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3 + 0.0
    y[7] = np.nan
    path = lab.folder / "own.npz"
    setting = (f"data={{name: arrays, path: {path}}}", "partition.nodes=3", "task.new.test=1", "task.query=5")
    np.savez(path, x=x, y=y)
    said = lab("run", *setting, code=4).err
    assert "1 row has no value (NaN): leave such rows out of all arrays, with ~numpy.isnan of this one" in said
    whole = ~np.isnan(y)
    np.savez(path, x=x[whole], y=y[whole].astype(int))
    lab("run", *setting)
    assert lab.shards()["classes"] == ["0", "1", "2"]


def test_labels_that_are_measures_are_for_a_regression(lab: Lab) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    path = lab.folder / "own.npz"
    setting = (f"data={{name: arrays, path: {path}}}", "partition.nodes=3", "task.new.test=1", "task.query=5")
    np.savez(path, x=x, y=x.sum(1))
    assert "write kind: regression" in lab("run", *setting, code=4).err
    lab("run", *setting, "data.kind=regression")


def test_there_are_no_names_to_choose_from_where_all_are_blank() -> None:
    assert nearest("sick", ["", " "]) == "there are none with a name"
    assert nearest("sick", ["", "ward", "id"]) == "there are: id, ward"
