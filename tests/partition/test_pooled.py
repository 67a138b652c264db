"""Pooled rows: all training nodes as one node, by the code of every other round."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runner import TINY, Lab, contents, crash, results

from metadist_cli.config import load
from metadist_cli.core import files
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Windows
from metadist_cli.experiment import assemble
from metadist_cli.partition.pooled import union
from metadist_cli.partition.shards import Shard, pool
from metadist_cli.storage import run_directory, shard_files

EPISODIC = """\
task: {kind: episodic, way: 2, shot: 1, query: 3, new: {from: classes, test: ["7", "8", "9"]}}
partition: {name: iid, nodes: NODES}
model: {name: mlp, hidden: [16]}
train: {rounds: 3, local_steps: 4, meta_batch: 2}
finetune: {episodes: 4}
execution: {threads: 1}
"""
CENTRAL = TINY + "baselines:\n  central: {pooled: true}\n"
SUPERVISED = TINY + (
    "baselines:\n  central: {pooled: true, model: {name: mlp, hidden: []}, learner: {name: supervised}, "
    "train: {rounds: 2, local_steps: 5, outer: {name: sgd, lr: 0.2}}}\n"
)


def shard(node: int, rows: list[int], labels: tuple[int, ...] | None = None) -> Shard:
    """Row i is of class i % 3, under the node's own numbering, and holds the number i."""
    row = np.array(rows)
    label = row % 3 if labels is None else np.array(labels)[row % 3]
    order = np.argsort(label, kind="stable")
    x = np.full((len(rows), 2), 0.0, np.float32) + row[:, None]
    return Shard(node, f"n{node}", "train", x[order], label[order], None, row[order], labels=labels)


def test_union_has_every_row_once_under_one_numbering():
    one = union([shard(4, [5, 0, 9]), shard(7, [2, 3, 11, 10], (2, 0, 1)), shard(8, [1], (1, 2, 0))])
    assert one.row.tolist() == [0, 3, 9, 1, 10, 2, 5, 11]
    assert one.label.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert one.x[:, 0].tolist() == one.row.tolist()
    assert (one.node, one.role, one.labels, one.home) == (0, "train", None, None)


def test_union_of_regressions():
    some = [s._replace(target=s.x[:, :1] * 2) for s in (shard(1, [3, 0, 1]), shard(5, [6]))]
    target = union(some).target
    assert target is not None
    assert target[:, 0].tolist() == [0, 6, 12, 2]


