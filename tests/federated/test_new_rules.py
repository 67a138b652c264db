"""A new uplink and a new aggregation rule are one file and one registry line each, and hold in every launch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runner import TINY, environment, package_with, process
from safetensors.numpy import load

CLIP = '''\
"""Clipping."""

from typing import Annotated

import torch
from pydantic import Field

from metadist_cli.core import tree
from metadist_cli.core.tree import Params
from metadist_cli.federated.uplink.types import Uplink


Norm = Annotated[float, Field(gt=0, description="Largest norm of a node's change of the parameters.")]


def clip(*, norm: Norm) -> Uplink:
    """Shrink a node's change of the parameters to a norm."""

    def encode(update: Params, start: Params, state: Params, seed: torch.Tensor) -> tuple[Params, Params]:
        change = {k: update[k] - start[k] for k in update if k.startswith("meta/")}
        size = torch.stack([v.square().sum() for v in change.values()]).sum().sqrt()
        scale = (norm / size).clamp(max=1)
        return update | {k: start[k] + scale * v for k, v in change.items()}, state

    return Uplink(lambda start: {}, encode, lambda payload, start: payload)
'''
TOP = '''\
"""Sparsification with error feedback (Stich, Cordonnier, Jaggi 2018): what is not sent is remembered."""

import torch

from metadist_cli.core.tree import Params
from metadist_cli.federated.uplink.types import Uplink

NAME = "meta/head.weight"


def top(*, share: float = 0.25) -> Uplink:
    """Send the largest changes of the output layer alone."""

    def encode(update: Params, start: Params, state: Params, seed: torch.Tensor) -> tuple[Params, Params]:
        wanted = (update[NAME] - start[NAME]).flatten() + state["error"]
        places = wanted.abs().topk(max(1, int(share * wanted.numel()))).indices
        sent = {"values": wanted.gather(0, places), "places": places}
        rest = {k: v for k, v in update.items() if k != NAME}
        return rest | sent, {"error": wanted.scatter(0, places, 0.0)}

    def decode(payload: Params, start: Params) -> Params:
        change = torch.zeros(start[NAME].numel()).scatter(0, payload["places"], payload["values"])
        rest = {k: v for k, v in payload.items() if k not in ("values", "places")}
        return rest | {NAME: start[NAME] + change.reshape(start[NAME].shape)}

    return Uplink(lambda start: {"error": torch.zeros(start[NAME].numel())}, encode, decode)
'''
MEDIAN = '''\
"""A running median."""

import torch

from metadist_cli.core.tree import Params
from metadist_cli.federated.aggregators.types import Aggregator, over_all
from metadist_cli.federated.updates import Updates


def running_median(*, decay: float = 0.5) -> Aggregator:
    """Move by a running mean of the coordinate-wise medians of the nodes' changes."""

    def init(shared: Params) -> Params:
        return {k: torch.zeros_like(v) for k, v in shared.items() if k.startswith("meta/")}

    def apply(updates: Updates, old: Params, state: Params) -> tuple[Params, Params]:
        change = {k: (updates.shared[k] - old[k]).quantile(0.5, dim=0) for k in state}
        moved = {k: decay * state[k] + (1 - decay) * change[k] for k in state}
        return {k: old[k] + moved[k] if k in moved else updates.shared[k][0] for k in old}, moved

    return over_all(apply, init, weight=lambda rows: 1)
