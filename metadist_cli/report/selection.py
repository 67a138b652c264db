"""Which round a report is about, and what validation had to do with it."""

from __future__ import annotations

from typing import Any

from metadist_cli.evaluation.metrics import METRICS
from metadist_cli.report.findings import value_text


def choice(metrics: dict[str, Any], run: str) -> str:
    """How the round of a run was chosen, as a phrase; empty where validation scores played no part.

    Args:
        metrics: the content of metrics.json.
        run: "main", or a baseline's name.
    """
    found = _selection(metrics, run)
    if not found or found["metric"] is None:
        return ""
    number = metrics["round"] if run == "main" else metrics["baselines"][run]["round"]
    how = {"newest": "the newest", "validation": "the best on validation tasks"}.get(found["by"], "as configured")
    text = f"round {number:,} of {found['newest']:,}, {how}"
    if found["best"] is not None:
        rule, best = METRICS[found["metric"]], value_text(found["best"], found["metric"])
        where = "" if found["best_round"] == number else f" in round {found['best_round']:,}"
        text += f" (validation {rule.title} at best {best}{'%' * rule.percent}{where})"
    return text + ("; training stopped early" if found["stopped"] else "")


def validation_metric(metrics: dict[str, Any]) -> str | None:
    """The metric of the validation scores; None without any."""
    found = (_selection(metrics, run) for run in ("main", *metrics["baselines"]))
    return next((one["metric"] for one in found if one and one["metric"]), None)


def _selection(metrics: dict[str, Any], run: str) -> dict[str, Any] | None:
    return (metrics.get("selection") or {}).get(run)
