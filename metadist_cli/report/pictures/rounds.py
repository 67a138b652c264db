"""Training curves: loss and metric by round, for the run and its baselines."""

from __future__ import annotations

import numpy as np

from metadist_cli.report.canvas import Axis, values
from metadist_cli.report.curves import POINTS, Panel, Series, curves_png
from metadist_cli.report.findings import axis, methods
from metadist_cli.report.selection import choice, validation_metric
from metadist_cli.report.types import Picture, Results


def rounds(results: Results) -> Picture | None:
    """The training curves; None without any round."""
    metric = results.metrics["metric"]
    runs = {
        m.key: m.label for m in methods(results.metrics) if m.key == "main" or m.key in results.metrics["baselines"]
    }
    ordered = sorted(results.rounds, key=lambda r: r["round"])
    panels = []
    validated = validation_metric(results.metrics)
    checked = [("validation", _validation_axis(validated))] if validated else []
    for key, measured in (("loss", Axis("training loss")), (metric, axis(metric)), *checked):
        series = []
        for look, (run, label) in enumerate(runs.items()):
            lines = [r for r in ordered if r["run"] == run and r.get(key) is not None]
            if lines:
                x, y = (values([r[k] for r in lines]) for k in ("round", key))
                series.append(Series(label, x, measured.scale * y, np.zeros(len(y)), look))
        if series:
            panels.append(Panel(measured, series))
    if not panels:
        return None
    last = max(r["round"] for r in ordered)
    text = "Training metrics by round, averaged over the round's nodes."
    text += "".join(f" {runs[run]}: {chosen}." for run in runs if (chosen := choice(results.metrics, run)))
    if last > POINTS:
        text += " Long curves show means of equal segments."
    return Picture(curves_png(panels, "training round"), f"Training curves over rounds 1 to {last:,}.", text)


def _validation_axis(metric: str) -> Axis:
    measured = axis(metric)
    return measured._replace(label=f"validation {measured.label}")
