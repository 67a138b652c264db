"""metrics.jsonl: one line a closed round."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from metadist_cli import checkpoints, files
from metadist_cli.aggregators import Updates
from metadist_cli.store import Run
from metadist_cli.tree import Params


def mean_metrics(updates: list[Updates], known: tuple[str, ...]) -> dict[str, float]:
    """Means over nodes, weighted by rows, of the known figures that all of them give; names are a stranger's words."""
    weights = np.concatenate([np.array(u.weights, dtype=np.float64) for u in updates])
    means = {}
    with np.errstate(over="ignore"):
        for name in sorted(known):
            if all(name in u.metrics for u in updates):
                values = np.concatenate([u.metrics[name] for u in updates])
                means[name] = float((weights * values).sum() / weights.sum())
    return {k: v for k, v in means.items() if np.isfinite(v)}


def note(run: Run, line: dict[str, Any]) -> None:
    """Append the line of a round."""
    with (run.path / "metrics.jsonl").open("a") as log:
        log.write(_line(line))


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"


def round_metrics(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one a closed round, in order; what a kill cut short is left out."""
    path = run.path / "metrics.jsonl"
    lines: dict[int, dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            lines[int(line["round"])] = line
        except (ValueError, TypeError, KeyError):
            continue
    return [lines[r] for r in sorted(lines)]


def mend(run: Run, template: Params) -> None:
    """Lines that a kill cut short, or left out after a round's commit, from the checkpoints' own headers."""
    path = run.path / "metrics.jsonl"
    lines = {line["round"]: line for line in round_metrics(run)}
    for number in range(1, run.last_closed() + 1):
        if number not in lines and run.checkpoint(number).exists():
            header = checkpoints.read_global(run, number, template)[1]
            lines[number] = {"round": number, "nodes": header["nodes"], **header["metrics"]}
    text = "".join(_line(lines[number]) for number in sorted(lines))
    if text and (not path.exists() or path.read_text() != text):
        files.write(path, text)
