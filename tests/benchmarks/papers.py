"""The papers' figures beside ours: every row of configs/papers/ over its seeds, and the table of what came out.

    python tests/benchmarks/papers.py                              all rows, in turn
    python tests/benchmarks/papers.py papers/heart-fedavg --seeds 2     a row, with its first two seeds
    python tests/benchmarks/papers.py --jobs 3 --set execution.threads=1

Runs go to runs/papers/ (--runs-dir) and are kept: what is done is not done again, a killed table goes on. Writes
papers.json beside this file (--out) and the table into a Markdown file (--readme), with every row of which a seed is
there; a row without runs stays as papers.json has it. --table trains nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from common import arguments, machine, metadist, put

from metadist_cli.config import load
from metadist_cli.core import files
from metadist_cli.experiment import assemble, initial_state
from metadist_cli.federated.rounds import sample_nodes
from metadist_cli.storage import node_files, run_directory, shard_files

Metrics = dict[str, Any]


class Figure(NamedTuple):
    """One number of a row. pick: from metrics.json; finetune: settings of another evaluation of the same model.

    reference: as the paper prints it, or, "here: ...", as it was measured for this project before; bar: what we want.
    """

    label: str
    reference: str
    bar: str
    pick: Callable[[Metrics], dict[str, Any]]
    finetune: tuple[str, ...] = ()


class Row(NamedTuple):
    """A config, its seeds, and its figures. each: settings of several runs that a figure is the mean of."""

    config: str
    seeds: int
    figures: list[Figure]
    each: tuple[tuple[str, ...], ...] = ((),)


def after(metrics: Metrics) -> dict[str, Any]:
    return metrics["after"]


def before(metrics: Metrics) -> dict[str, Any]:
    return metrics["before"]


def untrained(metrics: Metrics) -> dict[str, Any]:
    return metrics["untrained"]


def step(number: int) -> Callable[[Metrics], dict[str, Any]]:
    return lambda metrics: metrics["per_step"][number]


def over_rows(of: Callable[[Metrics], dict[str, Any]]) -> Callable[[Metrics], dict[str, Any]]:
    """The mean over all query rows, where nodes have different numbers of them."""
    return lambda metrics: {"mean": of(metrics)["over_rows"], "ci95_tasks": None}


def node(name: str) -> Callable[[Metrics], dict[str, Any]]:
    """A node's own score before adaptation."""

    def figure(metrics: dict) -> dict:
        return {"mean": next(n["before"] for n in metrics["per_node"] if n["name"] == name), "ci95_tasks": None}

    return figure


def baseline(name: str, number: int) -> Callable[[Metrics], dict[str, Any]]:
    return lambda metrics: metrics["baselines"][name]["per_step"][number]


CONFIGS = "../../configs"  # from the folder of the topic that has the table
FIVE = ("finetune.name=5-shot", "finetune.task.shot=5")
ALONE = ("finetune.name=one-by-one", "finetune.transductive=false", "finetune.task.query=15")
MANY = ("finetune.name=15-queries", "finetune.task.query=15")
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
PUBLISHED = (".731", ".719", ".650", ".640")

