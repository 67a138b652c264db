"""How a report is to be read: what its figures mean, and what they do not."""

from __future__ import annotations

from metadist_cli.report.findings import methods

_HOW = (
    "± is a 95% interval: 1.96 standard deviations of the tasks' figures divided by the root of their number. "
    "It speaks for further tasks drawn in the same way from the same held-out classes or nodes, not for other nodes or "
    "another seed of the training; how much nodes differ is shown as their spread. With less than some 30 tasks it is "
    "too narrow: a difference has Student's t in place of 1.96.",
    "All methods meet the same tasks, with the same number of adaptation steps, so they are compared task by task: "
    "better and worse are said only where the interval of the paired difference leaves zero out. A single task, or one "
    "whose figure is not finite, leaves no interval and nothing is judged.",
    "The random start is what a node can do alone: the same model before any training, adapted in the same way.",
)
_POOLED = (
    "Pooled rows: trained on the rows of all training nodes as one node's. It shows what keeping them apart costs; "
    "where rows may not leave their nodes nobody could run it."
)
_SCORES = (
    "Other scores are computed task by task where the query rows allow it: auc, balanced_accuracy and macro_f1 need "
    "two classes among them, r2 two different targets, calibration_error 150 rows. Other tasks are counted as "
    "undefined and left out of the mean. Of the rows of all tasks together auc, balanced_accuracy and macro_f1 are "
    "told where all tasks have the same classes."
)
_ALONE = "Not transductive: each query is predicted without the other queries of its task."
_TOGETHER = (
    "Transductive: the queries of a task are predicted together and may share statistics (batch norm), "
    "which makes the task easier than one where they come one by one."
)
_DIVERGED = (
    "A mean is given only where every task has a finite figure: tasks that diverged are counted and never dropped. "
    "The median is over the finite ones."
)


def notes(metrics: dict) -> list[str]:
    """The remarks that these figures call for."""
    found = [*_HOW, _TOGETHER if metrics["transductive"] else _ALONE]
    if any("pooled rows" in m.detail for m in methods(metrics)):
        found.append(_POOLED)
    if metrics["after"]["metrics"]:
        found.append(_SCORES)
    return found + ([_DIVERGED] if metrics["metric"] == "mse" else [])
