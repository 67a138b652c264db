"""Whole federated rounds: metadist, with its files and metrics, beside the same work in a few lines of plain PyTorch.

    python tests/benchmarks/rounds.py                                   10 to 100,000 nodes, three algorithms
    python tests/benchmarks/rounds.py --nodes 100 --synthetic --rounds 10 --repeats 2

A multilayer perceptron 64-128-10, batches of 32 rows, one local epoch with sgd, every node in every round, one thread.
fedavg: supervised; first, second: MAML with one inner step, of first and second order, on the halves of a batch.
--nodes have scikit-learn's digits, 18 rows each (180 where there are at most 10 nodes), drawn with replacement;
--synthetic, fedavg alone, 30 rows each of the data set `synthetic`. More than 1,000 nodes are one run of 5 rounds.
vmap: all nodes at once with torch.func, neither files nor metrics (by thousands beyond 10,000 nodes). loop: one node
after the other with autograd, on digits. pfl (pfl-research) and flwr (Flower, simulated by one worker of Ray's), where
they are installed (--peers): fedavg on digits; of 1,000 nodes, Flower has one run of at most 5 rounds.
Every run is a process of its own, and variants take turns. CPU time is that of the process; Flower's is that of its
whole tree of processes, as Linux tells it in /proc, and its "peak_mb" leaves out Ray's. Before anything is timed,
metadist and vmap must come to the same parameters from the same start; a framework's figures count only where its
parameters' norm, and how far they have moved, are vmap's. Writes rounds.json (--out) and the table into a Markdown
file (--readme); --table runs nothing. Set TMPDIR to choose the disk that metadist's files go to; a long path is too
long for Ray's sockets.
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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
ALGORITHMS = ("fedavg", "first", "second")
VARIANTS = ("metadist", "vmap", "loop")
PEERS = {"pfl": "pfl", "flwr": "Flower"}
MANY = 1000  # nodes beyond which a round takes a second
SYNTHETIC = 30  # rows a node
# What is wanted: of the reference's CPU time and memory, of a round's CPU time, of the cost of a node among 100
CPU, MEMORY, FILES, COST = 1.1, 1.3, 0.25, 1.2
LEAST = {"pfl": 7, "flwr": 100}  # times metadist's CPU time, of MANY nodes
ROOM = 4 << 30  # bytes for the largest
CLOSE, NEAR = 1e-5, 1e-4


def child(work: dict[str, Any]) -> dict[str, Any]:
    """Play one variant and say what it took; work["began"]: the time at which the process was started."""
    clock = time.perf_counter()
    modules = {"metadist": "rounds_metadist", **dict.fromkeys(PEERS, "rounds_peers")}
    variant = importlib.import_module(modules.get(work["variant"], "rounds_reference"))
    imported = time.perf_counter() - clock
    used = variant.tree_seconds if work["variant"] == "flwr" else time.process_time
    marks: list[tuple[float, float, float]] = []
    found = variant.play(work, lambda: marks.append((used(), time.perf_counter(), time.time())))
    from metadist_cli.runtime import memory  # not before: its imports are not theirs

    later = list(pairwise(marks[1:]))
    return {
        "cpu_ms": statistics.median(1e3 * (b[0] - a[0]) for a, b in later),
        "wall_ms": statistics.median(1e3 * (b[1] - a[1]) for a, b in later),
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
    return json.loads(done.stdout.splitlines()[-1])  # a framework may have written more


def write_digits(folder: Path, nodes: int) -> dict[str, Any]:
    """Where the rows are, and how many a node has; metadist keeps one node more for the new task that it needs."""
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

    from metadist_cli.storage import checkpoints

    with TemporaryDirectory() as folder:
        work = {**write_digits(Path(folder), 100), "algorithm": "fedavg", "rounds": 3, "folder": folder}
        training, _ = rounds_metadist.trained(work, lambda: None)
        start, end = (checkpoints.read_global(training.run, number, training.first).params for number in (0, 3))
        x, y = rounds_reference.rows(work | {"nodes": 101})
        named = [int(n["name"]) for n in training.setting.manifest["nodes"] if n["role"] == "train"]
    weights = {name.removeprefix("meta/"): w for name, w in start.items()}
    lr = rounds_reference.LR if lr is None else lr
    other = rounds_reference.vmap_rounds(weights, x[named], y[named], "fedavg", 3, lr, lambda: None)
    far = max(torch.dist(end[f"meta/{name}"], w, float("inf")).item() for name, w in other.items())
    if far > CLOSE:
        raise SystemExit(f"metadist and the reference do not do the same work: parameters differ by {far:.2g}")
    return far


def check_peer(work: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises SystemExit where a framework's parameters have not moved as vmap's do from the same start."""
    import rounds_reference

    for figure, wanted in rounds_reference.play({**work, "variant": "vmap"}, lambda: None).items():
        if not abs(found[figure] - wanted) <= NEAR * wanted:
            what = f"{figure} is {found[figure]:.6g}, not {wanted:.6g}"
            raise SystemExit(f"{PEERS[work['variant']]} and the reference do not do the same work: {what}")


