"""All methods side by side, as tables of plain text; the page and the console show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metadist_cli.evaluation.metrics import METRICS
from metadist_cli.report.findings import (
    difference_text,
    few_sources,
    mean_text,
    methods,
    number,
    sources,
    value_text,
    verdict,
    within_text,
)

_COLUMNS = 3  # of values beside the name that fit 80 characters


class ResultTable(NamedTuple):
    """A table of plain text.

    Attributes:
        title, note: the caption.
        heads: column headings.
        rows: cells; the first names the row, the second line of a cell is small print.
        led: whether all other rows are compared with the first.
    """

    title: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    led: bool = True


class _Row(NamedTuple):
    """A method, adapted or not. key, when: where metrics.json has its results."""

    key: str
    when: str
    label: str
    detail: str
    stat: dict


def tables(metrics: dict) -> list[ResultTable]:
    """The methods by the main metric, then by all others. metrics: the content of metrics.json."""
    rows = _rows(metrics)
    return [_main_table(metrics, rows), *_other_tables(rows, sources(metrics) or "tasks")]


def narrow(metrics: dict) -> list[ResultTable]:
    """`tables` for a console of 80 columns: without small print, and other metrics three to a table."""
    first, *others = tables(metrics)
    found = [first]
    for table in others:
        for begin in range(1, len(table.heads), _COLUMNS):
            part = slice(begin, begin + _COLUMNS)
            rows = [[row[0], *row[part]] for row in table.rows]
            found.append(table._replace(heads=[table.heads[0], *table.heads[part]], rows=rows))
    return [t._replace(rows=[[cell.partition("\n")[0] for cell in row] for row in t.rows]) for t in found]


def node_tables(metrics: dict) -> list[ResultTable]:
    """The methods at each new node; [] for one node, or for more than metrics.json has by method."""
    rows, nodes, metric = _rows(metrics), metrics["per_node"], metrics["metric"]
    if len(nodes) < 2 or any(node.get("methods") is None for node in nodes):
        return []
    best, names = rows[0], list(rows[0].stat["metrics"])
    lines = [
        [f"{n['name']}\n{_tasks(n['episodes'])}", *(_mean_cell(n["methods"][r.key][r.when], metric) for r in rows)]
        for n in nodes
    ]
    title = f"{_title(metric)} at each new node."
    note = f"Second line: difference from {best.label} at the same node."
    found = [ResultTable(title, note, ["Node", *(r.label for r in rows)], lines, False)]
    if names:
        lines = [
            [n["name"], *(value_text(n["methods"]["main"]["after"]["metrics"][s], s) for s in names)] for n in nodes
        ]
        title = f"Other metrics of {best.label} at each new node, over all its query rows."
        found.append(ResultTable(title, "", ["Node", *map(_head, names)], lines, False))
    return found


def _rows(metrics: dict) -> list[_Row]:
    found = []
    for m in methods(metrics):
        found.append(_Row(m.key, "after", m.label, m.detail, m.after))
        if m.before:
            found.append(_Row(m.key, "before", f"{m.label}, not adapted", "the global model, unchanged", m.before))
    return found


def _main_table(metrics: dict, rows: Sequence[_Row]) -> ResultTable:
    """The methods by the main metric, with their differences and the verdicts."""
    metric, best = metrics["metric"], rows[0]
    rule, over = METRICS[metric], sources(metrics)
    uneven = any(_uneven(r.stat) for r in rows)
    all_rows = ["All rows"] if uneven else []
    heads = ["Method", _title(metric, unit=False), *all_rows, "Difference", f"vs. {best.label}"]
    lines = []
    for r in rows:
        mean = mean_text(r.stat, metric)
        if within := within_text(r.stat, metric, over):
            mean += f"\n{within}"
        if rule.kind == "regression":
            mean += f"\nmedian {number(r.stat['median'])}; {r.stat['non_finite']:,} of {r.stat['n']:,} not finite"
        over_rows = [value_text(r.stat["over_rows"], metric)] if uneven else []
        claim = "-" if r is best else verdict(r.stat, metric)
        lines.append([f"{r.label}\n{r.detail}", mean, *over_rows, difference_text(r.stat["difference"], metric), claim])
    note = f"Difference: from {best.label} on the same tasks (paired), with its interval."
    if uneven:
        note += " All rows: mean over all query rows; the other mean weights every task equally."
    better = "higher" if rule.higher_is_better else "lower"
    tasks = _tasks(best.stat["n"])
    over = f"{over} ({tasks})" if over else tasks
    title = f"{_title(metric)}, {better} is better: mean and 95% interval over {over}."
    if not metrics["interval"]["enough"]:
        note = f"{few_sources(metrics)} {note}"
    return ResultTable(title, note, heads, lines)


def _other_tables(rows: Sequence[_Row], over: str) -> list[ResultTable]:
    """The methods by the other metrics: means over tasks, then values over all rows together."""
    stats = rows[0].stat["metrics"]
    per_task = [name for name in stats if stats[name]["n"]]
    over_rows = [name for name in stats if stats[name]["over_rows"] is not None]
    lost = [f"{name} in {stats[name]['undefined']:,}" for name in stats if stats[name]["undefined"]]  # for any method
    undefined = f" Undefined: {', '.join(lost)} of {_tasks(rows[0].stat['n'])}." if lost else ""
    found = []
    if per_task:
        title = f"Other metrics: mean over tasks and its 95% interval over {over}.{undefined}"
        cells = [[_mean_cell(r.stat["metrics"][name], name) for name in per_task] for r in rows]
        found.append(_other_table(title, rows, per_task, cells))
    if over_rows:
        cells = [[_all_rows_cell(r.stat["metrics"][name], name) for name in over_rows] for r in rows]
        found.append(_other_table("Other metrics: query rows of all tasks together.", rows, over_rows, cells))
    return found


def _other_table(title: str, rows: Sequence[_Row], names: Sequence[str], cells: list[list[str]]) -> ResultTable:
    note = "Second line: difference on the same tasks. ↑ higher is better, ↓ lower is better."
    lines = [[r.label, *line] for r, line in zip(rows, cells, strict=True)]
    return ResultTable(title, note, ["Method", *map(_head, names)], lines)


def _mean_cell(stat: dict, metric: str) -> str:
    """A mean; in small print its difference, and how many tasks have no finite value."""
    small = [] if stat["difference"] is None else [difference_text(stat["difference"], metric)]
    small += [f"{stat['non_finite']:,} not finite"] if stat["non_finite"] else []
    return f"{mean_text(stat, metric, lone='')}\n{', '.join(small)}"


def _all_rows_cell(stat: dict, metric: str) -> str:
    """A value over all rows; in small print its difference."""
    gap = stat["difference"]
    small = "" if gap is None else difference_text({"mean": gap["over_rows"], "ci95": None}, metric)
    return f"{value_text(stat['over_rows'], metric)}\n{small}"


def _head(name: str) -> str:
    return f"{name} {'↑' if METRICS[name].higher_is_better else '↓'}"


def _title(metric: str, unit: bool = True) -> str:
    title = METRICS[metric].title
    return title[:1].upper() + title[1:] + (" in %" if unit and METRICS[metric].percent else "")


def _uneven(stat: dict) -> bool:
    """Whether tasks have query sets of different sizes, so that the mean over rows differs from that over tasks."""
    mean, rows = stat["mean"], stat["over_rows"]
    return mean is not None and rows is not None and abs(mean - rows) > 1e-9 * max(1, abs(mean))


def _tasks(count: int) -> str:
    return f"{count:,} task{'s' * (count != 1)}"
