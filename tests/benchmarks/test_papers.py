"""The script that makes the papers' table: a row over two seeds, shortened; its rows are all that there are."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from runner import ROOT, environment

pytestmark = pytest.mark.slow  # runs of scripts that users start by hand

SCRIPT = ROOT / "tests" / "benchmarks" / "papers.py"
SHORT = ("data.functions=3000", "train.rounds=2", "train.local_steps=2", "finetune.episodes=20", "execution.threads=1")


def papers(folder: Path, *arguments: str) -> str:
    told = [*arguments, "--runs-dir", str(folder / "runs"), "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *told],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_row_over_two_seeds(tmp_path: Path) -> None:
    settings = [f"--set={s}" for s in SHORT]
    printed = papers(tmp_path, "papers/sinusoid-10-nodes", "--seeds=2", *settings)
    (row,) = json.loads((tmp_path / "papers.json").read_text())["rows"]
    assert (row["config"], row["seeds"], row["rounds"], row["nodes"]) == ("papers/sinusoid-10-nodes", [0, 1], 2, 10)
    # 1,761 weights and Adam's two moments and its count, down and up, in two rounds
    assert row["tensor_bytes"] == 2 * 2 * 4 * (3 * 1761 + 1)
    assert row["tensor_bytes"] < row["serialised_bytes"] < row["tensor_bytes"] + 2 * 2 * 4096
    ten, five = row["figures"]
    told = [
        json.loads((tmp_path / "runs" / f"sinusoid-10-nodes-s{seed}" / "finetune" / name / "metrics.json").read_text())
        for name in ("new", "5-shot")
        for seed in (0, 1)
    ]
    scores = [m["per_step"][1]["mean"] for m in told]
    assert ten["values"] + five["values"] == scores
    assert ten["mean"] == pytest.approx(statistics.mean(scores[:2]))
    assert ten["sd_over_seeds"] == pytest.approx(statistics.stdev(scores[:2]))
    assert five["ci95_over_tasks"] == pytest.approx(statistics.mean(m["per_step"][1]["ci95_tasks"] for m in told[2:]))
    assert [m["task_text"].split(",")[0] for m in told] == ["1-way 10-shot"] * 2 + ["1-way 5-shot"] * 2
    assert f"**{ten['mean']:.3f}** ± {ten['sd_over_seeds']:.3f} (2 seeds)" in printed
    (tmp_path / "README.md").write_text("before\n<!-- papers -->\n\nold\n\n<!-- end of papers -->\nafter\n")
    assert papers(tmp_path, "--table", "--readme", str(tmp_path / "README.md")) == printed
    text = (tmp_path / "README.md").read_text()
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert papers(tmp_path, "--table") == printed  # a row without runs stays
    assert text == f"before\n<!-- papers -->\n\n{printed}\n<!-- end of papers -->\nafter\n"


def test_the_topic_has_the_table_of_the_figures() -> None:
    from papers import table

    found = json.loads((SCRIPT.parent / "papers.json").read_text())["rows"]
    text = (ROOT / "metadist_cli" / "topics" / "results.md").read_text()
    assert f"<!-- papers -->\n\n{table(found)}\n<!-- end of papers -->" in text


def test_every_paper_has_a_row() -> None:
    text = SCRIPT.read_text()
    for path in (ROOT / "configs" / "papers").glob("*.yaml"):
        assert f'"papers/{path.stem}"' in text
