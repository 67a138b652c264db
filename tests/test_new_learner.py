"""Adding a learner is one file, and one entry of the registry with its import: nothing else knows learners by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from runner import ROOT, TINY, process

from metadist_cli.core.errors import CONFIG

NEW = '''\
"""MAML whose inner loop goes one step size against the sign of every gradient."""

from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.learners.inner_loop import InnerLoop, by_descent
from metadist_cli.learners.types import InnerLr, InnerSteps, Learner
from metadist_cli.core.losses import Loss
from metadist_cli.models.types import Model
from metadist_cli.core.optimizers import sgd
from metadist_cli.core.tree import Params


def sign_maml(model: Model, loss: Loss, *, inner_lr: InnerLr = 0.01, inner_steps: InnerSteps = 2) -> Learner:
    """meta_gradient = d loss(query; meta - inner_lr * signs of the support\'s gradient) / d meta."""

    def update(direction: Params, state: Params, params: Params, step: int | Tensor) -> tuple[Params, Params]:
        return tree.apply(lambda p, d: p - inner_lr * d.sign(), params, direction), state

    inner = sgd()._replace(update=update)
    return by_descent(InnerLoop(model, loss, inner), inner_steps, "maml by signs")
'''
REGISTRY = "LEARNERS: dict[str, Callable[..., Learner]] = {\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The package with one learner more."""
    learners = tmp_path / "metadist_cli" / "learners"
    shutil.copytree(ROOT / "metadist_cli", tmp_path / "metadist_cli", ignore=shutil.ignore_patterns("__pycache__"))
    (learners / "sign_maml.py").write_text(NEW)
    start, registry, rest = (learners / "__init__.py").read_text().partition(REGISTRY)
    entry = '    "sign_maml": sign_maml,\n'
    imported = "from metadist_cli.learners.sign_maml import sign_maml\n\n"
    (learners / "__init__.py").write_text(start + imported + registry + entry + rest)
    return tmp_path


def test_a_new_learner_is_one_file_and_one_entry(folder: Path) -> None:
    """It trains, is named in the results, and has options and a name that are checked like any other's."""

    def metadist(command: str, learner: str, *arguments: str) -> tuple[int, str]:
        usual = "learner: {name: maml, inner_lr: 0.1, inner_steps: 1}"
        assert usual in TINY
        (folder / "new.yaml").write_text(TINY.replace(usual, f"learner: {learner}"))
        done = process(command, "new.yaml", *arguments, module=True, cwd=folder, PYTHONPATH=str(folder))
        return done.code, done.out + done.err

    code, text = metadist("run", "{name: sign_maml, inner_lr: 0.02}", "--runs-dir", "runs")
    assert code == 0, text
    [metrics] = (folder / "runs" / "new").rglob("metrics.json")
    assert json.loads(metrics.read_bytes())["learner"] == "maml by signs"

    code, text = metadist("validate", "{name: sign_mamml}")
    assert code == CONFIG, text
    assert "did you mean `sign_maml`?" in text
