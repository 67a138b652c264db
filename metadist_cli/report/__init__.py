"""The report of an evaluation: one self-contained HTML page and its pictures.

The bytes depend only on the results (no dates, no durations), so equal results give equal files.
"""

from __future__ import annotations

import numpy as np

from metadist_cli.report import page
from metadist_cli.report.comparison import narrow, node_tables, tables
from metadist_cli.report.findings import headline, number
from metadist_cli.report.heatmap import partition_png
from metadist_cli.report.how_to_read import notes
from metadist_cli.report.pictures import PICTURES
from metadist_cli.report.selection import choice
from metadist_cli.report.types import ExampleTask, Results

__all__ = ["ExampleTask", "Results", "choice", "headline", "narrow", "partition_png", "render"]

SECTIONS = (
    *("Methods", "New nodes", "Adaptation to new tasks", "Training", "One task", "Settings"),
    "How to read this",
)
_ROWS = 12  # of the table of predictions


def render(title: str, results: Results) -> dict[str, bytes]:
    """Render the report.

    Args:
        title: of the page; like all names in the results it may hold any text, and is escaped.
        results: the evaluation's metrics, the training rounds, the partition manifest and a task to show.

    Returns:
        File contents by name: report.html, and a .png for each entry of PICTURES that has something to show.
    """
    metrics, example = results.metrics, results.example
    drawn = {name: draw(results) for name, (_, draw) in PICTURES.items()}
    text = {
        "Methods": "\n".join(map(page.result_table, tables(metrics))),
        "New nodes": "\n".join(map(page.result_table, node_tables(metrics))),
        "One task": _predictions(example) if example and example.kind == "vector" else "",
        "Settings": _settings(results),
        "How to read this": page.notes(notes(metrics)),
    }
    sections = []
    for heading in SECTIONS:
        pictures = [picture for name, picture in drawn.items() if picture and PICTURES[name][0] == heading]
        content = [text.get(heading, ""), page.pictures(pictures) if pictures else ""]
        if any(content):
            sections.append((heading, "\n".join(filter(None, content))))
    html = page.page(title, headline(metrics), sections)
    return {"report.html": html, **{f"{name}.png": picture.png for name, picture in drawn.items() if picture}}


def _predictions(task: ExampleTask) -> str:
    """Queries without a picture, as a table of truth and predictions."""
    named = np.issubdtype(np.asarray(task.query_y).dtype, np.integer)

    def cell(column: np.ndarray, i: int) -> str:
        value = column.reshape(len(column), -1)[i, 0]
        return page.escape(task.classes[value]) if named else number(float(value))

    columns = [("Truth", task.query_y), ("Before adaptation", task.before), ("After adaptation", task.after)]
    kept = [(head, column) for head, column in columns if column is not None]
    rows = [[str(i + 1), *(cell(column, i) for _, column in kept)] for i in range(min(_ROWS, len(task.query_y)))]
    caption = f"The first {len(rows)} queries of one task. {task.score() if named else ''}"
    return page.table(caption, ["Query", *(head for head, _ in kept)], rows)


def _efforts(results: Results) -> str:
    """Rounds of the main model and its nodes, and the rounds of baselines where they differ."""
    metrics = results.metrics
    others = [(name, b["round"]) for name, b in metrics["baselines"].items() if b["round"] != metrics["round"]]
    nodes = sum(node["role"] == "train" for node in results.shards["nodes"])
    text = f"{metrics['round']:,} rounds, {nodes:,} nodes"
    return text + "".join(f"; {name} {count:,} rounds" for name, count in others)


def _settings(results: Results) -> str:
    e, metrics = page.escape, results.metrics
    return page.settings(
        [
            ("Run", e(metrics["name"])),
            ("Learner", e(metrics["learner"])),
            ("Model", e(metrics["model"])),
            ("Task", e(metrics["task_text"])),
            ("Adaptation steps", f"{metrics['steps']:,}"),
            ("Transductive", "yes" if metrics["transductive"] else "no"),
            ("Training", e(_efforts(results))),
            *[("Round", e(text)) for text in [choice(metrics, "main")] if text],
            ("Seed", e(metrics["seed"])),
            ("Device", e(metrics["device"])),
            ("Global model", f"<code>sha256 {e(metrics['global'])}</code>"),
        ]
    )
