"""The result of an evaluation in words: figures with their intervals, and what may be claimed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

from metadist_cli.core.errors import printable
from metadist_cli.evaluation.metrics import METRICS

RANDOM = "random start"
BETTER, WORSE, WITHIN, NOT_JUDGED = "better", "worse", "within the interval", "not judged"
_ADAPTING = {  # by what may be said of the model as it was before
    WORSE: "Adapting makes it better",
    BETTER: "Adapting makes it worse",
    WITHIN: "Adapting changes it within the interval",
    NOT_JUDGED: "What adapting changes is not judged",
}
_AGAINST = {  # by what may be said of the other method
    WORSE: "Better than",
    BETTER: "Worse than",
    WITHIN: "Not told apart from",
    NOT_JUDGED: "Not judged against",
}
_PERCENT = {"accuracy", "balanced_accuracy"}


class Method(NamedTuple):
    """What was evaluated; key: its name in metrics.json. before, after: as there, before may be None."""

    key: str
    label: str
    detail: str
    before: dict | None
    after: dict
    per_step: Sequence[dict]


def methods(metrics: dict) -> list[Method]:
    """What was evaluated: the run itself, its baselines by name, the random start."""
    baselines = metrics.get("baselines") or {}
    short = metrics["learner"].split(",")[0]
    label = metrics["name"] if short in baselines else short
    found = [Method("main", label, metrics["learner"], metrics["before"], metrics["after"], metrics["per_step"])]
    for name, b in sorted(baselines.items()):
        found.append(Method(name, name, b["learner"], b["before"], b["after"], b["per_step"]))
    if metrics.get("scratch"):
        steps = metrics.get("scratch_per_step") or []
        before = next((s for s in steps if s["step"] == 0), None)
        found.append(
            Method("scratch", RANDOM, "local only: same adaptation, no training", before, metrics["scratch"], steps)
        )
    return found


def verdict(stat: dict, metric: str) -> str:
    """Whether a method is better or worse than the adapted main model, by their paired difference on the same tasks.

    Better and worse only where the 95% interval of the difference leaves zero out. Nothing is judged without an
    interval: one task, or a task whose figure is not finite.
    """
    difference = stat["difference"]
    if difference is None or not _has_interval(difference):
        return NOT_JUDGED
    gap = difference["mean"] * (1 if METRICS[metric].higher_is_better else -1)
    if abs(gap) <= difference["ci95"]:
        return WITHIN
    return BETTER if gap > 0 else WORSE


def headline(metrics: dict) -> str:
    """The result in a few sentences: the figure, the change by adaptation, and how it stands against the others."""
    metric, (run, *others) = metrics["metric"], methods(metrics)
    noun = "task" if run.after["n"] == 1 else "tasks"
    tasks = f"new {noun}" if metrics["task"] == "new" else f"{noun} of {metrics['task']}"
    steps = metrics["steps"]
    when = f"after {steps:,} adaptation step{'s' * (steps != 1)}" if steps else "after adapting"
    where = f"On {run.after['n']:,} {tasks} ({metrics['task_text']})"
    said = [f"{where}, {run.label} reaches {_full(run.after, metric)} {when}."]
    if run.before:
        change = _ADAPTING[verdict(run.before, metric)]
        said.append(f"{change}: before, it has {amount(run.before, metric)}.")
    judged = [(verdict(o.after, metric), o) for o in others]
    for word, start in _AGAINST.items():
        named = [f"{o.label} ({amount(o.after, metric)})" for v, o in judged if v == word]
        if named:
            said.append(f"{start} {', '.join(named[:-1])}{' and ' * (len(named) > 1)}{named[-1]}.")
    return printable(" ".join(said)).replace("\n", " ")


def figure(stat: dict | None, metric: str, unit: str = "", lone: str = " (no interval)") -> str:
    """Mean and half width of its interval: shares in percent, as many digits as the interval deserves.

    lone: what is said of a mean without an interval.
    """
    if stat is None:
        return "–"
    if not _finite(stat["mean"]):
        return "not finite"
    scale = 100 if metric in _PERCENT else 1
    mean = scale * stat["mean"]
    if not _has_interval(stat):
        return f"{number(mean, _digits(abs(mean) / 10, metric))}{unit}{lone}"
    half = scale * stat["ci95"]
    digits = _digits(half or abs(mean) / 10, metric)
    return f"{number(mean, digits)} ± {number(half, digits)}{unit}"


def single(value: float | None, metric: str) -> str:
    """A figure that has no interval."""
    return "-" if value is None else figure({"mean": value, "ci95": None}, metric, lone="")


def signed(difference: dict | None, metric: str) -> str:
    """A paired difference with its interval."""
    if difference is None or not _finite(difference["mean"]):
        return "-"
    return ("+" if difference["mean"] >= 0 else "") + figure(difference, metric, lone="")


def amount(stat: dict, metric: str) -> str:
    """`figure` with its unit, or how many tasks have no finite figure."""
    return figure(stat, metric, "%" if metric in _PERCENT else "") if _finite(stat["mean"]) else _lost(stat)


def number(value: float | None, digits: int | None = None) -> str:
    """A plain number; huge ones in powers of ten, three significant digits where `digits` is not given."""
    if not _finite(value):
        return "not finite"
    if abs(value) >= 1e5:
        return f"{value:.2e}"
    return f"{value:.{_digits(abs(value) / 10, 'mse') if digits is None else digits}f}"


def _full(stat: dict, metric: str) -> str:
    if metric == "accuracy":
        return f"{amount(stat, metric)} accuracy"
    if not _finite(stat["mean"]):
        return f"a median squared error of {number(stat['median'])} ({_lost(stat)}, hence no mean)"
    return f"a mean squared error of {figure(stat, metric)} (median {number(stat['median'])}; {_lost(stat)})"


def _lost(stat: dict) -> str:
    return f"{stat['non_finite']:,} of {stat['n']:,} tasks not finite"


def _digits(least: float, metric: str) -> int:
    """Decimals that show a figure of this size: one of a percentage if that does, two significant ones elsewhere.

    Three at most of what a classification is judged by: few tasks tell more.
    """
    if metric in _PERCENT:
        return 1 if least >= 0.05 else 2
    most = 3 if METRICS[metric].kind == "classification" else 8
    return min(max(1 - math.floor(math.log10(least)), 0), most) if least > 0 else 1


def _has_interval(stat: dict) -> bool:
    return _finite(stat["mean"]) and _finite(stat["ci95"]) and not stat.get("non_finite")


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
