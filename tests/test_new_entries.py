"""A new learner, model, partitioner or data set is one file and one registry line: nothing else knows them by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runner import TINY, environment, package_with
from safetensors.numpy import load_file

from metadist_cli.core.errors import CONFIG

SIGN_MAML = '''\
"""MAML whose inner loop goes one step size against the sign of every gradient."""

from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.losses import Loss
from metadist_cli.core.optimizers import sgd
from metadist_cli.core.tree import Params
from metadist_cli.learners.inner_loop import InnerLoop, by_descent
from metadist_cli.learners.types import InnerLr, InnerSteps, Learner
from metadist_cli.models.types import Model


def sign_maml(model: Model, loss: Loss, *, inner_lr: InnerLr = 0.01, inner_steps: InnerSteps = 2) -> Learner:
    """meta_gradient = d loss(query; meta - inner_lr * signs of the support's gradient) / d meta."""

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        return tree.apply(lambda p, d: p - inner_lr * d.sign(), params, direction), state

    inner = sgd()._replace(update=update)
    return by_descent(InnerLoop(model, loss, inner), inner_steps, "maml by signs")
'''
QUADRATIC = '''\
"""A linear function of the inputs and their squares."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metadist_cli.core.tree import Params
from metadist_cli.models.types import Model


def quadratic(shape: tuple[int, ...], outputs: int) -> Model:
    """out = W [x, x^2] + b, from zero."""
    inputs = math.prod(shape)

    def initial(generator: torch.Generator) -> tuple[Params, Params]:
        return {"head.weight": torch.zeros(outputs, 2 * inputs), "head.bias": torch.zeros(outputs)}, {}

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        return torch.cat([x.flatten(1), x.flatten(1) ** 2], 1), {}

    def apply(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        return F.linear(features(params, stats, x, train, seed)[0], params["head.weight"], params["head.bias"]), {}

    return Model(initial, features, apply, outputs, f"quadratic {inputs}-{outputs}")
'''
IN_TURN = '''\
"""One item to each node in turn."""

import numpy as np

from metadist_cli.partition.partitioners.types import Assignment, Items, Partitioner, node_count, unnamed


def in_turn() -> Partitioner:
    """Item i goes to node i modulo the number of nodes."""

    def assign(items: Items, nodes: int | None, minimum: int, rng: np.random.Generator) -> Assignment:
        count = node_count(len(items.label), nodes, minimum)
        return unnamed([np.arange(node, len(items.label), count) for node in range(count)])

    return assign
'''
RINGS = '''\
"""Points on two rings."""

from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.seeds import numpy_generator
from metadist_cli.data.types import Dataset, build


def rings(seed: int, *, points: Annotated[int, Field(ge=2, description="on both rings")] = 400) -> Dataset:
    """Points at a distance of 1 or 2: x (points, 2) float32."""
    label = np.arange(points) % 2
    angle = numpy_generator(seed, "rings").uniform(0, 2 * np.pi, points)
    x = (label + 1)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return build("classification", x.astype(np.float32), label, ("inner", "outer"))
'''
LEARNER, MODEL = "learner: {name: maml, inner_lr: 0.1, inner_steps: 1}", "model: {name: mlp, hidden: [16]}"
PARTITION, TASK = "partition: {name: iid, nodes: 8}", "task: {"
ENTRIES = {  # name: file, text, line of the tiny config, what it becomes
    "sign_maml": ("learners", SIGN_MAML, LEARNER, "learner: {name: sign_maml, inner_lr: 0.02}"),
    "quadratic": ("models", QUADRATIC, MODEL, "model: {name: quadratic}"),
    "in_turn": ("partition/partitioners", IN_TURN, PARTITION, "partition: {name: in_turn, nodes: 8}"),
    "rings": ("data/sets", RINGS, TASK, "data: {name: rings, points: 320}\ntask: {"),
}
DRIVER = """
import json, sys
from typer.testing import CliRunner
from metadist_cli.cli import app

for name in sys.argv[1:]:
    for command, config, *more in (("run", name, "--runs-dir", "runs"), ("validate", name + "-mistyped")):
        done = CliRunner().invoke(app, [command, config + ".yaml", *more])
        print(json.dumps([config, done.exit_code, done.output]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with one entry more in four registries; beside it a config and a mistyped one for each."""
    folder = tmp_path_factory.mktemp("new")
    package_with(folder, {f"{room}/{name}.py": text for name, (room, text, *_) in ENTRIES.items()})
    for name, (*_, usual, line) in ENTRIES.items():
        assert TINY.count(usual) == 1
        text = TINY.replace(usual, line).replace("rounds: 3", "rounds: 1")
        (folder / f"{name}.yaml").write_text(text)
        (folder / f"{name}-mistyped.yaml").write_text(text.replace(name, name + "x"))
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, tuple[int, str]]:
    """(exit code, output) of `run` with each config, and of `validate` with each that is mistyped."""
    command = [sys.executable, "-c", DRIVER, *ENTRIES]
    env = environment(PYTHONPATH=str(folder))
    process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    lines = map(json.loads, process.stdout.splitlines())
    return {config: (code, text) for config, code, text in lines}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_new_entry_is_chosen_and_checked_like_any_other(done: dict[str, tuple[int, str]], name: str) -> None:
    code, text = done[name]
    assert code == 0, text
    code, text = done[f"{name}-mistyped"]
    assert code == CONFIG, text
    assert f"did you mean `{name}`?" in text


@pytest.mark.usefixtures("done")
def test_each_does_its_part(folder: Path) -> None:
    """The learner and the model are named in the results; shards have the partitioner's rows and the data's classes."""
    runs = {name: folder / "runs" / name for name in ENTRIES}
    metrics = {name: json.loads((run / "finetune/new/metrics.json").read_bytes()) for name, run in runs.items()}
    assert metrics["sign_maml"]["learner"] == "maml by signs"
    assert metrics["quadratic"]["model"] == "quadratic 64-10"
    dealt = [load_file(path)["row"] for path in runs["in_turn"].glob("shards/node-*.safetensors")]
    for place, rows in enumerate(sorted(map(np.sort, dealt), key=min)):
        np.testing.assert_array_equal(rows, np.arange(place, 1797, 8))
    manifest = json.loads((runs["rings"] / "shards/manifest.json").read_bytes())
    assert manifest["classes"] == ["inner", "outer"]
    assert sum(node["rows"] for node in manifest["nodes"]) == 320
