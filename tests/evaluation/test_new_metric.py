"""Adding a metric is one edit in one file: configs, evaluation and the report learn everything from its entry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from runner import ROOT, TINY, process

NEW = '''

@metric("classification", "top-2 accuracy", higher_is_better=True, percent=True, varied=True)
def top2(outputs: np.ndarray, y: np.ndarray) -> float:
    """Share of rows whose class is among the two most probable ones."""
    return (np.argsort(-outputs, 1)[:, :2] == y[:, None]).any(1).mean()
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The package with one more metric."""
    shutil.copytree(ROOT / "metadist_cli", tmp_path / "metadist_cli", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "metadist_cli" / "evaluation" / "metrics.py"
    path.write_text(path.read_text() + NEW)
    (tmp_path / "new.yaml").write_text(TINY)
    return tmp_path


def test_a_new_metric_is_one_edit(folder: Path) -> None:
    """It is accepted in YAML, computed for each task and over all rows, and explained in the report."""
    options = ("finetune.metrics=[top2]", "--runs-dir", "runs")
    done = process("run", "new.yaml", *options, module=True, cwd=folder, PYTHONPATH=str(folder))
    assert done.code == 0, done.out + done.err
    [path] = (folder / "runs" / "new").rglob("metrics.json")
    metrics = json.loads(path.read_bytes())
    top2 = metrics["after"]["metrics"]["top2"]
    assert metrics["after"]["mean"] <= top2["mean"] <= 1, "the best class is among the two best"
    assert top2["over_rows"] is not None
    report = (path.parent / "report.html").read_text()
    for said in ("top2 ↑", f"{100 * top2['mean']:.1f}", "top2: top-2 accuracy", "top2 needs two classes"):
        assert said in report
