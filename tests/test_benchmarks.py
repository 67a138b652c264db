"""The script that times whole federated rounds: a short table, and that all its variants do the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from runner import ROOT, environment

SCRIPT = ROOT / "tests" / "benchmarks" / "rounds.py"
sys.path.insert(0, str(SCRIPT.parent))
rounds = import_module("rounds")
rounds_metadist, rounds_reference = import_module("rounds_metadist"), import_module("rounds_reference")

SHORT = ("--nodes=10", "--algorithms", "fedavg", "second", "--rounds=4", "--repeats=1")
FIGURES = {"cpu_ms", "wall_ms", "mean_wall_ms", "first_round_s", "imports_s", "peak_mb", "norm"}


def script(folder: Path, *arguments: str) -> str:
    called = [sys.executable, str(SCRIPT), *arguments, "--out", str(folder / "rounds.json")]
    done = subprocess.run(called, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rounds_of_a_short_table(tmp_path: Path) -> None:
    printed = script(tmp_path, *SHORT)
    found = json.loads((tmp_path / "rounds.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert 0 <= found["difference"] < rounds.CLOSE
    rows = [(row["algorithm"], row["nodes"], row["rows"]) for row in found["rows"]]
    assert rows == [("fedavg", 10, 180), ("second", 10, 180)]
    for row in found["rows"]:
        (ours,), (vmap,), (loop,) = (row["runs"][variant] for variant in rounds.VARIANTS)
        assert (row["rounds"], row["repeats"]) == (4, 1)
        assert set(vmap) == set(loop) == FIGURES
        assert set(ours) == FIGURES | {"partition_s", "noted_ms", "block"}
        assert min(run[figure] for run in (ours, vmap, loop) for figure in FIGURES) > 0
        assert sum(ours["noted_ms"].values()) < ours["mean_wall_ms"]
        assert ours["imports_s"] + ours["partition_s"] < ours["first_round_s"]
        assert set(row["ratio"].values()) == {ours["cpu_ms"] / vmap["cpu_ms"]}
        assert vmap["norm"] == pytest.approx(loop["norm"])
        times, ratio = (f"{run['cpu_ms']:.1f}" for run in (ours, vmap, loop)), row["ratio"]["median"]
        assert f"| **{' / '.join(times)}** | {ratio:.2f} ({ratio:.2f} to {ratio:.2f}) |" in printed
    (tmp_path / "README.md").write_text("before\n<!-- rounds -->\n\nold\n\n<!-- end of rounds -->\nafter\n")
    assert script(tmp_path, "--table", "--readme", str(tmp_path / "README.md")) == printed
    text = (tmp_path / "README.md").read_text()
    assert text == f"before\n<!-- rounds -->\n\n{printed}\n<!-- end of rounds -->\nafter\n"


def test_rounds_are_not_timed_where_the_work_differs() -> None:
    assert rounds.check() < rounds.CLOSE
    with pytest.raises(SystemExit, match="do not do the same work"):
        rounds.check(lr=1.01 * rounds_reference.LR)


@pytest.mark.parametrize("algorithm", rounds.ALGORITHMS)
@pytest.mark.parametrize("nodes", [10, 30])
def test_rounds_of_the_references_agree(algorithm: str, nodes: int, tmp_path: Path, monkeypatch) -> None:
    """The loop, vmap, and vmap by chunks end at the same parameters, of which no two algorithms have the same."""
    x, y = rounds_reference.rows(rounds.write_digits(tmp_path, nodes))
    torch.manual_seed(1)
    first = {name: p.detach().clone() for name, p in rounds_reference.model().named_parameters()}
    told: tuple[Any, ...] = (2, 0.1, lambda: None)
    vmap = rounds_reference.vmap_rounds(first, x, y, algorithm, *told)
    loop = rounds_reference.loop_rounds(first, x, y, algorithm, *told)
    monkeypatch.setattr(rounds_reference, "WHOLE", 1)
    monkeypatch.setattr(rounds_reference, "CHUNK", 7)
    chunks = rounds_reference.vmap_rounds(first, x, y, algorithm, *told)
    for other in (loop, chunks):
        torch.testing.assert_close(other, vmap, atol=1e-6, rtol=1e-5)
    another = rounds_reference.vmap_rounds(first, x, y, "first" if algorithm == "second" else "second", *told)
    assert not torch.allclose(another["head.weight"], vmap["head.weight"], atol=1e-5)


@pytest.mark.parametrize("algorithm", rounds.ALGORITHMS)
def test_rounds_of_more_nodes_have_data_made_for_them(algorithm: str, tmp_path: Path) -> None:
    """A round of metadist on as many rows as the reference draws, every node of which takes one batch."""
    assert rounds.write_digits(tmp_path, 1001) == {"nodes": 1001, "rows": 30, "data": None}
    work = {"nodes": 20, "rows": 30, "data": None, "algorithm": algorithm, "rounds": 1, "folder": tmp_path}
    marks: list[None] = []
    training, _ = rounds_metadist.trained(work, lambda: marks.append(None))
    assert len(marks) == 1
    x, y = rounds_reference.rows(work)
    assert list(training.weights.values()) == [30] * 20 == [len(labels) for labels in y]
    assert training.setting.experiment.steps == 1 == len(rounds_reference.batches(x, y))
    half = (1, 15, 15)
    assert training.setting.experiment.rows == (half if algorithm != "fedavg" else (1, 0, 30))


def test_rounds_have_their_table_in_the_readme() -> None:
    found = json.loads((SCRIPT.parent / "rounds.json").read_text())
    text = SCRIPT.with_name("README.md").read_text()
    assert f"<!-- rounds -->\n\n{rounds.table(found)}\n<!-- end of rounds -->" in text