ROWS = [
    Row(
        "papers/sinusoid-central",
        3,
        [
            Figure("10-shot, 1 step, MSE", "-", "<= 0.45", step(1)),
            Figure("5-shot, 1 step, MSE", "0.67", "<= 0.75", step(1), FIVE),
        ],
    ),
    Row(
        "papers/sinusoid-10-nodes",
        3,
        [
            Figure("10-shot, 1 step, MSE", "-", "<= 1.1 x central", step(1)),
            Figure("5-shot, 1 step, MSE", "0.67", "<= 1.1 x central", step(1), FIVE),
        ],
    ),
    Row(
        "papers/sinusoid-100-rounds",
        3,
        [
            Figure("10-shot, 1 step, MSE", "-", "<= 0.65", step(1)),
            Figure("FedMeta, 10,000 rounds", "-", "", baseline("fedmeta", 1)),
        ],
    ),
    Row(
        "papers/sinusoid-phases",
        3,
        [
            Figure("10-shot, 1 step, MSE", "-", "<= 0.75", step(1)),
            Figure("FedMeta, 10,000 rounds", "-", "", baseline("fedmeta", 1)),
        ],
    ),
    Row("papers/omniglot-mlp-1shot", 3, [Figure("5-way 1-shot", "89.7 ± 1.1", ">= 88.5", after)]),
    Row("papers/omniglot-mlp-5shot", 3, [Figure("5-way 5-shot", "97.5 ± 0.6", ">= 97.0", after)]),
    Row(
        "omniglot-maml",
        3,
        [
            Figure("5-way 1-shot, transductive", "98.7 ± 0.4", "", after),
            Figure("the same, 15 queries a class", "-", "", after, MANY),
            Figure("each query alone, 15 a class", "-", "", after, ALONE),
        ],
    ),
    Row(
        "omniglot-reptile",
        3,
        [
            Figure("5-way 1-shot, transductive", "97.68 ± 0.04", "", after),
            Figure("each query alone", "95.39 ± 0.09", "", after, ALONE[:2]),
        ],
    ),
    Row(
        "papers/omniglot-maml-20way",
        3,
        [
            Figure("20-way 1-shot, transductive", "95.8 ± 0.3", ">= 95.0", after),
        ],
    ),
    Row("papers/omniglot-prototypical", 3, [Figure("20-way 1-shot", "96.0", ">= 95.7", after)]),
    Row("papers/omniglot-ridge", 3, [Figure("20-way 1-shot", "96.24", ">= 96.0", after)]),
    Row("papers/omniglot-svm", 3, [Figure("20-way 1-shot", "-", "-", after)]),
    Row(
        "papers/heart-fedavg",
        5,
        [
            *(
                Figure(name, told, f"{told} ± .015", node(f"{name} (test)"))
                for name, told in zip(HOSPITALS, PUBLISHED, strict=True)
            ),
            Figure("weighted by patients", ".706", "", over_rows(before)),
        ],
    ),
    Row(
        "papers/heart-two-rounds",
        40,
        [
            Figure("shared model, weighted", "here: .728 (FLamby's settings)", ">= .728", over_rows(before)),
            Figure("personalized, weighted", "here: .807 (logistic, alone)", ">= .807", over_rows(after)),
            Figure("alone, the same steps, weighted", "-", "", over_rows(untrained)),
        ],
    ),
    Row(
        "papers/heart-new-hospital",
        3,
        [
            Figure("zero-shot", "here: .770", "", before),
            *(
                Figure(
                    f"{k} patients",
                    told,
                    f">= {bar}",
                    after,
                    (f"finetune.name=k{k}", f"finetune.task.support={k}"),
                )
                for k, told, bar in (
                    (5, "here: .800 (ridge to global)", ".80"),
                    (10, "here: .803", ".805"),
                    (20, "here: .808", ".81"),
                )
            ),
            *(
                Figure(
                    f"{k} patients, no source",
                    told,
                    "",
                    untrained,
                    (f"finetune.name=k{k}", f"finetune.task.support={k}"),
                )
                for k, told in ((5, "here: .761"), (10, "here: .780"), (20, "here: .792"))
            ),
        ],
        tuple((f"task.new.test=[{name}]",) for name in HOSPITALS),
    ),
]


def run_name(row: Row, seed: int, which: int) -> str:
    return f"{row.config.rpartition('/')[2]}-s{seed}" + (f"-{which}" if len(row.each) > 1 else "")


def work(row: Row, seed: int, runs: Path, settings: Sequence[str]) -> None:
    """Train and judge a row with one seed."""
    config = f"configs/{row.config}.yaml"
    for which in range(len(row.each)):
        name, told = run_name(row, seed, which), [f"seed={seed}", *row.each[which], *settings]
        metadist("run", config, told, name, runs)
        for extra in dict.fromkeys(figure.finetune for figure in row.figures if figure.finetune):
            metadist("finetune", config, [*told, *extra], name, runs)


def metrics_of(run: Path, figure: Figure) -> Metrics | None:
    name = next((s.partition("=")[2] for s in figure.finetune if s.startswith("finetune.name=")), "new")
    path = run / "finetune" / name / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def costs(run: Path) -> dict[str, Any]:
    """Rounds, bytes of one node over all rounds (down and up), seconds of training and where it ran."""
    place = run_directory.Run.at(run)
    config, manifest = load(run), json.loads((run / "manifest.json").read_text())
    experiment = assemble(config, shard_files.spec_in(run_directory.shard_manifest(place)))
    rounds = place.last_closed()
    payload = experiment.server.payload(initial_state(experiment)[0])
    nodes = [n["node"] for n in run_directory.shard_manifest(place)["nodes"] if n["role"] == "train"]
    part = len(sample_nodes(0, 1, nodes, config.train.nodes_per_round)) / len(nodes)
    down = place.checkpoint(rounds).stat().st_size
    up = node_files.node_bytes(payload, experiment.loss.metric)
    return {
        "rounds": rounds,
        "nodes": len(nodes),
        "tensor_bytes": round(2 * part * rounds * sum(v.numel() * v.element_size() for v in payload.values())),
        "serialised_bytes": round(part * rounds * (down + up)),
        "seconds": sum(
            sum(json.loads(line)["seconds"].values()) for line in (run / "metrics.jsonl").read_text().splitlines()
        ),
        "device": manifest["execution"]["device"],
        "torch": manifest["versions"]["torch"],
        "commit": manifest["versions"]["commit"],
    }


