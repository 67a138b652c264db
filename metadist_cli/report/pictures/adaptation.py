"""Adaptation curves: the score on new tasks after each adaptation step, for every method."""

from __future__ import annotations

from metadist_cli.report.canvas import values
from metadist_cli.report.curves import Panel, Series, curves_png
from metadist_cli.report.findings import UNTRAINED, axis, methods, sources, with_unit
from metadist_cli.report.types import Picture, Results


def adaptation(results: Results) -> Picture:
    """The curves of all methods on new tasks."""
    found, metric = methods(results.metrics), results.metrics["metric"]
    scale = axis(metric).scale
    series = []
    for m in found:
        points = m.per_step or [{"step": results.metrics["steps"] or 0, **m.after}]
        x, y, ci = (values([p[key] for p in points]) for key in ("step", "mean", "ci95"))
        series.append(Series(m.label, x, scale * y, scale * ci, -1 if m.label == UNTRAINED else len(series)))
    over = sources(results.metrics) or "tasks"
    ends = "; ".join(f"{m.label} {with_unit(m.after, metric)}" for m in found)
    return Picture(
        curves_png([Panel(axis(metric), series)], "adaptation steps"),
        f"Curves on new tasks by adaptation step. At the end: {ends}.",
        f"Mean over tasks by adaptation step; bands are 95% intervals over {over}. "
        "A dotted line extends a shorter curve.",
    )
