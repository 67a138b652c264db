"""The pipeline in pieces: by hand, node by node, on another machine; whatever the way, the same checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from runner import SAMPLED, Lab, by_hand, contents, node_by_node

from metadist_cli.core import files

pytestmark = pytest.mark.usefixtures("plain")
SYNTHETIC = "data={name: synthetic, nodes: 8, rows: 24, features: 12}"


@pytest.mark.parametrize(
    ("state", "sampling"),
    [
        ("reset", "train.nodes_per_round=all"),
        ("average", SAMPLED),
        ("keep", SAMPLED),
        pytest.param("reset", SAMPLED, marks=pytest.mark.slow),
        *(pytest.param(state, "train.nodes_per_round=all", marks=pytest.mark.slow) for state in ("average", "keep")),
    ],
)
def test_run_and_by_hand_and_node_by_node(lab: Lab, state: str, sampling: str):
    settings = (f"train.outer_state={state}", sampling)
    lab("run", *settings)
    assert by_hand(lab, *settings, name="hand") == lab.checkpoint(3)
    one = (*settings, "execution.block=1")
    lab("run", *one, name="one")
    assert by_hand(lab, *one, name="one-hand") == lab.checkpoint(3, "one")
    assert node_by_node(lab, *one, name="one-node") == lab.checkpoint(3, "one")
    assert lab.checkpoint(3, "one") != lab.checkpoint(2, "one")


def test_settings_that_must_matter(lab: Lab):
    """The equalities above are not those of runs that do nothing."""
    ends = []
    for i, setting in enumerate(
        ["train.outer_state=reset", "train.outer_state=average", "train.outer_state=keep", SAMPLED]
    ):
        lab("run", setting, name=f"r{i}")
        ends.append(lab.checkpoint(3, f"r{i}"))
    assert len(set(ends)) == len(ends)


def test_schedules_go_on_from_round_to_round(lab: Lab):
    """A rate that is 0 after one round: nothing moves any more."""
    outer = "train.outer={name: sgd, lr: 0.1, schedule: linear, over: 1}"
    assert node_by_node(lab, outer, name="node") == by_hand(lab, outer, "execution.block=1", name="hand")
    weights = [files.unpack(lab.checkpoint(n, "node"), "")[0]["meta/head.weight"].tolist() for n in range(4)]
    assert weights[0] != weights[1] == weights[2] == weights[3]


@pytest.mark.parametrize("data", ["data={name: digits}", SYNTHETIC])
def test_another_machine(lab: Lab, tmp_path: Path, data: str):
    """Config, manifests, the global checkpoint and one shard travel there; one node file travels back."""
    settings = (data, "execution.block=1", "train.rounds=1")
    lab("run", *settings, name="whole")
    lab("partition", *settings)
    other, here = tmp_path / "elsewhere" / "site", lab.run()
    nodes = [n for n in lab.trained() if n != 3]
    lab("train", *settings, "--nodes", ",".join(map(str, nodes)))
    carry = ("config.yaml", "manifest.json", "shards/manifest.json", "rounds/0000/global.safetensors")
    for path in (*carry, "shards/node-003.safetensors"):
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here / path, other / path)

    from typer.testing import CliRunner

    from metadist_cli.cli import app

    there = CliRunner().invoke(app, ["train", str(other), "--nodes", "3"])
    assert there.exit_code == 0, there.output
    assert CliRunner().invoke(app, ["train", str(other), "--nodes", "2"]).exit_code == 4  # its rows are not there
    new = set(contents(other)) - {*carry, "shards/node-003.safetensors", "log.txt"}
    assert new == {"rounds/0001/job-003-003.json", "rounds/0001/nodes-003-003.safetensors"}

    missing = lab("aggregate", *settings, code=75).err
    assert "lacks 1 of 6 nodes: 3" in missing
    shutil.copy(other / max(new), lab.update(1, 3))
    lab("aggregate", *settings)
    assert lab.checkpoint(1) == lab.checkpoint(1, "whole")


def test_each_site_writes_the_shards_of_its_own_nodes(lab: Lab):
    """From the same data: manifests, shards and what the nodes train are those of one machine."""
    lab("run", "execution.block=1", "train.rounds=1", name="whole")
    every = contents(lab.run("whole") / "shards")
    nodes = {"a": (0, 1, 2), "b": (3, 4, 5)}
    for site, told in (("a", "0/2"), ("b", "3-5")):
        said = lab("partition", "--nodes", told, name=site).out
        assert "3 of 8 shards" in said
        assert f"next: metadist train --nodes {told}" in said
        own = {f"node-{node:03d}.safetensors" for node in nodes[site]}
        found = contents(lab.run(site) / "shards")
        assert found == {name: every[name] for name in ("manifest.json", "partition.png", *own)}
        assert "already done" in lab("partition", "--nodes", told, name=site).out
        lab("train", "execution.block=1", "train.rounds=1", "--nodes", told, name=site)
    told = lab("train", "--nodes", "3", name="a", code=4).err
    assert "node-003.safetensors: the shard is missing" in told
    assert f"metadist partition {lab.run('a')} --nodes 3" in told
    assert "partition: done" not in lab("partition", "--dry-run", name="a").out
    shutil.copy(lab.run("b") / "rounds/0001/nodes-003-005.safetensors", lab.run("a") / "rounds/0001")
    lab("aggregate", "execution.block=1", "train.rounds=1", name="a")
    assert lab.checkpoint(1, "a") == lab.checkpoint(1, "whole")
    lab("partition", name="a")  # the rest
    assert contents(lab.run("a") / "shards") == every


def test_shards_of_nodes_that_are_none(lab: Lab):
    assert "node 8 does not exist" in lab("partition", "--nodes", "7,8", code=2).err
    assert not lab.run().exists()
    lab("partition", "--nodes", "7")
    assert "node 8 does not exist" in lab("partition", "--nodes", "8", code=2).err


def test_rows_stay_in_the_shards(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # with real reports
    rows = "finetune.predictions=true"
    settings = (SYNTHETIC, "execution.block=1", "train.keep_nodes=all", rows, "finetune.save=all")
    lab("run", *settings)
    lab("train", *settings, "train.rounds=4", "--nodes", "0-1")
    lab("train", *settings, "train.rounds=4")
    from metadist_cli.storage import run_directory, shard_files

    run = run_directory.Run.at(lab.run())
    manifest = run_directory.shard_manifest(run)
    shards = shard_files.read_shards(run, manifest, [n["node"] for n in manifest["nodes"]])
    x = np.concatenate([shard.x for shard in shards])
    assert x.shape == (192, 12)
    assert len(np.unique(x)) > 0.99 * x.size  # any of them found elsewhere would mean something
    found = contents(lab.run())
    assert sum("nodes-" in name for name in found) >= 4
    for name, data in found.items():
        shard = name.startswith("shards/node-")
        traces = sum(any(trace in data for trace in traces_of(row)) for row in x)
        assert traces == (24 if shard else 0), f"{name} holds {traces} rows"


def traces_of(row: np.ndarray) -> list[bytes]:
    """Ways to write a row, or three neighbouring values of it, down: as numbers, as grey levels, as text."""
    parts = [row[i : i + 3] for i in range(0, len(row) - 2, 3)]
    binary = [part.astype(kind).tobytes() for part in parts for kind in (np.float16, np.float32, np.float64)]
    grey = np.round((row - row.min()) / np.ptp(row) * 255).astype(np.uint8).tobytes()
    texts = [text.encode() for value in row for text in (str(value), repr(float(value)))]
    rounded = [",".join(f"{value:.6f}" for value in part).encode() for part in parts]  # one alone may be a probability
    return [*binary, grey, *texts, *rounded]
