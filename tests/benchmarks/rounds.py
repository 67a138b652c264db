"""Whole federated rounds: metadist, with its files and metrics, beside the same work in a few lines of plain PyTorch.

    python tests/benchmarks/rounds.py                                   10 to 100,000 nodes, three algorithms
    python tests/benchmarks/rounds.py --nodes 100 --rounds 10 --repeats 2

A multilayer perceptron 64-128-10, batches of 32 rows, one local epoch with sgd, every node in every round, one thread.
fedavg: supervised; first, second: MAML with one inner step, of first and second order, on the halves of a batch. Up to
1,000 nodes have scikit-learn's digits, 18 rows each (180 where there are at most 10 nodes), drawn with replacement;
more have 30 rows of the data set `synthetic`, and are one run of at most 5 rounds of fedavg.
vmap: all nodes at once with torch.func, neither files nor metrics (by thousands beyond 10,000 nodes). loop: one node
after the other with autograd, up to 1,000 nodes.
Every run is a process of its own, and variants take turns. Before anything is timed, metadist and vmap must come to the
same parameters from the same start. Writes rounds.json (--out) and the table into a Markdown file (--readme); --table
runs nothing. Set TMPDIR to choose the disk that metadist's files go to.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
ALGORITHMS = ("fedavg", "first", "second")
VARIANTS = ("metadist", "vmap", "loop")
DIGITS = 1000  # nodes up to which they hold digits, and up to which the loop is worth waiting for
MOST = 1.1  # of the reference's CPU time is wanted
CLOSE = 1e-5


def child(work: dict[str, Any]) -> dict[str, Any]:
    """Play one variant and say what it took; work["began"]: the time at which the process was started."""
    clock = time.perf_counter()
    variant = importlib.import_module("rounds_metadist" if work["variant"] == "metadist" else "rounds_reference")
    imported = time.perf_counter() - clock
    marks: list[tuple[float, float, float]] = []
    found = variant.play(work, lambda: marks.append((time.process_time(), time.perf_counter(), time.time())))
    from metadist_cli import memory  # not before: its imports are not theirs

    later = list(pairwise(marks[1:]))
    wall = [1e3 * (b[1] - a[1]) for a, b in later]
    return {
        "cpu_ms": statistics.median(1e3 * (b[0] - a[0]) for a, b in later),
        "wall_ms": statistics.median(wall),
        "mean_wall_ms": statistics.fmean(wall),
        "first_round_s": marks[0][2] - work["began"],
        "imports_s": imported,
        "peak_mb": memory.peak().get("host", 0) / 1e6,
        **found,
    }


def play(work: dict[str, Any]) -> dict[str, Any]:
    """One variant in a process of its own."""
    with TemporaryDirectory() as folder:
        told = json.dumps(work | {"folder": folder, "began": time.time()})
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        called = [sys.executable, __file__, "child", told]
        done = subprocess.run(called, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def write_digits(folder: Path, nodes: int) -> dict[str, Any]:
    """Where the rows are, and how many a node has; metadist keeps one node more for the new task that it needs."""
    if nodes > DIGITS:
        return {"nodes": nodes, "rows": 30, "data": None}
    import numpy as np
    from sklearn.datasets import load_digits

    pixels, digits = (np.asarray(array) for array in load_digits(return_X_y=True))
    rows, path = 180 if nodes <= 10 else 18, folder / f"digits-{nodes}.npz"
    drawn = np.random.default_rng(0).integers(0, len(digits), rows * (nodes + 1))
    x, y = (pixels[drawn] / 16).astype(np.float32), digits[drawn].astype(np.int64)
    np.savez(path, x=x, y=y, node=np.repeat(np.arange(nodes + 1), rows))
    return {"nodes": nodes, "rows": rows, "data": str(path)}


def check(lr: float | None = None) -> float:
    """How far metadist's parameters are from the reference's after three rounds of 100 nodes from the same start.

    Raises SystemExit where that is more than rounding. lr: the reference's own, None: metadist's.
    """
    import rounds_metadist
    import rounds_reference
    import torch

    from metadist_cli import checkpoints

    with TemporaryDirectory() as folder:
        work = {**write_digits(Path(folder), 100), "algorithm": "fedavg", "rounds": 3, "folder": folder}
        training, _ = rounds_metadist.trained(work, lambda: None)
        start, end = (checkpoints.read_global(training.run, number, training.first)[0] for number in (0, 3))
        x, y = rounds_reference.rows(work | {"nodes": 101})
        named = [int(n["name"]) for n in training.setting.manifest["nodes"] if n["role"] == "train"]
    weights = {name.removeprefix("meta/"): w for name, w in start.items()}
    lr = rounds_reference.LR if lr is None else lr
    other = rounds_reference.vmap_rounds(weights, x[named], y[named], "fedavg", 3, lr, lambda: None)
    far = max(torch.dist(end[f"meta/{name}"], w, float("inf")).item() for name, w in other.items())
    if far > CLOSE:
        raise SystemExit(f"metadist and the reference do not do the same work: parameters differ by {far:.2g}")
    return far


def measure(algorithm: str, data: dict[str, Any], rounds: int, repeats: int) -> dict[str, Any]:
    """A row: every run of every variant, and the ratio of CPU times of neighbouring runs."""
    variants = VARIANTS
    if data["nodes"] > DIGITS:
        variants, rounds, repeats = VARIANTS[:2], min(rounds, 5), 1
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for _ in range(repeats):
        for variant in variants:
            runs[variant].append(play({**data, "algorithm": algorithm, "rounds": rounds, "variant": variant}))
            print(
                f"{algorithm}, {data['nodes']} nodes, {variant}: {runs[variant][-1]['cpu_ms']:.2f} ms", file=sys.stderr
            )
    each = [ours["cpu_ms"] / theirs["cpu_ms"] for ours, theirs in zip(runs["metadist"], runs["vmap"], strict=True)]
    return {
        "algorithm": algorithm,
        "nodes": data["nodes"],
        "rows": data["rows"],
        "rounds": rounds,
        "repeats": repeats,
        "runs": runs,
        "ratio": {"median": statistics.median(each), "min": min(each), "max": max(each)},
    }


def table(found: dict[str, Any]) -> str:
    """Markdown, a line a row; metadist, vmap and loop are told in this order."""
    here = found["machine"]
    where = f"{here['cpu']}, {here['threads']} thread, torch {here['torch']}, Python {here['python']}"
    when = f"{found['date']}, metadist at {here['commit']}"
    runs = "medians of runs, the first two rounds left out"
    heads = ["algorithm", "nodes", "runs x rounds", "CPU ms a round: metadist / vmap / loop", "metadist / vmap"]
    heads += [f"at most {MOST}", "wall ms", "s to the end of round 1", "peak MB", "of metadist's wall time"]
    lines = [f"{where}; {when}; {runs}.", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found["rows"]:
        ratio = row["ratio"]
        cells = [
            row["algorithm"],
            f"{row['nodes']:,}",
            f"{row['repeats']} x {row['rounds']}",
            f"**{_three(row, 'cpu_ms')}**",
        ]
        cells += [f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"]
        cells.append("met" if ratio["median"] <= MOST else "not met")
        cells += [_three(row, figure) for figure in ("wall_ms", "first_round_s", "peak_mb")]
        cells.append(_shares(row["runs"]["metadist"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _three(row: dict[str, Any], figure: str) -> str:
    variants = (row["runs"][variant] for variant in VARIANTS if variant in row["runs"])
    medians = (statistics.median(run[figure] for run in runs) for runs in variants)
    return " / ".join(f"{value:.1f}" if value < 100 else f"{value:,.0f}" for value in medians)


def _shares(runs: list[dict[str, Any]]) -> str:
    """Of each kind of work that metadist notes, and of what it does not."""
    shares = {
        kind: statistics.median(run["noted_ms"][kind] / run["mean_wall_ms"] for run in runs)
        for kind in sorted(runs[0]["noted_ms"], reverse=True)
    }
    shares["rest"] = max(0.0, 1 - sum(shares.values()))
    return ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in shares.items())


def main() -> None:
    from common import machine, put

    from metadist_cli import files

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 100000])
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--rounds", type=int, default=40, help="at least 3: the first two are not timed")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant")
    parser.add_argument("--out", type=Path, default=HERE / "rounds.json")
    parser.add_argument("--readme", type=Path, help="a Markdown file in which the table is put between its marks")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table of what is there")
    told = parser.parse_args()
    if told.rounds < 3 or told.repeats < 1 or min(told.nodes) < 1:
        parser.error("at least 3 rounds, 1 repeat and 1 node")
    if not told.table:
        date, far, here = datetime.now(UTC).strftime("%Y-%m-%d"), check(), machine() | {"threads": 1}
        with TemporaryDirectory() as folder:
            data = [write_digits(Path(folder), nodes) for nodes in told.nodes]
            rows = [
                measure(algorithm, some, told.rounds, told.repeats)
                for algorithm in told.algorithms
                for some in data
                if some["nodes"] <= DIGITS or algorithm == "fedavg"
            ]
        about = {"machine": here, "date": date, "difference": far}
        files.write(told.out, files.to_json(about | {"rows": rows}))
    text = table(json.loads(told.out.read_text()))
    if told.readme:
        put(text, told.readme, "rounds")
    print(text, end="")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        main()
