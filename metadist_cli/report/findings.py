"""The result of an evaluation in words: values with their intervals, and the claims that they support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

from metadist_cli.core.errors import printable
from metadist_cli.evaluation.metrics import METRICS
from metadist_cli.report.canvas import Axis

LOCAL = ("local-only", "linear", "nearest", "constant")  # what a node can do alone, in the order of the report
UNTRAINED = "untrained"
_DOMINATED = 10  # times the median, from which on a mean is that of a few tasks
BETTER, WORSE, NOT_SIGNIFICANT, NO_VERDICT = "better", "worse", "not significant", "no verdict"
_ADAPTATION = {  # by the verdict on the model before adaptation
    WORSE: "Adaptation improves it",
    BETTER: "Adaptation makes it worse",
    NOT_SIGNIFICANT: "Adaptation makes no significant difference",
    NO_VERDICT: "No verdict on adaptation",
}
_AGAINST = {  # by the verdict on the other method
    WORSE: "Better than",
    BETTER: "Worse than",
    NOT_SIGNIFICANT: "No significant difference from",
    NO_VERDICT: "No verdict against",
}


class Method(NamedTuple):
    """An evaluated method.

    Attributes:
        key: its name in metrics.json.
        label: its name in the report.
        detail: what it is, in a few words.
        before, after: its results there; before may be None.
        per_step: its results after each adaptation step.
    """

    key: str
    label: str
    detail: str
    before: dict | None
    after: dict
    per_step: Sequence[dict]


def methods(metrics: dict) -> list[Method]:
    """The evaluated methods: the run itself, its baselines by name, what a node can do alone, and no training."""
    baselines = metrics.get("baselines") or {}
    short = metrics["learner"].split(",")[0]
    label = metrics["name"] if short in baselines else short
    found = [Method("main", label, metrics["learner"], metrics["before"], metrics["after"], metrics["per_step"])]
    for name, b in sorted(baselines.items()):
        detail = b["learner"] + _choice(b)
        found.append(Method(name, name, detail, b["before"], b["after"], b["per_step"]))
    for name in LOCAL:
        if local := (metrics.get("local") or {}).get(name):
            found.append(Method(name, name, local["text"] + _choice(local), None, local["after"], local["per_step"]))
    if metrics.get("untrained"):
        steps = metrics.get("untrained_per_step") or []
        detail = "a random start, adapted as the main model is"
        found.append(Method("untrained", UNTRAINED, detail, None, metrics["untrained"], steps))
    return found


def _choice(method: dict) -> str:
    """How a baseline adapts where that was chosen for it."""
    choice = method.get("chosen")
    if not choice:
        return ""
    steps = f"{choice['steps']} step{'s' * (choice['steps'] != 1)}"
    return f"; {steps} of {choice['inner_lr']:g}, chosen in the support"


def verdict(stat: dict, metric: str) -> str:
    """Whether a method is better or worse than the adapted main model, by their paired difference on the same tasks.

    Better and worse require that the difference's 95% interval excludes zero. Without an interval (a single task, too
    few nodes, or a task with a non-finite value) the verdict is left open.
    """
    difference = stat["difference"]
    if difference is None or not _has_interval(difference):
        return NO_VERDICT
    gap = difference["mean"] * (1 if METRICS[metric].higher_is_better else -1)
    if abs(gap) <= difference["ci95"]:
        return NOT_SIGNIFICANT
    return BETTER if gap > 0 else WORSE


def headline(metrics: dict) -> str:
    """The result in a few sentences: the score, the change by adaptation, and the comparison with other methods.

    Args:
        metrics: the content of metrics.json.
    """
    metric, (run, *others) = metrics["headline"], methods(metrics)
    after = by_metric(run.after, metrics, metric)
    noun = "task" if run.after["n"] == 1 else "tasks"
    tasks = f"new {noun}" if metrics["task"] == "new" else f"{noun} of {metrics['task']}"
    steps = metrics["steps"]
    when = f"after {steps:,} adaptation step{'s' * (steps != 1)}" if steps else "after adaptation"
    over = sources(metrics)
    whose = f" of {over}" if over else ""
    where = f"On {run.after['n']:,} {tasks}{whose} ({metrics['task_text']})"
    within = within_text(after, metric, over)
    said = _warnings(metrics, run, others)
    said.append(f"{where}, {run.label} reaches {_full(after, metric)} {when}{within and f' ({within})'}.")
    if not metrics["interval"]["enough"]:
        said.append(few_sources(metrics))
    if run.before:
        before = by_metric(run.before, metrics, metric)
        said.append(f"{_ADAPTATION[verdict(before, metric)]}: {with_unit(before, metric)} before.")
    stats = [(o.label, by_metric(o.after, metrics, metric)) for o in others]
    for word, start in _AGAINST.items():
        named = [f"{label} ({with_unit(stat, metric)})" for label, stat in stats if verdict(stat, metric) == word]
        if named:
            said.append(f"{start} {listed(named)}.")
    return printable(" ".join(said)).replace("\n", " ")


def by_metric(stat: dict, metrics: dict, metric: str) -> dict:
    """A method's results by this metric. stat: its results by the main metric, with the others inside."""
    return stat if metric == metrics["metric"] else stat["metrics"][metric]


def _warnings(metrics: dict, run: Method, others: Sequence[Method]) -> list[str]:
    """What has to be known before any score is read."""
    metric, found = metrics["metric"], []
    constant = next((o for o in others if o.key == "constant"), None)
    if constant and not _beaten(constant.after, metric):
        unit = with_unit(constant.after, metric)
        found.append(
            f"{run.label} is no better than a constant answer by {METRICS[metric].title}: "
            f"{with_unit(run.after, metric)}, and {unit} for {constant.detail}."
        )
    mean, median = run.after["mean"], run.after["median"]
    if METRICS[metric].kind == "regression" and _finite(mean) and _finite(median) and mean > _DOMINATED * median:
        found.append(
            f"A few tasks dominate the mean: it is {number(mean / median)} times the median, so look at both."
            if median > 0
            else "A few tasks dominate the mean: the median is 0."
        )
    return found


