"""The script that times steps of meta-learning, cut short: what it writes agrees, and a wrong gradient is not timed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from runner import ROOT, environment

pytestmark = pytest.mark.slow  # runs of scripts that users start by hand

SCRIPT = ROOT / "tests" / "benchmarks" / "meta_steps.py"
meta_steps = import_module("meta_steps")
BEST = "loop / metadist of 1 or 2"


def run(*arguments: str) -> str:
    called = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(called, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_workloads_for_a_moment(tmp_path: Path) -> None:
    out, readme = tmp_path / "meta_steps.json", tmp_path / "README.md"
    readme.write_text("before\n<!-- meta-steps -->\n\nold\n\n<!-- end of meta-steps -->\nafter\n")
    short = ["-v", "metadist", "loop", "l2l", "--seconds", "0.2", "--repeats", "1"]
    printed = run("-w", "mlp1", "omnifo", *short, "--out", str(out))
    found = json.loads(out.read_text())
    assert {"cpu", "cores", "threads", "torch", "python", "commit"} == set(found["machine"]) - {"system"}
    assert found["missing"] == ([] if find_spec("learn2learn") else ["learn2learn"])
    assert [(row["workload"], row["tasks"]) for row in found["rows"]] == [("mlp1", 16), ("omnifo", 32)]
    for row in found["rows"]:
        assert row["gradient_gap"] < 1e-9
        ms = {(s["variant"], s["threads"]): s["ms"] for s in row["samples"]}
        assert {("metadist", 1), ("loop", 1)} <= set(ms)
        loop = min(v for (variant, _), v in ms.items() if variant == "loop")
        ratio = row["ratios"]["loop / metadist"]
        assert ratio["median"] == ratio["min"] == ratio["max"] == pytest.approx(loop / ms["metadist", 1])
        assert f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" in printed
        for sample in row["samples"]:
            assert sample["window"] == 0
            assert sample["blocks"] >= max(3, sample["clean"])
            assert min(sample["ms"], sample["cpu_ms"], sample["peak_mb"]) > 0
    assert run("--table", "--out", str(out), "--readme", str(readme)) == printed
    expected = f"before\n<!-- meta-steps -->\n\n{printed}\n<!-- end of meta-steps -->\nafter\n"
    assert readme.read_text() == expected


def test_ratios_are_taken_within_a_window() -> None:
    times = [("loop", 6.0, 0), ("loop", 4.0, 0), ("metadist", 2.0, 0), ("loop", 9.0, 1), ("metadist", 3.0, 1)]
    one = {"processes": 1, "threads": 1}
    samples = [one | {"variant": variant, "ms": ms, "window": window} for variant, ms, window in times]
    alone = {"median": 2.5, "min": 2.0, "max": 3.0}
    assert meta_steps.ratios(samples) == {"loop / metadist": alone, BEST: alone}
    two = {"processes": 2, "threads": 1}
    samples += [two | {"variant": "metadist2", "ms": ms, "window": window} for window, ms in enumerate((1.0, 4.0))]
    better = meta_steps.ratios(samples)
    assert better == {"loop / metadist": alone, BEST: {"median": 3.5, "min": 3.0, "max": 4.0}}
    samples += [one | {"variant": "jax", "ms": 6.0, "window": window} for window in range(2)]
    found = meta_steps.ratios(samples)
    assert found["JAX / metadist, compiled or not"] == {"median": 4.0, "min": 2.0, "max": 6.0}
    assert found["the same on one core"] == {"median": 2.5, "min": 2.0, "max": 3.0}


@pytest.mark.parametrize(
    ("name", "eager", "best", "marks"),
    [
        ("omni", 2.1, 3.5, "2 x: met | 3.4 x: met"),
        ("omni", 1.9, 2.1, "2 x: not met | 3.4 x: not met"),
        ("mlp5", 3.6, 14.0, "3.5 x: met | 15 x: not met"),
        ("mlp5", None, None, "3.5 x: not measured | 15 x: not measured"),
        ("omniq15", 0.9, 0.9, "loop: not met | -"),
        ("omniq15", 1.0, 1.0, "loop: met | -"),
    ],
)
def test_the_table_says_what_is_met(name: str, eager: float | None, best: float | None, marks: str) -> None:
    found = json.loads((SCRIPT.parent / "meta_steps.json").read_text())
    row = next(r for r in found["rows"] if r["workload"] == name)
    told = {
        "loop / metadist": eager,
        "learn2learn / metadist": eager,
        "learn2learn / metadist, compiled or not": best,
    }
    ratios = {key: {"median": value, "min": value, "max": value} for key, value in told.items() if value is not None}
    shown = meta_steps.table(found | {"rows": [row | {"ratios": ratios}]})
    assert f"| {marks} |" in shown


@pytest.mark.parametrize("name", ["mlp5", "omni", "omnifo"])
@pytest.mark.parametrize("route", meta_steps.LIBRARIES)
def test_a_library_has_the_meta_gradient_of_the_loop(route: str, name: str) -> None:
    if find_spec(route) is None:
        pytest.skip(f"{route} is not installed")
    variants = import_module("meta_variants")
    assert variants.library_gap(route, meta_steps.WORKLOADS[name]) < meta_steps.TOLERANCE


@pytest.mark.parametrize("name", ["mlp5", "omni", "omnifo", "nodes"])
def test_another_gradient_is_seen(name: str) -> None:
    w, gradient_gap = meta_steps.WORKLOADS[name], meta_steps.gradient_gap
    assert gradient_gap(w) < meta_steps.TOLERANCE
    for other in (w._replace(lr=1.01 * w.lr), w._replace(first_order=not w.first_order)):
        assert gradient_gap(w, other) > 1e-3


def test_a_wrong_gradient_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_steps, "gradient_gap", lambda w: 2e-9)
    with pytest.raises(SystemExit, match="2e-09 from the loop's; nothing is timed"):
        meta_steps.workload_row("mlp1", ["metadist"], [0], 0.1, 1)


def test_the_readme_has_the_table_of_the_figures() -> None:
    found = json.loads((SCRIPT.parent / "meta_steps.json").read_text())
    marked = f"<!-- meta-steps -->\n\n{meta_steps.table(found)}\n<!-- end of meta-steps -->"
    assert marked in (SCRIPT.parent / "README.md").read_text()
