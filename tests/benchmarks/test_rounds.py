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
from runner import ROOT, environment, proc

pytestmark = pytest.mark.slow  # runs of scripts that users start by hand

SCRIPT = ROOT / "tests" / "benchmarks" / "rounds.py"
rounds = import_module("rounds")
rounds_metadist, rounds_reference = import_module("rounds_metadist"), import_module("rounds_reference")
rounds_peers = import_module("rounds_peers")

SHORT = ("--nodes=10", "--synthetic=20", "--algorithms", "fedavg", "second", "--rounds=4", "--repeats=1", "--peers")
FIGURES = {"cpu_ms", "wall_ms", "first_round_s", "imports_s", "peak_mb", "norm"}


def script(folder: Path, *arguments: str) -> str:
    called = [sys.executable, str(SCRIPT), *arguments, "--out", str(folder / "rounds.json")]
    done = subprocess.run(called, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"


def test_rounds_of_a_short_table(tmp_path: Path) -> None:
    printed = script(tmp_path, *SHORT)
    found = json.loads((tmp_path / "rounds.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert 0 <= found["difference"] < rounds.CLOSE
    rows = [(row["algorithm"], row["nodes"], row["rows"]) for row in found["rows"]]
    assert rows == [("fedavg", 10, 180), ("fedavg", 20, 30), ("second", 10, 180)]
    assert list(found["rows"][1]["runs"]) == ["metadist", "vmap"]
    for row in (found["rows"][0], found["rows"][2]):
        (ours,), (vmap,), (loop,) = (row["runs"][variant] for variant in rounds.VARIANTS)
        assert (row["rounds"], row["repeats"]) == (4, 1)
        assert set(vmap) == set(loop) == FIGURES | {"moved"}
        assert set(ours) == FIGURES | {"partition_s", "noted_ms", "block"}
        assert min(run[figure] for run in (ours, vmap, loop) for figure in FIGURES) > 0
        assert all(spent > 0 for spent in ours["noted_ms"].values())
        assert ours["imports_s"] + ours["partition_s"] < ours["first_round_s"]
        assert set(row["ratio"].values()) == {ours["cpu_ms"] / vmap["cpu_ms"]}
        assert vmap["norm"] == pytest.approx(loop["norm"], rel=rounds.CLOSE)
        times, ratio = (_shown(run["cpu_ms"]) for run in (ours, vmap, loop)), row["ratio"]["median"]
        assert f"| **{' / '.join(times)}** | {ratio:.2f} ({ratio:.2f} to {ratio:.2f}) |" in printed
    assert "not installed" not in printed.lower()
    (tmp_path / "README.md").write_text("before\n<!-- rounds -->\n\nold\n\n<!-- end of rounds -->\nafter\n")
    assert script(tmp_path, "--table", "--readme", str(tmp_path / "README.md")) == printed
    text = (tmp_path / "README.md").read_text()
    assert text == f"before\n<!-- rounds -->\n\n{printed}\n<!-- end of rounds -->\nafter\n"


def test_rounds_are_not_timed_where_the_work_differs() -> None:
    assert rounds.check() < rounds.CLOSE
    with pytest.raises(SystemExit, match="do not do the same work"):
        rounds.check(lr=1.01 * rounds_reference.LR)


@pytest.mark.parametrize("variant", rounds.PEERS)
def test_rounds_of_a_framework_do_the_same_work(variant: str, tmp_path: Path) -> None:
    if rounds_peers.missing(variant):
        pytest.skip(f"{rounds.PEERS[variant]} is not installed")
    data = rounds.write_digits(tmp_path, 10)
    work = {**data, "algorithm": "fedavg", "rounds": 4, "variant": variant}
    found = rounds.play(work)
    assert set(found) == FIGURES | {"moved"}
    assert min(found.values()) > 0
    rounds.check_peer(work, found)


def test_rounds_of_a_framework_do_not_count_where_the_work_differs(tmp_path: Path) -> None:
    work = {**rounds.write_digits(tmp_path, 30), "algorithm": "fedavg", "rounds": 3, "variant": "vmap"}
    alike = rounds_reference.play(work, lambda: None)
    work["variant"] = "pfl"
    rounds.check_peer(work, alike)
    for wrong in ({"norm": 1.001 * alike["norm"]}, {"moved": 1.001 * alike["moved"]}, {"moved": float("nan")}):
        with pytest.raises(SystemExit, match="pfl and the reference do not do the same work: "):
            rounds.check_peer(work, alike | wrong)


def test_rounds_of_a_slow_framework_are_few(tmp_path: Path, monkeypatch) -> None:
    """Its one run stands beside the first of metadist's."""
    played = []

    def play(work: dict[str, Any]) -> dict[str, float]:
        played.append((work["variant"], work["rounds"]))
        return {"cpu_ms": {"metadist": 2.0 * len(played), "flwr": 600.0}.get(work["variant"], 1.0)}

    monkeypatch.setattr(rounds, "play", play)
    monkeypatch.setattr(rounds, "check_peer", lambda work, found: None)
    data = {"nodes": 1000, "rows": 18, "data": "a file"}
    row = rounds.measure("fedavg", data, 40, 2, ("pfl", "flwr"))
    each = [(variant, 40) for variant in (*rounds.VARIANTS, "pfl")]
    assert played == [*each, ("flwr", 5), *each]
    assert row["peers"]["flwr"] == {"median": 300.0, "min": 300.0, "max": 300.0}
    assert row["peers"]["pfl"]["max"] == 0.5
    assert rounds.measure("second", data, 40, 1, ("pfl", "flwr"))["peers"] == {}
    assert rounds.amount("flwr", 100, 40, 2) == (40, 2)
    assert rounds.amount("metadist", 100_000, 40, 2) == (5, 1)


def test_rounds_say_what_is_wanted_and_met() -> None:
    noted = {"train": 6.0, "files": 2.0}
    run = {
        "cpu_ms": 10.0,
        "wall_ms": 9.0,
        "first_round_s": 1.0,
        "peak_mb": 13.0,
        "noted_ms": noted,
    }
    small, large = {"metadist": [run], "vmap": [run]}, {"metadist": [run | {"peak_mb": 4295.0}], "vmap": [run]}
    one, more = ({"median": value, "min": value, "max": 12.5} for value in (1.0, 1.2))
    row = {"algorithm": "fedavg", "rounds": 3, "repeats": 1, "peers": {}, "data": "synthetic"}
    pfl, flwr = {"median": 6.9, "min": 6.0, "max": 7.9}, {"median": 412.3, "min": 99.9, "max": 1500.0}
    rows = [
        row | {"nodes": 100, "ratio": one, "runs": small},
        row | {"nodes": 1000, "ratio": more, "runs": small, "data": "digits", "peers": {"pfl": pfl, "flwr": flwr}},
        row | {"nodes": 100_000, "ratio": one, "runs": large},
    ]
    machine = {"cpu": "a", "threads": 1, "torch": "b", "python": "c", "commit": "d"}
    about = {"machine": machine, "date": "e", "rows": rows, "missing": []}
    first, second, third = rounds.table(about).splitlines()[-3:]
    assert "| 1.00 (1.00 to 12) | - | - | CPU 1.1 x: met, memory 1.3 x: met, files 25%: met |" in first
    assert "| 1.20 (1.20 to 12) | 6.90 (6.00 to 7.90) | 412 (100 to 1500) | CPU 1.1 x: not met," in second
    assert "files 25%: met, pfl 7 x: not met, Flower 100 x: met |" in second
    assert "memory 1.3 x: not met, a node's cost 1.2 x that of 100 (0.00): met, 4 GiB: not met |" in third
    slow = run | {"noted_ms": noted | {"files": 3.0}}
    rows[0]["runs"] = {"metadist": [slow | {"cpu_ms": 1e-3}], "vmap": [run]}
    first, _, third = (
        rounds.table(about | {"missing": ["flwr"]}).partition("\n\nNot installed: Flower.")[0].splitlines()[-3:]
    )
    assert "files 25%: not met" in first
    assert "of 100 (10.00): not met" in third


@proc
def test_rounds_count_the_time_of_processes_below() -> None:
    """A process below one below, while it lives and when it has ended."""
    burn = "import time; [0 for _ in iter(lambda: time.process_time() < 0.3, False)]; print(1, flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    before = rounds_peers.tree_seconds()
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        alive = rounds_peers.tree_seconds() - before
        process.communicate(b"\n")
    ended = rounds_peers.tree_seconds() - before
    assert alive >= 0.25
    assert ended >= alive


@pytest.mark.parametrize("algorithm", rounds.ALGORITHMS)
@pytest.mark.parametrize("nodes", [10, 30])
def test_rounds_of_the_references_agree(algorithm: str, nodes: int, tmp_path: Path, monkeypatch) -> None:
    """The loop, vmap, and vmap by chunks end at the same parameters, of which no two algorithms have the same."""
    network = rounds_reference.model
    monkeypatch.setattr(rounds_reference, "model", lambda: network().double())
    x, y = rounds_reference.rows(rounds.write_digits(tmp_path, nodes))
    x = x.double()
    torch.manual_seed(1)
    first = rounds_reference.weights_of(rounds_reference.model())
    told: tuple[Any, ...] = (2, 0.1, lambda: None)
    vmap = rounds_reference.vmap_rounds(first, x, y, algorithm, *told)
    loop = rounds_reference.loop_rounds(first, x, y, algorithm, *told)
    monkeypatch.setattr(rounds_reference, "WHOLE", 1)
    monkeypatch.setattr(rounds_reference, "CHUNK", 7)
    chunks = rounds_reference.vmap_rounds(first, x, y, algorithm, *told)
    for other in (loop, chunks):
        torch.testing.assert_close(other, vmap, atol=1e-12, rtol=1e-12)
    another = rounds_reference.vmap_rounds(first, x, y, "first" if algorithm == "second" else "second", *told)
    assert not torch.allclose(another["head.weight"], vmap["head.weight"], atol=1e-5)


@pytest.mark.parametrize("algorithm", rounds.ALGORITHMS)
def test_rounds_of_more_nodes_have_data_made_for_them(algorithm: str, tmp_path: Path) -> None:
    """A round of metadist on as many rows as the reference draws, every node of which takes one batch."""
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
