"""predict: an adapted model's predictions for new rows, without the run that it comes from."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.console import Console
from metadist_cli.core.errors import USAGE, Problem
from metadist_cli.data.new_rows import as_inputs, read_rows
from metadist_cli.storage.adapted_model import AdaptedModel, load_adapted, model_file, probabilities

_PIECE = 1_000  # rows between two steps of the progress bar


def predict(model: Path, rows: Path, out: Path | None, console: Console) -> dict[str, Any]:
    """Write a line for each row: its prediction, and of a classification the probability of each class.

    Args:
        model: adapted.safetensors, or the folder that finetune wrote it to.
        rows: a file of rows in the data set's own columns and units.
        out: the .csv file to write; None for standard output.
        console: where to report.

    Returns:
        Number of rows; of each class, or the range of the values; and the file written.
    """
    if out is None and console.json:
        raise Problem("--json needs --out", "--out", "name the file for the predictions: --out predictions.csv", USAGE)
    path = model_file(model)
    if out is not None and any(out.resolve() == other.resolve() for other in (path, rows)):
        raise Problem("the predictions would replace what they are made from", "--out", "name another file", USAGE)
    adapted = load_adapted(path)
    new = read_rows(rows, adapted.preprocessing)
    inputs = as_inputs(new.x, adapted.preprocessing)
    outputs = adapted.raw(inputs) if out is None else _with_progress(adapted, inputs, console)
    outputs = outputs if adapted.classes else adapted.preprocessing.predictions(outputs)
    text = _table(adapted, new.names, outputs)
    if out is None:
        sys.stdout.write(text)
        return {}
    files.write(out, text)
    console.say(f"predict: {len(new.names):,} rows in {out}")
    return {"rows": len(new.names), **_summary(adapted, outputs), "file": str(out)}


def _with_progress(adapted: AdaptedModel, inputs: np.ndarray, console: Console) -> np.ndarray:
    """(n, outputs)."""
    piece = len(inputs) if adapted.header["together"] else _PIECE
    parts = []
    with console.progress("predict: row", len(inputs)) as progress:
        for begin in range(0, len(inputs), piece):
            parts.append(adapted.raw(inputs[begin : begin + piece]))
            progress.advance(len(parts[-1]))
    return np.concatenate(parts)


def _table(adapted: AdaptedModel, names: Any, outputs: np.ndarray) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if adapted.classes:
        writer.writerow(["row", "prediction", *(f"p_{name}" for name in adapted.classes)])
        best = outputs.argmax(-1)
        lines = ([adapted.classes[i], *row] for i, row in zip(best, probabilities(outputs), strict=True))
    else:
        width = outputs.shape[1]
        writer.writerow(["row", *(["prediction"] if width == 1 else [f"prediction_{i}" for i in range(width)])])
        lines = outputs
    for name, line in zip(names, lines, strict=True):
        writer.writerow([name, *map(str, line)])
    return text.getvalue()


def _summary(adapted: AdaptedModel, outputs: np.ndarray) -> dict[str, Any]:
    if adapted.classes:
        counts = np.bincount(outputs.argmax(-1), minlength=len(adapted.classes))
        return {"classes": dict(zip(adapted.classes, counts.tolist(), strict=True))}
    return {name: [float(v) for v in getattr(outputs, name)(0)] for name in ("min", "mean", "max")}
