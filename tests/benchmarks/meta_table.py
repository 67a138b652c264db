"""The table of meta_steps.py, and the ratios in it."""

from __future__ import annotations

import statistics
from typing import Any

TITLES = {
    "metadist": "metadist",
    "compiled": "metadist, compiled",
    "loop": "loop",
    "l2l": "learn2learn",
    "higher": "higher",
    "metadist2": "metadist, 2 threads",
    "loop2": "loop, 2 processes",
}
EITHER = ("metadist", "metadist2")
RATIOS = {
    "loop/metadist": (("loop",), ("metadist",)),
    "loop/compiled": (("loop",), ("compiled",)),
    "loop/best": (("loop",), EITHER),
    "loop2/metadist2": (("loop2",), ("metadist2",)),
    "l2l/best": (("l2l",), EITHER),
}
HEADS = ["loop / metadist", "loop / compiled", "loop / metadist of 1 or 2 threads", "2 loops / metadist of 2 threads"]
# how much longer learn2learn took than the loop: measured once, where it could be installed
L2L_OF_LOOP = {"mlp1": 1.3, "mlp5": 1.7, "omni": 1.0, "nodes": 1.25}
WANTED = {"mlp1": 2.5, "mlp5": 3.5, "omni": 2.0, "nodes": 7.0}  # times learn2learn; the others: not below the loop
NOTE = """\
A step is one outer step with Adam; of `nodes` it is a round: 100 nodes take 20 steps of 4 tasks each with parameters of
their own. Cells: time of a step, tasks a second, memory at its peak (with Python and torch). Ratios: how many times as
long the first took, median and range over {repeats} rounds of measurement, the loop with the better of 1 and 2 threads,
metadist with one but where it says otherwise. Wanted is, on two cores, a ratio of both at their better number of
threads; run as two processes, on halves of the tasks, a loop (and so learn2learn) gains up to twofold.
~ stands where others used the cores all the time."""
ESTIMATE = """
The ratio to learn2learn is an estimate: that of the loop to metadist of 1 or 2 threads, times what learn2learn 0.2.1
took longer than such a loop in an earlier measurement with torch 2.13 on two pinned cores of an AMD EPYC (Zen 4): 1.3
on mlp1, 1.7 on mlp5, 1.0 on omni, 1.25 on nodes."""


def best(samples: list[dict[str, Any]], *variants: str) -> list[dict[str, Any]]:
    """The fastest lane of these variants in each window."""
    windows: dict[int, list[dict[str, Any]]] = {}
    for sample in (s for s in samples if s["variant"] in variants):
        windows.setdefault(sample["window"], []).append(sample)
    return [min(lanes, key=lambda s: s["ms"]) for lanes in windows.values()]


def ratios(samples: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, (one, two) in RATIOS.items():
        each = [a["ms"] / b["ms"] for a, b in zip(best(samples, *one), best(samples, *two), strict=False)]
        if each:
            found[name] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return found


def _cell(row: dict[str, Any], variant: str) -> str:
    some = best(row["samples"], variant)
    if not some:
        return "-"
    ms, mb = (statistics.median(s[key] for s in some) for key in ("ms", "peak_mb"))
    crowded = "~" if any(s["processes"] * s["threads"] > 1 and not s["clean"] for s in some) else ""
    return f"{crowded}{ms:,.1f} ms, {1e3 * row['tasks'] / ms:,.0f}/s, {mb:.0f} MB"


def _ratio(row: dict[str, Any], name: str, times: float = 1.0) -> str:
    if name not in row["ratios"]:
        return "-"
    median, low, high = (times * row["ratios"][name][key] for key in ("median", "min", "max"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _wanted(row: dict[str, Any]) -> str:
    name, ratios = row["workload"], row["ratios"]
    if name not in WANTED:
        met = ratios.get("loop/metadist", {"median": 0.0})["median"] >= 1
        return f"never slower than the loop: {'met' if met else 'not met'}"
    if "l2l/best" in ratios:
        ratio = ratios["l2l/best"]["median"]
    else:
        ratio = ratios.get("loop/best", {"median": 0.0})["median"] * L2L_OF_LOOP[name]
    return f"{WANTED[name]:g} x learn2learn: {'met' if ratio >= WANTED[name] else 'not met'}"


def table(found: dict[str, Any]) -> str:
    """Markdown, a line a workload, and what the columns mean."""
    rows, there = found["rows"], found["machine"]
    shown = [v for v in TITLES if any(best(row["samples"], v) for row in rows)]
    measured = "l2l" in shown
    heads = ["workload", *(TITLES[v] for v in shown), *HEADS, "learn2learn / metadist", "wanted"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        name = row["workload"]
        l2l = _ratio(row, "l2l/best") if measured else "-"
        if not measured and name in L2L_OF_LOOP and "loop/best" in row["ratios"]:
            l2l = "about " + _ratio(row, "loop/best", L2L_OF_LOOP[name]).partition(" ")[0]
        factors = (_ratio(row, pair) for pair in list(RATIOS)[: len(HEADS)])
        cells = [name, *(_cell(row, v) for v in shown), *factors]
        lines.append(f"| {' | '.join([*cells, l2l, _wanted(row)])} |")
    note = NOTE.format(repeats=found["repeats"]) + ("" if measured else ESTIMATE)
    note += f"\nNot installed: {', '.join(found['missing'])}." if found["missing"] else ""
    place = f"{there['cpu']}, {there['cores']} cores, torch {there['torch']}, Python {there['python']}"
    return "\n".join([*lines, "", note, "", f"{place}, {found['date']}, commit {there['commit']}."]) + "\n"