def amount(variant: str, nodes: int, rounds: int, repeats: int) -> tuple[int, int]:
    """(rounds, repeats), which are few where a round takes seconds."""
    slow = nodes > MANY or (variant == "flwr" and nodes == MANY)
    return (min(rounds, 5), 1) if slow else (rounds, repeats)


def measure(
    algorithm: str, data: dict[str, Any], rounds: int, repeats: int, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """A row: every run of every variant, and the ratios of CPU times of neighbouring runs."""
    nodes = data["nodes"]
    variants = (*VARIANTS, *(peers if algorithm == "fedavg" else ())) if data["data"] else VARIANTS[:2]
    counts = {variant: amount(variant, nodes, rounds, repeats) for variant in variants}
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for number in range(repeats):
        for variant in (v for v in variants if number < counts[v][1]):
            work = {**data, "algorithm": algorithm, "rounds": counts[variant][0], "variant": variant}
            found = play(work)
            if variant in PEERS:
                check_peer(work, found)
            runs[variant].append(found)
            print(f"{algorithm}, {nodes} nodes, {variant}: {found['cpu_ms']:.2f} ms", file=sys.stderr)
    rounds, repeats = counts["metadist"]
    return {
        "algorithm": algorithm,
        "nodes": nodes,
        "rows": data["rows"],
        "data": "digits" if data["data"] else "synthetic",
        "rounds": rounds,
        "repeats": repeats,
        "runs": runs,
        "ratio": compare(runs["metadist"], runs["vmap"]),
        "peers": {variant: compare(runs[variant], runs["metadist"]) for variant in variants if variant in PEERS},
    }


def compare(ones: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, float]:
    """How many times the CPU time of the others the ones take; of the first runs where one has fewer."""
    each = [one["cpu_ms"] / other["cpu_ms"] for one, other in zip(ones, others, strict=False)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def table(found: dict[str, Any]) -> str:
    """Markdown, a line a row; metadist, vmap and loop are told in this order."""
    here = found["machine"]
    where = f"{here['cpu']}, {here['threads']} thread, torch {here['torch']}, Python {here['python']}"
    when = f"{found['date']}, metadist at {here['commit']}"
    runs = "medians of runs, the first two rounds left out"
    heads = ["algorithm", "nodes", "runs x rounds", "CPU ms a round: metadist / vmap / loop", "metadist / vmap"]
    heads += [*(f"{title} / metadist" for title in PEERS.values()), "wanted"]
    heads += ["wall ms", "s to the end of round 1", "peak MB", "of metadist's CPU time"]
    lines = [f"{where}; {when}; {runs}.", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found["rows"]:
        cells = [
            row["algorithm"],
            f"{row['nodes']:,} ({row['data']})",
            f"{row['repeats']} x {row['rounds']}",
            f"**{_three(row, 'cpu_ms')}**",
            _ratio(row["ratio"]),
        ]
        cells += [_ratio(row["peers"][variant]) if variant in row["peers"] else "-" for variant in PEERS]
        cells.append(", ".join(f"{what}: {'met' if met else 'not met'}" for what, met in _wanted(row, found["rows"])))
        cells += [_three(row, figure) for figure in ("wall_ms", "first_round_s", "peak_mb")]
        cells.append(_shares(row["runs"]["metadist"]))
        lines.append(f"| {' | '.join(cells)} |")
    if found["missing"]:
        lines += ["", f"Not installed: {', '.join(PEERS[variant] for variant in found['missing'])}."]
    return "\n".join(lines) + "\n"


def _wanted(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """What is wanted of a row, and whether it is met."""
    ours, vmap = (row["runs"][variant] for variant in VARIANTS[:2])
    yield f"CPU {CPU} x", row["ratio"]["median"] <= CPU
    yield f"memory {MEMORY} x", _median(ours, "peak_mb") <= MEMORY * _median(vmap, "peak_mb")
    if row["nodes"] in (100, MANY):
        yield f"files {FILES:.0%}", statistics.median(_parts(run)["files"] for run in ours) <= FILES
    for variant, ratio in row["peers"].items():
        if row["nodes"] == MANY:
            yield f"{PEERS[variant]} {LEAST[variant]} x", ratio["median"] >= LEAST[variant]
    small = [r for r in rows if (r["algorithm"], r["nodes"], r["data"]) == (row["algorithm"], 100, row["data"])]
    if row["nodes"] == 100_000 and small:
        cost = _median(ours, "cpu_ms") / row["nodes"] / (_median(small[0]["runs"]["metadist"], "cpu_ms") / 100)
        yield f"a node's cost {COST} x that of 100 ({cost:.2f})", cost <= COST
        yield "4 GiB", _median(ours, "peak_mb") * 1e6 <= ROOM


def _median(runs: Sequence[dict[str, Any]], figure: str) -> float:
    return statistics.median(run[figure] for run in runs)


def _three(row: dict[str, Any], figure: str) -> str:
    medians = [_median(row["runs"][variant], figure) for variant in VARIANTS if variant in row["runs"]]
    return " / ".join(f"{value:.1f}" if value < 100 else f"{value:,.0f}" for value in medians)


def _ratio(ratio: dict[str, float]) -> str:
    median, low, high = (f"{ratio[key]:.{0 if ratio[key] >= 10 else 2}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def _parts(run: dict[str, Any]) -> dict[str, float]:
    """Shares of each kind of work that metadist notes."""
    return {kind: run["noted_ms"][kind] / run["cpu_ms"] for kind in sorted(run["noted_ms"], reverse=True)}


def _shares(runs: list[dict[str, Any]]) -> str:
    """Of each kind of work that metadist notes, and of what it does not."""
    each = [_parts(run) for run in runs]
    shares = {kind: statistics.median(parts[kind] for parts in each) for kind in each[0]}
    shares["rest"] = max(0.0, 1 - sum(shares.values()))
    return ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in shares.items())


def main() -> None:
    from common import machine, put
    from rounds_peers import missing

    from metadist_cli.core import files

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[10, 100, 1000], help="federations with digits")
    parser.add_argument("--synthetic", type=int, nargs="*", default=[100, 1000, 10_000, 100_000], help="with synthetic")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--rounds", type=int, default=40, help="at least 3: the first two are not timed")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[*PEERS], help="frameworks, where installed")
    parser.add_argument("--out", type=Path, default=HERE / "rounds.json")
    parser.add_argument("--readme", type=Path, help="a Markdown file in which the table is put between its marks")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table of what is there")
    told = parser.parse_args()
    if told.rounds < 3 or told.repeats < 1 or min([*told.nodes, *told.synthetic], default=0) < 1:
        parser.error("at least 3 rounds, 1 repeat and 1 node")
    if not told.table:
        date, far, here = datetime.now(UTC).strftime("%Y-%m-%d"), check(), machine() | {"threads": 1}
        absent = [variant for variant in told.peers if missing(variant)]
        peers = [variant for variant in told.peers if variant not in absent]
        with TemporaryDirectory() as folder:
            digits = [write_digits(Path(folder), nodes) for nodes in told.nodes]
            drawn = [{"nodes": nodes, "rows": SYNTHETIC, "data": None} for nodes in told.synthetic]
            rows = [
                measure(algorithm, data, told.rounds, told.repeats, peers)
                for algorithm in told.algorithms
                for data in [*digits, *(drawn if algorithm == "fedavg" else ())]
            ]
        about = {"machine": here, "date": date, "difference": far, "missing": absent}
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