def _beaten(stat: dict, metric: str) -> bool:
    """Whether a method is worse than the main model, at these nodes at least."""
    found = verdict(stat, metric)
    if found == NO_VERDICT and stat["difference"] is not None:
        found = verdict(stat | {"difference": stat["difference"] | {"ci95": stat["difference"]["ci95_tasks"]}}, metric)
    return found == WORSE


def sources(metrics: dict) -> str:
    """What the intervals are over, e.g. "10 nodes"; empty where tasks are drawn from neither nodes nor classes."""
    over = metrics["interval"]["over"]
    return listed([_counted(over[what], what) for what in ("nodes", "classes") if what in over]) if over else ""


def few_sources(metrics: dict) -> str:
    """Why the intervals cover these nodes or classes alone."""
    over = metrics["interval"]["over"]
    what = "nodes" if "nodes" in over else "classes"
    verb = "is" if over[what] == 1 else "are"
    return f"{_counted(over[what], what)} {verb} too few for a claim about other {what}."


def within_text(stat: dict, metric: str, over: str) -> str:
    """The interval for further tasks of the same nodes or classes; empty where there is none, or no other."""
    half = stat.get("ci95_tasks")
    if not over or not _finite(stat["mean"]) or not _finite(half):
        return ""
    scaled = axis(metric).scale * half
    unit = "%" if METRICS[metric].percent else ""
    return f"± {number(scaled, _digits(scaled or abs(stat['mean']) / 10, metric))}{unit} for these {over}"


def axis(metric: str) -> Axis:
    """The axis of a chart of a metric."""
    rule = METRICS[metric]
    return Axis(f"{rule.title} (%)", 100.0, percent=True) if rule.percent else Axis(rule.title)


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: "a, b and c"."""
    return f"{', '.join(names[:-1])}{' and ' * (len(names) > 1)}{names[-1]}"


def mean_text(stat: dict | None, metric: str, unit: str = "", lone: str = " (no interval)") -> str:
    """A mean and the half width of its interval, with as many digits as the interval warrants.

    Args:
        stat: with "mean" and "ci95"; None gives a dash.
        metric: its name; some are shown in percent.
        unit: appended.
        lone: appended to a mean without an interval.
    """
    if stat is None:
        return "–"
    if not _finite(stat["mean"]):
        return "not finite"
    scale = axis(metric).scale
    mean = scale * stat["mean"]
    if not _has_interval(stat):
        return f"{number(mean, _digits(abs(mean) / 10, metric))}{unit}{lone}"
    half = scale * stat["ci95"]
    digits = _digits(half or abs(mean) / 10, metric)
    return f"{number(mean, digits)} ± {number(half, digits)}{unit}"


def value_text(value: float | None, metric: str) -> str:
    """A value without an interval."""
    return "-" if value is None else mean_text({"mean": value, "ci95": None}, metric, lone="")


def difference_text(difference: dict | None, metric: str) -> str:
    """A paired difference, signed, with its interval."""
    if difference is None or not _finite(difference["mean"]):
        return "-"
    return ("+" if difference["mean"] >= 0 else "") + mean_text(difference, metric, lone="")


def with_unit(stat: dict, metric: str) -> str:
    """`mean_text` with its unit, or how many tasks have no finite value."""
    unit, lone = "%" if METRICS[metric].percent else "", "" if _finite(stat.get("ci95_tasks")) else " (no interval)"
    return mean_text(stat, metric, unit, lone) if _finite(stat["mean"]) else _lost(stat)


def number(value: float | None, digits: int | None = None) -> str:
    """A plain number, with three significant digits where `digits` is None; huge ones with an exponent."""
    if not _finite(value):
        return "not finite"
    if abs(value) >= 1e5:
        return f"{value:.2e}"
    return f"{value:.{_significant(abs(value) / 10, 8) if digits is None else digits}f}"


def _full(stat: dict, metric: str) -> str:
    rule = METRICS[metric]
    if rule.percent:
        return f"{with_unit(stat, metric)} {rule.title}"
    if not _finite(stat["mean"]):
        return f"a median {rule.title.removeprefix('mean ')} of {number(stat['median'])} ({_lost(stat)}, so no mean)"
    return f"a {rule.title} of {mean_text(stat, metric)} (median {number(stat['median'])}; {_lost(stat)})"


def _counted(count: int, plural: str) -> str:
    return f"{count:,} {plural if count != 1 else plural.removesuffix('es' if plural == 'classes' else 's')}"


def _lost(stat: dict) -> str:
    return f"{stat['non_finite']:,} of {stat['n']:,} tasks not finite"


def _digits(least: float, metric: str) -> int:
    """Decimals that show a value of this size: one of a percentage if that suffices, else two significant digits.

    At most three for other metrics of a classification: few tasks warrant no more.
    """
    if METRICS[metric].percent:
        return 1 if least >= 0.05 else 2
    return _significant(least, 3 if METRICS[metric].kind == "classification" else 8)


def _significant(least: float, most: int) -> int:
    """Decimals that show two significant digits, at most `most`."""
    return min(max(1 - math.floor(math.log10(least)), 0), most) if least > 0 else 1


def _has_interval(stat: dict) -> bool:
    return _finite(stat["mean"]) and _finite(stat["ci95"]) and not stat.get("non_finite")


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
