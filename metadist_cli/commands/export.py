"""export: an adapted model as one file for devices, checked and timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from metadist_cli.core import files, seeds
from metadist_cli.core.console import Console
from metadist_cli.core.errors import USAGE, Problem
from metadist_cli.data.preprocessing import Preprocessing, Scale
from metadist_cli.storage.adapted_model import AdaptedModel, load_adapted, model_file, one_thread
from metadist_cli.storage.exported import FORMATS, by_columns, export, row_shape

_ROWS, _TIMES = 16, 100
_CLOSE = 1e-4  # of predictions, relative to the largest; kernels sum in other orders


def export_model(model: Path, to: Literal["torch", "onnx"], out: Path | None, console: Console) -> dict[str, Any]:
    """Write an adapted model as one graph, once its predictions are checked.

    Args:
        model: adapted.safetensors, or the folder that finetune wrote it to.
        to: the format.
        out: the file to write; None: beside the model.
        console: where to report.

    Returns:
        The file, its size in bytes, milliseconds a row on one thread, and the largest difference from the model.
    """
    path = model_file(model)
    out = path.with_suffix(FORMATS[to]) if out is None else out
    if out.resolve() == path.resolve():
        raise Problem("the exported file would replace the model", "--out", "name another file", USAGE)
    adapted = load_adapted(path)
    exported = export(adapted, to)
    rows = _sample(adapted.preprocessing)
    with torch.no_grad(), one_thread():
        found = np.concatenate([exported.run(rows[i : i + 1]) for i in range(len(rows))])
        milliseconds = 1000 * _seconds(exported.run, rows[:1])
    wanted = _reference(adapted, rows)
    gap = float(np.abs(found - wanted).max())
    if not gap <= _CLOSE * max(1.0, float(np.abs(wanted).max())):
        message = f"the exported model differs from the adapted one by {gap:g}"
        raise Problem(message, str(path), "please report it with the model; or use the other --format")
    files.write(out, exported.data)
    size = len(exported.data)
    console.say(f"export: {out}, {size:,} bytes, {milliseconds:.3g} ms a row on one thread, within {gap:.1g}")
    return {"file": str(out), "bytes": size, "milliseconds": milliseconds, "difference": gap}


def _sample(by: Preprocessing) -> np.ndarray:
    """Rows like those of the data set, as the graph takes them; a cell is missing where that may be."""
    rng = seeds.numpy_generator(0, "export")
    shape = (_ROWS, *row_shape(by))
    if by.letters or by.divide > 1:
        return rng.integers(0, len(by.letters) or int(by.divide) + 1, shape).astype(np.float32)
    x = rng.normal(size=shape)
    if isinstance(by.scale, Scale):
        mean, deviation = (
            np.array(v[: shape[1]]).reshape(-1, *[1] * (len(shape) - 2)) for v in (by.scale.mean, by.scale.deviation)
        )
        x = mean + deviation * x
    if by.missing == "fill":
        x[0] = np.nan
    return x.astype(np.float32)


def _reference(adapted: AdaptedModel, rows: np.ndarray) -> np.ndarray:
    """What the adapted model says of the same rows."""
    by = adapted.preprocessing
    given: Any = {c.name: rows[:, i] for i, c in enumerate(by.columns)} if by_columns(by) else rows
    return adapted.probabilities(given) if by.classes else adapted.predict(given)


def _seconds(run: Callable[[np.ndarray], np.ndarray], row: np.ndarray) -> float:
    """Of one call: the median of a hundred, after some to warm up."""
    taken = []
    for _ in range(_TIMES + _TIMES // 10):
        began = time.perf_counter()
        run(row)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[_TIMES // 10 :]))
