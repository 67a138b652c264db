"""The script that times whole commands, cut short: what it writes agrees, and unlike work or hashes are seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from runner import ROOT, environment

from metadist_cli import config

pytestmark = pytest.mark.slow  # runs of scripts that users start by hand

SCRIPT = ROOT / "tests" / "benchmarks" / "launches.py"
launches, launches_table = import_module("launches"), import_module("launches_table")
launches_omniglot, launches_reference = import_module("launches_omniglot"), import_module("launches_reference")

PLACE = {"cpu": "a CPU", "cores": 2, "torch": "2", "python": "3", "commit": "0123"}
ABOUT = {"machine": PLACE, "date": "2026-01-01", "repeats": 1, "left_out": {}}


def script(*arguments: str) -> str:
    called = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(called, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def verdicts(row: dict[str, Any]) -> list[bool]:
    """Of a row alone: its lines, and that the table says the same."""
    lines = launches_table.LINES[row["what"]](row)
    shown = launches_table.table(ABOUT | {"rows": [row]})
    for line in lines:
        assert f"| {line.figure} | {line.wanted} | {'met' if line.met else 'not met'} |" in shown
    return [line.met for line in lines]


@pytest.mark.slow
def test_a_start_and_the_hashes(tmp_path: Path) -> None:
    out, readme = tmp_path / "launches.json", tmp_path / "README.md"
    printed = script("--only", "start", "hashes", "--repeats=1", "--out", str(out))
    found = json.loads(out.read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["left_out"] == {}
    start, hashes = found["rows"]
    ours, bare = start["metadist"], start["bare"]
    assert len(ours) == len(bare) == 3
    assert min(*ours, *bare) > 0
    more = sorted(one - other for one, other in zip(ours, bare, strict=True))
    assert f"| **{more[1]:.2f} ({more[0]:.2f} to {more[2]:.2f}) s more**: " in printed
    ways = ["plain", "2 workers", "torchrun 1", "torchrun 2", "torchrun 4", "by hand"]
    assert sorted(hashes["found"]) == sorted(ways)
    assert len(set(hashes["found"].values())) == 1
    assert all(f"{way} `{sha256[:12]}`" in printed for way, sha256 in hashes["found"].items())
    assert "| all the same | met |" in printed
    readme.write_text("before\n<!-- launches -->\n\nold\n\n<!-- end of launches -->\nafter\n")
    assert script("--table", "--out", str(out), "--readme", str(readme)) == printed
    assert readme.read_text() == f"before\n<!-- launches -->\n\n{printed}\n<!-- end of launches -->\nafter\n"


@pytest.mark.slow
def test_omniglot_and_ranks(tmp_path: Path) -> None:
    folder = Path(os.environ.get("METADIST_DATA") or "nowhere") / "omniglot"
    parts = ("images_background", "images_evaluation")
    if not all(any((folder / f"{part}{end}").exists() for end in (".zip", "")) for part in parts):
        pytest.skip("the images of Omniglot are not in METADIST_DATA")
    out = tmp_path / "launches.json"
    printed = script("--only", "omniglot", "ranks", "--rounds=1", "--repeats=1", "--out", str(out))
    found = json.loads(out.read_text())
    omniglot = found["rows"][0]
    assert omniglot["gradient_gap"] < 1e-9
    assert omniglot["done"] == {"tasks": 640, "rows": 6400, "adaptations": 8, "steps": 3, "weights": 112_005}
    (ours,), (loop,) = omniglot["metadist"], omniglot["loop"]
    times = f"{ours / loop:.2f}"
    assert f"| **{times} ({times} to {times}) x**: {ours:,.2f} s, {loop:,.2f} s" in printed
    if len(os.sched_getaffinity(0)) > 1:
        ranks = found["rows"][1]
        for way in ("torchrun", "workers"):
            assert f"**{ranks['alone'][0] / ranks[way][0]:.2f} (" in printed
    else:
        assert list(found["left_out"]) == ["ranks"]


def test_without_the_images_two_rows_are_left_out(tmp_path: Path) -> None:
    empty = {"METADIST_DATA": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    called = [sys.executable, str(SCRIPT), "--only", "omniglot", "ranks", "--out", str(tmp_path / "launches.json")]
    done = subprocess.run(called, env=environment(**empty), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "launches.json").read_text())["rows"] == []
    for what in ("omniglot", "ranks"):
        assert f"Left out: {what}, for the images of Omniglot are not in METADIST_DATA." in done.stdout


def test_another_hash_is_not_met() -> None:
    same = {"plain": 64 * "a", "2 workers": 64 * "a", "by hand": 64 * "a"}
    assert verdicts({"what": "hashes", "found": same}) == [True]
    assert verdicts({"what": "hashes", "found": same | {"by hand": 63 * "a" + "b"}}) == [False]


def test_what_is_compared_is_compared_within_a_repeat() -> None:
    """The medians of these lie apart by other differences and ratios than their pairs do."""
    late, bare = [5.0, 3.0, 9.0], [4.0, 1.6, 5.0]
    assert launches_table.start({"metadist": late, "bare": bare})[0].figure.startswith("**1.40 (1.00 to 4.00) s more**")
    assert verdicts({"what": "start", "metadist": late, "bare": bare}) == [True]
    assert verdicts({"what": "start", "metadist": [3.2], "bare": [1.6]}) == [False]
    row = {
        "what": "ranks",
        "rounds": 2,
        "alone": [3.2, 3.2, 1.0],
        "torchrun": [2.0, 1.0, 1.0],
        "workers": [2.1, 2.1, 1.0],
    }
    assert verdicts(row) == [True, False]
    assert launches_table.ranks(row)[0].figure == "**1.60 (1.00 to 3.20) x as fast**: 1.00 s, 3.20 s"


@pytest.mark.parametrize(("ours", "met"), [(11.9, True), (12.1, False)])
def test_a_run_may_take_a_fifth_more_than_the_loop(ours: float, met: bool) -> None:
    score = {"before": 0.2, "after": 0.9, "untrained": 0.5}
    row = {"what": "omniglot", "rounds": 10, "of": 150, "episodes": 40, "gradient_gap": 1e-15, "metadist": [ours]}
    row |= {"loop": [10.0], "cpu": {"metadist": [9.0], "loop": [10.0]}, "accuracy": {"metadist": score, "loop": score}}
    row["done"] = {"tasks": 6400, "rows": 64_000, "adaptations": 80, "steps": 3, "weights": 112_005}
    assert verdicts(row) == [met]
    shown = launches_table.table(ABOUT | {"rows": [row]})
    assert "10 of the config's 150 rounds and 40 new tasks" in shown
    assert "weighs 15 times as much" in shown
    assert "it is the whole" in launches_table.table(ABOUT | {"rows": [row | {"rounds": 150}]})


def test_other_work_is_told() -> None:
    done = {"tasks": 640, "rows": 6400}
    assert launches_omniglot.same(done, dict(done)) == done
    with pytest.raises(SystemExit, match="do not do the same work"):
        launches_omniglot.same(done, done | {"rows": 6399})


def test_the_loop_does_what_the_config_says(tmp_path: Path) -> None:
    """With few images: its counts, its averaging, and that it learns to tell classes apart that are easily told."""
    draw = launches_reference.np.random.default_rng(0)
    noise = draw.integers(0, 50, (40, 20, 28, 28))
    images = launches_reference.np.uint8(noise + draw.integers(0, 200, (40, 1, 28, 28)))
    launches_reference.np.save(tmp_path / "images.npy", images)
    settings = ("train.rounds=2", "train.local_steps=2", "finetune.episodes=3", "partition.nodes=2", "task.new.test=10")
    told = launches_omniglot.loops_work(config.load("omniglot-maml", settings), tmp_path / "images.npy")
    found = launches_reference.play(launches_reference.Work(**told))
    assert found["done"] == {"tasks": 32, "rows": 320, "adaptations": 6, "steps": 3, "weights": 112_005}
    assert found["accuracy"]["after"] > 0.9 > found["accuracy"]["before"]


def test_nothing_of_metadist_is_in_the_loops_process() -> None:
    asked = "import launches_reference, sys; print([m for m in sys.modules if m.startswith('metadist')])"
    done = subprocess.run([sys.executable, "-c", asked], env=environment(), cwd=SCRIPT.parent, capture_output=True)
    assert (done.returncode, done.stdout.strip()) == (0, b"[]"), done.stderr


def test_the_readme_has_the_table_of_the_figures() -> None:
    found = json.loads((SCRIPT.parent / "launches.json").read_text())
    marked = f"<!-- launches -->\n\n{launches.table(found)}\n<!-- end of launches -->"
    assert marked in (SCRIPT.parent / "README.md").read_text()