'''
DRIVER = """
import sys
from typer.testing import CliRunner
from metadist_cli.cli import app

def metadist(*arguments):
    done = CliRunner().invoke(app, [*arguments, "--runs-dir", "runs"])
    assert done.exit_code == 0, done.output + repr(done.exception)

for name, workers in (("plain", 1), ("workers", 2)):
    for command in ("partition", "train", "aggregate"):
        metadist(command, "new.yaml", f"execution.workers={workers}", "--name", name)
metadist("partition", "new.yaml", "--name", "hand")
for number in range(3):
    for part in ("1/2", "0/2"):
        metadist("train", "new.yaml", "--name", "hand", "--nodes", part)
    metadist("aggregate", "new.yaml", "--name", "hand")
for command in ("partition", "train"):
    metadist(command, "new.yaml", "train.rounds=2", "train.keep_nodes=all", "--name", "kept")
metadist("partition", "new.yaml", "--name", "killed")
"""
# Blocks of 3 nodes: two for two workers, and the cut that halves of the nodes by hand make too.
CONFIG = TINY.replace("threads: 1}", "threads: 1, block: 3}")
CONFIG += "uplink: [{name: clip, norm: 0.05}, {name: top}]\naggregate: {name: running_median}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with two uplinks and an aggregation rule more, and what three launches of an experiment left."""
    folder = tmp_path_factory.mktemp("new")
    files = {"uplink/clip": CLIP, "uplink/top": TOP, "aggregators/running_median": MEDIAN}
    package_with(folder, {f"federated/{path}.py": text for path, text in files.items()})
    (folder / "new.yaml").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=folder,
        env=environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def checkpoint(folder: Path, name: str, number: int = 3) -> bytes:
    return (folder / "runs" / name / "rounds" / f"{number:04d}" / "global.safetensors").read_bytes()


def whole(round_folder: Path, kind: str) -> dict[str, np.ndarray]:
    """The arrays of all files of a kind, in the order of their nodes."""
    parts = [load(path.read_bytes()) for path in sorted(round_folder.glob(f"{kind}-*.safetensors"))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_workers_and_commands_by_hand_end_in_the_same_bytes(folder: Path) -> None:
    assert checkpoint(folder, "workers") == checkpoint(folder, "plain")
    assert checkpoint(folder, "hand") == checkpoint(folder, "plain")


def test_a_killed_run_ends_in_the_same_bytes(folder: Path) -> None:
    """Killed while it commits round 2: the rule's state is in the checkpoint, the uplink's in the nodes' files."""
    last = ("new.yaml", "--runs-dir", "runs", "--name", "killed")
    fault = f"renamed:4:{int(signal.SIGKILL)}"  # the write of what nodes keep after round 2
    killed = process("train", *last, cwd=folder, PYTHONPATH=str(folder), FAULT=fault)
    assert killed.code == -signal.SIGKILL, killed.out + killed.err
    closed = (folder / "runs" / "killed").glob("rounds/*/global.safetensors")
    assert max(path.parent.name for path in closed) == "0001"
    for command in ("train", "aggregate"):
        done = process(command, *last, cwd=folder, PYTHONPATH=str(folder))
        assert done.code == 0, done.out + done.err
    assert checkpoint(folder, "killed") == checkpoint(folder, "plain")


def test_they_do_what_they_say(folder: Path) -> None:
    """Payloads, medians and states worked out again from the files, with NumPy."""
    run = folder / "runs" / "kept"
    rounds = [run / "rounds" / f"{number:04d}" for number in range(3)]
    start = load(checkpoint(folder, "kept", 0))
    sent = whole(rounds[1], "nodes")
    nodes, head = len(sent["values"]), start["meta/head.weight"]
    assert sent["values"].shape == sent["places"].shape == (nodes, head.size // 4)
    assert "meta/head.weight" not in sent

    changes = {k: sent[k] - start[k] for k in start if k in sent and k.startswith("meta/")}
    sparse = np.zeros((nodes, head.size), dtype=np.float32)
    np.put_along_axis(sparse, sent["places"], sent["values"], axis=1)
    changes["meta/head.weight"] = sparse.reshape(nodes, *head.shape)
    sizes = np.sqrt(sum(np.square(v.reshape(nodes, -1)).sum(1) for v in changes.values()))
    assert (sizes <= 0.05 * 1.001).all()
    assert (sizes > 0.02).all()

    kept = whole(rounds[1], "state")["uplink/then/error"]
    assert kept.shape == (nodes, head.size)
    assert not np.take_along_axis(kept, sent["places"], axis=1).any()

    end = load(checkpoint(folder, "kept", 1))
    for name, change in changes.items():
        median = np.median(change, axis=0)
        np.testing.assert_allclose(end[f"aggregator/{name}"], median / 2, atol=1e-7)
        np.testing.assert_allclose(end[name], start[name] + median / 2, atol=1e-7)


def test_their_options_are_checked_like_all_others(folder: Path) -> None:
    for setting, words in (
        ("uplink=[{name: clip}]", "norm"),
        ("uplink=[{name: clip, norm: -1}]", "> 0"),
        ("uplink=[{name: clap, norm: 1}]", "did you mean `clip`?"),
        ("aggregate.name=running_media", "did you mean `running_median`?"),
    ):
        command = [sys.executable, "-m", "metadist_cli", "validate", "new.yaml", setting, "--json"]
        done = subprocess.run(
            command, cwd=folder, env=environment(PYTHONPATH=str(folder)), capture_output=True, text=True, check=False
        )
        assert done.returncode not in (0, 70), done.stdout + done.stderr
        assert words in json.dumps(json.loads(done.stdout), ensure_ascii=False) + done.stderr, done.stdout
