"""The report of an evaluation: one self-contained HTML page and its pictures.

The bytes depend on the figures alone (no date, no duration), so that equal results give equal files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metadist_cli.report import page
from metadist_cli.report.charts import PERCENT, POINTS, Panel, Series, curves_png, nodes_png, values
from metadist_cli.report.comparison import narrow, node_tables, tables
from metadist_cli.report.findings import RANDOM, Method, amount, headline, methods, number
from metadist_cli.report.heatmap import partition_png, partition_text
from metadist_cli.report.how_to_read import notes
from metadist_cli.report.task_picture import ExampleTask, class_labels, task_png

__all__ = ["ExampleTask", "headline", "narrow", "partition_png", "render"]

_MEASURED = (("loss", "training loss", 1.0), ("accuracy", PERCENT, 100.0), ("mse", "mean squared error", 1.0))
_Shown = tuple[bytes | None, str, str]  # picture, alternative text, caption
_ROWS = 12  # of the table of predictions


def render(
    title: str, metrics: dict, rounds: list[dict], shards: dict, examples: ExampleTask | None
) -> dict[str, bytes]:
    """The files of a report, name to bytes: report.html and its pictures; one that would be empty is left out.

    metrics: as in metrics.json; rounds: lines of metrics.jsonl, may be empty; shards: the manifest of the shards.
    Pictures: adaptation.png, nodes.png (two new nodes or more), rounds.png, partition.png, task.png.
    """
    found, metric = methods(metrics), metrics["metric"]
    unit, scale = (PERCENT, 100.0) if metric == "accuracy" else ("mean squared error", 1.0)
    nodes = [n for n in metrics["per_node"] if n["after"] is not None]
    files = {
        "adaptation.png": curves_png([Panel(unit, _per_step(found, metrics["steps"], scale))], "adaptation steps"),
        "nodes.png": nodes_png(nodes, unit, scale) if len(nodes) > 1 else None,
        "rounds.png": _rounds_png(rounds, found),
        "partition.png": partition_png(shards),
        "task.png": task_png(examples) if examples else None,
    }
    sections = [
        ("Methods", "\n".join(map(page.figures, tables(metrics)))),
        ("New nodes", "\n".join(map(page.figures, node_tables(metrics)))),
        ("Adaptation to new tasks", page.pictures([_adaptation(files, found, metric), _spread(files, nodes, metrics)])),
        ("Training", page.pictures([_training(files, rounds), _partition(files, shards)])),
        ("One task", _task(files, examples) if examples else ""),
        ("Settings", _settings(metrics, shards)),
        ("How to read this", page.notes(notes(metrics))),
    ]
    html = page.page(title, headline(metrics), [(head, text) for head, text in sections if text])
    return {"report.html": html, **{name: png for name, png in files.items() if png}}


def _per_step(found: Sequence[Method], steps: int | None, scale: float) -> list[Series]:
    series = []
    for m in found:
        points = m.per_step or [{"step": steps or 0, **m.after}]
        x, y, ci = (values([p[key] for p in points]) for key in ("step", "mean", "ci95"))
        series.append(Series(m.label, x, scale * y, scale * ci, -1 if m.label == RANDOM else len(series)))
    return series


def _rounds_png(rounds: Sequence[dict], found: Sequence[Method]) -> bytes | None:
    runs = {m.label if i else "main": m.label for i, m in enumerate(found) if m.label != RANDOM}
    ordered = sorted(rounds, key=lambda r: r["round"])
    panels = []
    for key, unit, scale in _MEASURED:
        series = []
        for look, (run, label) in enumerate(runs.items()):
            lines = [r for r in ordered if r["run"] == run and r.get(key) is not None]
            if lines:
                x, y = (values([r[k] for r in lines]) for k in ("round", key))
                series.append(Series(label, x, scale * y, np.zeros(len(y)), look))
        if series:
            panels.append(Panel(unit, series))
    return curves_png(panels, "round of training") if panels else None


def _adaptation(files: dict, found: Sequence[Method], metric: str) -> _Shown:
    ends = "; ".join(f"{m.label} {amount(m.after, metric)}" for m in found)
    return (
        files["adaptation.png"],
        f"Curves of the figure on new tasks against adaptation steps. At the end: {ends}.",
        "Mean over the tasks against adaptation steps, bands: 95% intervals. A dotted line carries on a shorter curve.",
    )


def _spread(files: dict, nodes: Sequence[dict], metrics: dict) -> _Shown:
    percent = metrics["metric"] == "accuracy"
    text = f"{len(nodes):,} nodes before and after adapting."
    if spread := metrics.get("node_spread"):
        figures = (spread[key] for key in ("mean", "sd", "min", "max"))
        mean, sd, low, high = (number(100 * f, 1) + "%" if percent else number(f) for f in figures)
        text += f" After adapting: mean {mean}, standard deviation {sd} over nodes, from {low} to {high}."
    return files["nodes.png"], f"Spread over nodes. {text}", text


def _training(files: dict, rounds: Sequence[dict]) -> _Shown:
    last = max((r["round"] for r in rounds), default=0)
    text = "What the nodes measured in training, mean over the nodes of a round."
    if last > POINTS:
        text += " Long curves are drawn as means of equal pieces."
    return files["rounds.png"], f"Curves of the training against rounds 1 to {last:,}.", text


def _partition(files: dict, shards: dict) -> _Shown:
    text = partition_text(shards)
    return files["partition.png"], f"Heat map of nodes by classes, rows and distance of each node. {text}", text


def _task(files: dict, task: ExampleTask) -> str:
    if task.kind == "vector":
        return _predictions(task)
    if task.kind == "curve":
        guesses = {"before": task.before, "after": task.after}
        said = ", ".join(f"{when} adapting {number(_mse(task, g))}" for when, g in guesses.items() if g is not None)
        text = f"{len(task.support_x)} support points, {len(task.query_x)} queries. Mean squared error {said}."
        return page.pictures([(files["task.png"], f"The true function and the predictions. {text}", text)])
    text = f"One task of {len(task.support_x)} support images. {_right(task)}"
    labels, names = class_labels(task), task.classes
    if list(labels) != list(names):
        used = np.unique(np.concatenate([task.support_y, task.query_y]))[:10]
        text += " " + ", ".join(f"{labels[i]}: {names[i]}" for i in used) + "."
    text += " Shown are the first of each class; ✗ and a frame mark a wrong prediction and say what was predicted."
    return page.pictures([(files["task.png"], f"Images of the task with predictions. {_right(task)}", text)])


def _mse(task: ExampleTask, guess: np.ndarray) -> float:
    return float(np.mean((guess.reshape(-1) - task.query_y.reshape(-1)) ** 2))


def _right(task: ExampleTask) -> str:
    before = "" if task.before is None else f"; before adapting {(task.before == task.query_y).sum():,}"
    return f"Of {len(task.query_y):,} queries {(task.after == task.query_y).sum():,} are right after adapting{before}."


def _predictions(task: ExampleTask) -> str:
    """Queries without a picture: truth and predictions as a table."""
    named = np.issubdtype(np.asarray(task.query_y).dtype, np.integer)

    def cell(column: np.ndarray, i: int) -> str:
        value = column.reshape(len(column), -1)[i, 0]
        return page.escape(task.classes[value]) if named else number(float(value))

    columns = [("Truth", task.query_y), ("Before adapting", task.before), ("After adapting", task.after)]
    kept = [(head, column) for head, column in columns if column is not None]
    rows = [[str(i + 1), *(cell(column, i) for _, column in kept)] for i in range(min(_ROWS, len(task.query_y)))]
    caption = f"The first {len(rows)} queries of one task. {_right(task) if named else ''}"
    return page.table(caption, ["Query", *(head for head, _ in kept)], rows)


def _training_nodes(shards: dict) -> int:
    return sum(node["role"] == "train" for node in shards["nodes"])


def _efforts(metrics: dict, shards: dict) -> str:
    """How long the main model was trained, and each baseline that was not trained for as many rounds."""
    unlike = [(k, b["round"]) for k, b in metrics["baselines"].items() if b["round"] != metrics["round"]]
    others = "".join(f"; {name} {count:,} rounds" for name, count in unlike)
    return f"{metrics['round']:,} rounds, {_training_nodes(shards):,} nodes{others}"


def _settings(metrics: dict, shards: dict) -> str:
    e = page.escape
    return page.settings(
        [
            ("Run", e(metrics["name"])),
            ("Learner", e(metrics["learner"])),
            ("Model", e(metrics["model"])),
            ("Task", e(metrics["task_text"])),
            ("Adaptation steps", f"{metrics['steps']:,}"),
            ("Transductive", "yes" if metrics["transductive"] else "no"),
            ("Training", e(_efforts(metrics, shards))),
            ("Seed", e(metrics["seed"])),
            ("Device", e(metrics["device"])),
            ("Global model", f"<code>sha256 {e(metrics['global'])}</code>"),
        ]
    )
