"""All methods side by side, as tables of plain text: the page and the console show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metadist_cli.evaluation.metrics import METRICS
from metadist_cli.report.findings import RANDOM, figure, methods, number, signed, single, verdict

_WORDS = {"accuracy": ("Accuracy in %", "Accuracy"), "mse": ("Mean squared error", "Squared error")}
_WIDE = 3  # columns of figures beside the name, for 80 columns


class ResultTable(NamedTuple):
    """The first column names the rows. The second line of a cell is small print.

    led: whether all others are compared with the first row.
    """

    title: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    led: bool = True


class _Row(NamedTuple):
    """A method as it is judged: adapted, or as it was before. key, when: where its figures stand in metrics.json."""

    key: str
    when: str
    label: str
    detail: str
    stat: dict


def tables(metrics: dict) -> list[ResultTable]:
    """How the methods stand beside the adapted main model, by every score."""
    rows = _rows(metrics)
    return [_main(metrics, rows), *_others(rows)]


def narrow(metrics: dict) -> list[ResultTable]:
    """The same for 80 columns: without small print, and further scores by three."""
    first, *others = tables(metrics)
    found = [first]
    for table in others:
        for begin in range(1, len(table.heads), _WIDE):
            part = slice(begin, begin + _WIDE)
            rows = [[row[0], *row[part]] for row in table.rows]
            found.append(table._replace(heads=[table.heads[0], *table.heads[part]], rows=rows))
    return [t._replace(rows=[[cell.partition("\n")[0] for cell in row] for row in t.rows]) for t in found]


def node_tables(metrics: dict) -> list[ResultTable]:
    """The methods at every new node, where there are few of them but more than one."""
    rows, nodes, metric = _rows(metrics), metrics["per_node"], metrics["metric"]
    if len(nodes) < 2 or any(node.get("methods") is None for node in nodes):
        return []
    best, names = rows[0], list(rows[0].stat["metrics"])
    lines = [
        [f"{n['name']}\n{_tasks(n['episodes'])}", *(_cell(n["methods"][r.key][r.when], metric) for r in rows)]
        for n in nodes
    ]
    note = f"Below it the difference to {best.label} at the same node."
    found = [
        ResultTable(f"{_WORDS[metric][0]} at each new node.", note, ["Node", *(r.label for r in rows)], lines, False)
    ]
    if names:
        lines = [[n["name"], *(single(n["methods"]["main"]["after"]["metrics"][s], s) for s in names)] for n in nodes]
        title = f"Other scores of {best.label} at each new node, its query rows together."
        found.append(ResultTable(title, "", ["Node", *map(_head, names)], lines, False))
    return found


def _rows(metrics: dict) -> list[_Row]:
    found = []
    for m in methods(metrics):
        found.append(_Row(m.key, "after", m.label, m.detail, m.after))
        if m.before and m.label != RANDOM:
            found.append(_Row(m.key, "before", f"{m.label}, not adapted", "the global model as it is", m.before))
    return found


def _main(metrics: dict, rows: Sequence[_Row]) -> ResultTable:
    metric, best = metrics["metric"], rows[0]
    uneven = any(_uneven(r.stat) for r in rows)
    words, head = _WORDS[metric]
    heads = ["Method", head, *(["All rows"] if uneven else []), "Difference", f"Beside {best.label}"]
    lines = []
    for r in rows:
        told = figure(r.stat, metric)
        if metric == "mse":
            told += f"\nmedian {number(r.stat['median'])}; {r.stat['non_finite']:,} of {r.stat['n']:,} not finite"
        line = [f"{r.label}\n{r.detail}", told, *([single(r.stat["over_rows"], metric)] if uneven else [])]
        lines.append([*line, signed(r.stat["difference"], metric), "-" if r is best else verdict(r.stat, metric)])
    better = "higher" if METRICS[metric].higher_is_better else "lower"
    note = f"Difference: less {best.label} on the same tasks, with the interval of these paired differences."
    if uneven:
        note += " All rows: the mean over all query rows, where the other counts every task alike."
    title = f"{words}, {better} is better: mean and 95% interval over {_tasks(best.stat['n'])}."
    return ResultTable(title, note, heads, lines)


def _others(rows: Sequence[_Row]) -> list[ResultTable]:
    """Further scores: means over the tasks where they are defined, and of all rows at once."""
    told = rows[0].stat["metrics"]
    lost = [f"{name} in {told[name]['undefined']:,}" for name in told if told[name]["undefined"]]  # of any method
    left = f" Undefined: {', '.join(lost)} of {_tasks(rows[0].stat['n'])}." if lost else ""
    kinds = (
        (f"mean over tasks and its 95% interval.{left}", _cell, [name for name in told if told[name]["n"]]),
        ("query rows of all tasks together.", _together, [n for n in told if told[n]["over_rows"] is not None]),
    )
    return [
        ResultTable(
            f"Other scores, {what}",
            "Below it the difference on the same tasks. ↑ higher is better, ↓ lower is.",
            ["Method", *map(_head, names)],
            [[r.label, *(cell(r.stat["metrics"][name], name) for name in names)] for r in rows],
        )
        for what, cell, names in kinds
        if names
    ]


def _cell(stat: dict, metric: str) -> str:
    """A mean; below it its difference, and how many tasks have no finite figure."""
    small = [] if stat["difference"] is None else [signed(stat["difference"], metric)]
    small += [f"{stat['non_finite']:,} not finite"] if stat["non_finite"] else []
    return f"{figure(stat, metric, lone='')}\n{', '.join(small)}"


def _together(stat: dict, metric: str) -> str:
    gap = stat["difference"]
    small = "" if gap is None else signed({"mean": gap["over_rows"], "ci95": None}, metric)
    return f"{single(stat['over_rows'], metric)}\n{small}"


def _head(name: str) -> str:
    return f"{name} {'↑' if METRICS[name].higher_is_better else '↓'}"


def _uneven(stat: dict) -> bool:
    """Whether tasks have query sets of different sizes, so that the mean over rows is another one."""
    mean, rows = stat["mean"], stat["over_rows"]
    return mean is not None and rows is not None and abs(mean - rows) > 1e-9 * max(1, abs(mean))


def _tasks(count: int) -> str:
    return f"{count:,} task{'s' * (count != 1)}"
