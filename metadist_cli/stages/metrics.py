"""metrics.jsonl: one line a closed round."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
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
    _append(run.path / "metrics.jsonl", line)


def note_job(run: Run, number: int, line: dict[str, Any]) -> None:
    """Append what a job did for an open round: "seconds", and whatever else it tells."""
    _append(run.round(number) / "jobs.jsonl", line)


def job_seconds(run: Run, number: int) -> float:
    """What all jobs of a round took together."""
    told = [line.get("seconds") for line in _lines(run.round(number) / "jobs.jsonl")]
    return sum(seconds for seconds in told if isinstance(seconds, float) and 0 <= seconds < math.inf)


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as log:
        log.write(_line(line))


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, one a line; what a kill cut short is left out."""
    for text in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line


def round_metrics(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one a closed round, in order."""
    lines = {line["round"]: line for line in _lines(run.path / "metrics.jsonl") if type(line.get("round")) is int}
    return [lines[r] for r in sorted(lines)]


def sizes(run: Run, number: int, up: int) -> dict[str, int]:
    """Bytes of the files that a node is sent for a round, and sends (up)."""
    return {"down": run.checkpoint(number - 1).stat().st_size, "up": up}


def mend(run: Run, template: Params, up: int) -> None:
    """Lines that a kill cut short, or left out after a round's commit, from the checkpoints' own headers.

    They lack the seconds, which nobody knows any more. up: as for `sizes`.
    """
    path = run.path / "metrics.jsonl"
    lines = {line["round"]: line for line in round_metrics(run)}
    for number in range(1, run.last_closed() + 1):
        if number not in lines and run.checkpoint(number).exists():
            header = checkpoints.read_global(run, number, template)[1]
            lines[number] = {"round": number, "nodes": header["nodes"], **header["metrics"]}
            lines[number]["bytes"] = sizes(run, number, up)
    text = "".join(_line(lines[number]) for number in sorted(lines))
    if text and (not path.exists() or path.read_text() != text):
        files.write(path, text)
