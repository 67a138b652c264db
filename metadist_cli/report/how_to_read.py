"""Notes on how to read a report: what its numbers mean, and what they do not."""

from __future__ import annotations

from collections.abc import Sequence

from metadist_cli.evaluation.metrics import METRICS
from metadist_cli.report.findings import listed, methods

_HOW = (
    "± is a 95% interval by Student's t. Where new tasks come from held-out nodes it is over the nodes: it covers "
    "other nodes like these, and is too narrow where a few nodes make most of the mean. Where they come from held-out "
    "classes it is over the classes. It does not cover another training seed. With fewer than 5 nodes or classes "
    "nothing is claimed about others. The narrower interval for these nodes or classes covers further "
    "tasks of the same ones alone: 1.96 standard deviations of the tasks' values, divided by the square root of their "
    "number.",
    "All methods get the same tasks, so they are compared task by task. The step size and the number of steps of "
    "supervised baselines and of local-only, and the options of the classical methods, are those that score best in "
    "cross-validation inside the support of 20 new tasks (with one row a class, on 20 tasks of training nodes); no "
    "query row of a new task is used. Better and worse are claimed only where the interval of the paired difference "
    "excludes zero. A single task, or a task with a non-finite value, leaves no interval and no verdict.",
    "What a node can do alone is shown by methods that see its support only: local-only, the same model trained from a "
    "random start; logistic (or ridge) regression; nearest neighbours; and constant, which always gives the same "
    "answer. Untrained is a random start with the main model's own adaptation: what is left of it without training.",
)
_CENTRALIZED = (
    "Centralized: trained on the pooled rows of all training nodes as if they were one. It shows the cost of keeping "
    "them apart; where rows may not leave their nodes, it could not be run."
)
_ALONE = "Not transductive: each query is predicted without the task's other queries."
_TOGETHER = (
    "Transductive: a task's queries are predicted as one batch and may share statistics (batch norm). That is easier "
    "than predicting them one by one."
)
_DIVERGED = (
    "A mean is given only where every task has a finite value: diverged tasks are counted, never dropped. The median "
    "is over the finite values."
)


def notes(metrics: dict) -> list[str]:
    """The notes that apply to these results. metrics: the content of metrics.json."""
    found = [*_HOW, _TOGETHER if metrics["transductive"] else _ALONE]
    if any("pooled rows" in m.detail for m in methods(metrics)):
        found.append(_CENTRALIZED)
    for name, reason in metrics.get("diverged", {}).items():
        found.append(f"{name} is missing because its training diverged: {reason}.")
    if metrics["after"]["metrics"]:
        found.append(_other_metrics(list(metrics["after"]["metrics"])))
    return found + ([_DIVERGED] if METRICS[metrics["metric"]].kind == "regression" else [])


def _other_metrics(names: Sequence[str]) -> str:
    """What the metrics beyond the main one are, and where they are undefined."""
    text = "; ".join(f"{name}: {METRICS[name].title}" for name in names) + ". They are computed task by task"
    needs: dict[str, list[str]] = {}
    for name in names:
        if METRICS[name].needs:
            needs.setdefault(METRICS[name].needs, []).append(name)
    if needs:
        wanted = (f"{listed(group)} need{'s' * (len(group) == 1)} {what}" for what, group in needs.items())
        text += f" where the query rows allow it: {', '.join(wanted)}"
        text += ". Tasks without are counted as undefined and left out of the mean"
    if by_class := [name for name in names if METRICS[name].by_class]:
        text += f". Over the rows of all tasks together, {listed(by_class)} "
        text += f"{'is' if len(by_class) == 1 else 'are'} given only where all tasks have the same classes"
    return f"{text}."
