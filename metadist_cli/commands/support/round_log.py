"""metrics.jsonl: one line for each closed round."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import Problem
from metadist_cli.core.tree import Params
from metadist_cli.federated.updates import Updates, joined
from metadist_cli.storage import checkpoints
from metadist_cli.storage.csv_tables import as_csv, joined_csv
from metadist_cli.storage.run_directory import Run

_JOB_MAX = 1 << 20  # bytes
_LONGEST = 1e9  # seconds, of a job


def mean_metrics(updates: list[Updates], known: tuple[str, ...]) -> dict[str, float]:
    """Means over nodes, weighted by rows, of the known metrics that all nodes give; node files are untrusted."""
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


def note_job(run: Run, number: int, job: dict[str, Any]) -> None:
    """Write what a job did for an open round: "files", "seconds" and more. A failure to write it is ignored."""
    name = job["files"][0].replace("nodes-", "job-").replace(".safetensors", ".json")
    with contextlib.suppress(Problem):
        files.write(run.round(number) / name, files.to_json(job))


def job_files(run: Run, number: int) -> list[Path]:
    return sorted(run.round(number).glob("job-*.json"))


def job_seconds(run: Run, number: int, used: Collection[str]) -> float | None:
    """Seconds that the jobs which wrote these files report, in all; None if none of them reported."""
    known: list[float] = []
    for path in job_files(run, number):
        with contextlib.suppress(Problem):
            job = files.from_json(files.read(path, _JOB_MAX, "notes of a job"), str(path))
            written, seconds = (job.get(key) if isinstance(job, dict) else None for key in ("files", "seconds"))
            if isinstance(written, list) and isinstance(seconds, float) and 0 <= seconds < _LONGEST:
                known += [seconds] if any(name in used for name in written if isinstance(name, str)) else []
    return sum(known) if known else None


def write_node_metrics(run: Run, number: int, reports: list[Updates]) -> None:
    """Write a row for each node of a round, before the round is closed."""
    every = joined(reports)
    rows = [
        {"round": number, "node": node, "rows": weight} | {name: values[i] for name, values in every.metrics.items()}
        for i, (node, weight) in enumerate(zip(every.nodes, every.weights, strict=True))
    ]
    files.write(run.round(number) / "nodes.csv", as_csv(sorted(rows, key=lambda row: row["node"])))


def collect_node_metrics(run: Run) -> None:
    """Join the rows of all closed rounds in rounds.csv."""
    closed = (run.round(number) / "nodes.csv" for number in range(1, run.last_closed() + 1))
    if tables := [path.read_bytes() for path in closed if path.exists()]:
        files.write(run.path / "rounds.csv", joined_csv(tables))


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"


def round_metrics(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one for each closed round, in order; lines cut short by a kill are left out."""
    path = run.path / "metrics.jsonl"
    lines: dict[int, dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            lines[int(line["round"])] = line
        except (ValueError, TypeError, KeyError):
            continue
    return [lines[r] for r in sorted(lines)]


def sizes(run: Run, number: int, up: int) -> dict[str, int]:
    """Bytes of the files that a node receives for a round (down), if that file still exists, and sends (up)."""
    sent = run.checkpoint(number - 1)
    return ({"down": sent.stat().st_size} if sent.exists() else {}) | {"up": up}


def repair(run: Run, template: Params, up: int) -> None:
    """Restore lines that a kill cut short or left out after a round's commit, from the checkpoints' headers.

    They lack the seconds, which are lost. up: as in `sizes`.
    """
    path = run.path / "metrics.jsonl"
    lines = {line["round"]: line for line in round_metrics(run)}
    for number in range(1, run.last_closed() + 1):
        if number not in lines and run.checkpoint(number).exists():
            header = checkpoints.read_global(run, number, template).header
            lines[number] = {"round": number, "nodes": header["nodes"], **header["metrics"]}
            lines[number]["bytes"] = sizes(run, number, up)
    text = "".join(_line(lines[number]) for number in sorted(lines))
    if text and (not path.exists() or path.read_text() != text):
        files.write(path, text)