def collect(row: Row, runs: Path) -> dict[str, Any] | None:
    """What the finished seeds of a row gave; None where there is none."""
    figures: list[dict[str, Any]] = []
    places = {s: [runs / run_name(row, s, w) for w in range(len(row.each))] for s in range(row.seeds)}
    done = [s for s in places if all(metrics_of(p, f) for p in places[s] for f in row.figures)]
    if not done:
        return None
    for figure in row.figures:
        each = [[figure.pick(metrics_of(p, figure) or {}) for p in places[s]] for s in done]
        values = [statistics.fmean(f["mean"] for f in seed) for seed in each]
        intervals = [f["ci95_tasks"] for seed in each for f in seed if f["ci95_tasks"] is not None]
        told = {
            "label": figure.label,
            "reference": figure.reference,
            "bar": figure.bar,
            "values": values,
            "mean": statistics.fmean(values),
            "sd_over_seeds": statistics.stdev(values) if len(values) > 1 else None,
            "ci95_over_tasks": statistics.fmean(intervals) if intervals and len(row.each) == 1 else None,
            "non_finite": sum(f.get("non_finite", 0) for seed in each for f in seed),
        }
        figures.append(told)
    all_costs = [costs(p) for s in done for p in places[s]]
    seconds = [c["seconds"] for c in all_costs]
    metric = (metrics_of(places[done[0]][0], row.figures[0]) or {})["metric"]
    return {
        "config": row.config,
        "metric": metric,
        "seeds": done,
        **all_costs[0],
        "seconds": statistics.median(seconds),
        "figures": figures,
    }


def _shown(value: float | None, row: dict[str, Any]) -> str:
    if value is None:
        return "-"
    if row["metric"] != "accuracy":
        return f"{value:.3f}"
    tables = row["config"].startswith("papers/heart")  # accuracies are printed as fractions in that field
    return f"{value:.3f}".lstrip("0") if tables else f"{100 * value:.1f}"


def _size(count: float) -> str:
    return f"{count:,} B" if count < 1e4 else f"{count / 1e3:,.0f} kB" if count < 1e7 else f"{count / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _cost(row: dict[str, Any]) -> str:
    rounds, nodes = row["rounds"], row["nodes"]
    size = f"{rounds} round{'s' * (rounds != 1)} of {nodes} node{'s' * (nodes != 1)}"
    work = f"{size}, {_time(row['seconds'])}, {row['device']}"
    if nodes == 1:
        return work
    return f"{work}; a node's tensors {_size(row['tensor_bytes'])}, files {_size(row['serialised_bytes'])}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each row of papers what a seed's training took, and a table with a line for each figure."""
    blocks = []
    for row in rows:
        lines = ["| figure | reference | wanted | here, sd over seeds | 95% over tasks |", "|---|---|---|---|---|"]
        for f in row["figures"]:
            here, sd, ci = (_shown(f[k], row) for k in ("mean", "sd_over_seeds", "ci95_over_tasks"))
            seeds = len(row["seeds"])
            spread = f" ± {sd} ({seeds} seeds)" if seeds > 1 else " (1 seed)"
            lost = f", {f['non_finite']} tasks not finite" if f["non_finite"] else ""
            cells = [f["label"], f["reference"], f["bar"] or "-", f"**{here}**{spread}{lost}", ci]
            lines.append(f"| {' | '.join(cells)} |")
        name = f"[{row['config']}]({CONFIGS}/{row['config']}.yaml)"
        blocks.append("\n".join([f"{name}: {_cost(row)}.", "", *lines]) + "\n")
    return "\n".join(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *(row.config for row in ROWS)], help="configs; default: all")
    parser.add_argument("--seeds", type=int, help="use only the first N seeds of each row")
    arguments(parser, "papers")
    told = parser.parse_args()
    runs = told.runs_dir.resolve()
    if not told.table:
        chosen = [row for row in ROWS if not told.rows or row.config in told.rows]
        with ThreadPoolExecutor(told.jobs) as pool:
            seeds = [(row, seed) for row in chosen for seed in range(min(row.seeds, told.seeds or row.seeds))]
            for _ in pool.map(lambda pair: work(pair[0], pair[1], runs, told.set), seeds):
                pass
    path, where = told.out / "papers.json", machine()
    before = {row["config"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    here = {row.config: {**made, "machine": where} for row in ROWS if (made := collect(row, runs))}
    found = [{**before, **here}[row.config] for row in ROWS if row.config in {*before, *here}]
    files.write(path, files.to_json({"rows": found}))
    if told.readme:
        put(table(found), told.readme, "papers")
    print(table(found), end="")


if __name__ == "__main__":
    main()