def test_union_of_windows_of_texts():
    """They stay windows; row 3 of the second text begins at its place 4, and so on."""
    texts = [np.arange(9, dtype=np.uint8) + 100 * i for i in range(2)]
    shards = [shard(i, [i, 3 + i])._replace(x=Windows(texts[i], np.array([0, 4]), 5)) for i in range(2)]
    one = union([shards[1], shards[0]])
    assert isinstance(one.x, Windows)
    assert one.row.tolist() == [0, 3, 1, 4]
    assert [row.tolist() for row in one.x[:]] == [list(range(at, at + 5)) for at in (0, 4, 100, 104)]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of all meta-parameters together."""
    names = {k for k in one if k.startswith("meta/")}
    assert names == {k for k in other if k.startswith("meta/")}
    return sum(float((one[k].double() - other[k].double()).square().sum()) for k in names) ** 0.5


def parameters(path: Path) -> dict[str, torch.Tensor]:
    return files.unpack(path.read_bytes(), str(path))[0]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("learner", ["maml", "reptile"])
def test_pooled_rows_are_a_partition_of_one_node(tmp_path: Path, learner: str):
    """Three rounds of episodic tasks: the same rows, the same tasks, the same steps, to a thousandth of their way."""
    text = EPISODIC + f"learner: {{name: {learner}}}\n"
    three = Lab(tmp_path / "three", text.replace("NODES", "3") + "baselines: {central: {pooled: true}}\n")
    one = Lab(tmp_path / "one", text.replace("NODES", "1"))
    three("run")
    one("run")
    checkpoint = Path("rounds") / "0003" / "global.safetensors"
    central = parameters(three.run() / "baselines" / "central" / checkpoint)
    alone, federated = parameters(one.run() / checkpoint), parameters(three.run() / checkpoint)
    start = parameters(one.run() / "rounds" / "0000" / "global.safetensors")
    assert distance(central, alone) < 1e-3 * distance(alone, start)
    assert distance(federated, alone) > 0.1 * distance(alone, start)
    found = json.loads((three.run() / "finetune/new/metrics.json").read_text())
    assert found["baselines"]["central"]["learner"].endswith(", pooled rows")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("relabel", ["false", "true"])
def test_pooled_training_is_gradient_descent_on_all_training_rows(tmp_path: Path, relabel: str):
    """Ten full batches of a linear model, by torch alone; under the real classes where nodes renumber them."""
    lab = Lab(tmp_path, SUPERVISED)
    lab("partition", f"partition.relabel={relabel}")
    shards = shard_files.read_shards(run_directory.Run.at(lab.run()), lab.shards(), lab.trained())
    rows = np.concatenate([s.row for s in shards])
    assert len(set(rows)) == len(rows) > 1300
    lab("run", f"partition.relabel={relabel}", f"baselines.central.train.batch={len(rows)}")
    data = DATASETS["digits"](0)
    x, y = torch.from_numpy(data.x[rows].reshape(len(rows), -1) / 16).double(), torch.from_numpy(data.label[rows])
    folder = lab.run() / "baselines" / "central" / "rounds"
    start = parameters(folder / "0000" / "global.safetensors")
    leaves = [start[f"meta/head.{name}"].double().requires_grad_() for name in ("weight", "bias")]
    for _ in range(10):
        gradients = torch.autograd.grad(F.cross_entropy(F.linear(x, *leaves), y), leaves)
        leaves = [(leaf - 0.2 * g).detach().requires_grad_() for leaf, g in zip(leaves, gradients, strict=True)]
    end = parameters(folder / "0002" / "global.safetensors")
    exact = {f"meta/head.{name}": leaf.detach() for name, leaf in zip(("weight", "bias"), leaves, strict=True)}
    assert distance(end, exact) < 1e-4 * distance(exact, start)
    assert distance(exact, start) > 0.1


def test_an_epoch_is_of_all_rows_in_tasks_as_large_as_the_nodes_have_them(lab: Lab):
    """Every row once an epoch, whichever node it is of."""
    lab("partition")
    epochs = ("pooled=true", "learner={name: supervised}", "train={local_epochs: 2, batch: 50}")
    run = run_directory.Run.at(lab.run())
    manifest = lab.shards()
    experiment = assemble(load(lab.config, epochs), shard_files.spec_in(manifest))
    rows = pool([union(shard_files.read_shards(run, manifest, lab.trained()))], 16)
    plan = experiment.sampler(rows, 1)
    count = int(rows.row_count[0])
    assert experiment.steps == plan.query.shape[1] == 2 * -(-count // 50)
    first = plan.query[0, : experiment.steps // 2].reshape(-1)[:count]
    assert sorted(first) == list(range(count))
    plain = assemble(load(lab.config), shard_files.spec_in(manifest))
    assert assemble(load(lab.config, ("pooled=true",)), shard_files.spec_in(manifest)).rows == plain.rows


# As a baseline of a run


@pytest.mark.usefixtures("plain")
def test_the_federated_run_beside_it_stays_what_it_is(tmp_path: Path):
    lab, alone = Lab(tmp_path / "both", CENTRAL), Lab(tmp_path / "alone")
    lab("run")
    alone("run")
    assert lab.checkpoint(3) == alone.checkpoint(3)
    assert contents(lab.run(), "shards") == contents(alone.run(), "shards")
    lines = (lab.run() / "baselines" / "central" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["nodes"] for line in lines] == [1, 1, 1]
    lab("partition", name="nodes")
    for number in (1, 2, 3):
        for node in lab.trained("nodes"):
            lab("train", "--nodes", str(node), name="nodes")
        lab("aggregate", name="nodes")
        assert json.loads((lab.run("nodes") / "metrics.jsonl").read_text().splitlines()[-1])["round"] == number
    start, end, other = (
        parameters(lab.run(name) / "rounds" / number / "global.safetensors")
        for name, number in (("tiny", "0000"), ("tiny", "0003"), ("nodes", "0003"))
    )
    assert distance(end, other) < 1e-3 * distance(end, start)  # nodes one by one: other last bits


@pytest.mark.usefixtures("plain")
def test_killed_in_any_write_and_going_on(tmp_path: Path):
    small = ("data={name: synthetic, nodes: 4, rows: 24, features: 12}", "partition.nodes=4", "task.new.test=1")
    small += ("task.support=4", "train.rounds=2", "finetune.episodes=2", "finetune.save=none")
    lab = Lab(tmp_path, CENTRAL)
    lab("run", *small)
    calm, rounds = results(lab.run()), contents(lab.run(), "baselines/central/rounds")
    assert json.loads(calm["finetune/new/metrics.json"])["baselines"]["central"]["round"] == 2
    died = 0
    for n in range(1, 30, 2):
        lab.runs = tmp_path / f"runs-{n}"
        died += crash(lab, [("run", *small)], n, "renamed")
        assert results(lab.run()) == calm, f"killed at write {n}"
        assert contents(lab.run(), "baselines/central/rounds") == rounds
    assert died >= 8


def test_another_setting_is_another_run(lab: Lab, plain: None):
    lab("run", "train.rounds=1", "baselines={central: {pooled: true}}")
    said = lab("run", "train.rounds=1", "baselines={central: {pooled: false}}", code=4).err
    assert "pooled: True, now False" in said
    assert "pooled: False, now True" in lab("run", "train.rounds=1", "pooled=true", code=4).err


def test_a_run_of_its_own(lab: Lab, plain: None):
    """One node, number 0, by every command; a baseline may be a federation."""
    pooled = ("pooled=true", "train.rounds=2")
    lab("run", *pooled, name="whole")
    assert "1 node x 2 tasks" in lab("run", *pooled, "--dry-run").out
    lab("partition", *pooled)
    assert "node 1 is not a training node" in lab("train", *pooled, "--nodes", "1", code=2).err
    for number in (1, 2):
        lab("train", *pooled, "--nodes", "0")
        assert lab.update(number, 0).exists()
        lab("aggregate", *pooled)
        assert lab.checkpoint(number) == lab.checkpoint(number, "whole")
    lab("run", *pooled, "baselines={fedavg: {pooled: false, learner: {name: supervised}}}", name="turned")
    line = (lab.run("turned") / "baselines" / "fedavg" / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["nodes"] == len(lab.trained("turned")) > 1


def test_nothing_is_personal_where_rows_are_pooled(lab: Lab):
    said = lab("run", "train.personal.name=ditto", "baselines={central: {pooled: true}}", code=3).err
    assert "`ditto` keeps parameters at each node, but pooled training has only one node" in said
    assert "use a `train` section without `personal`" in said
    other = "baselines={central: {pooled: true, train: {rounds: 1}}}"
    assert "nothing was written" in lab("run", "train.personal.name=ditto", other, "--dry-run").out
