"""The table of meta_steps.py, and the ratios in it."""

from __future__ import annotations

import statistics
from typing import Any

TITLES = {
    "metadist": "metadist",
    "compiled": "metadist, compiled",
    "metadist2": "metadist, 2 threads or processes",
    "loop": "loop",
    "loop2": "loop, 2 processes",
    "l2l": "learn2learn",
    "higher": "higher",
    "jax": "JAX",
}
EITHER = ("metadist", "metadist2")
ANY = (*EITHER, "compiled")
RATIOS = {  # title: (what took longer, beside what, on how many cores at most)
    "loop / metadist": (("loop",), ("metadist",), 2),
    "loop / compiled": (("loop",), ("compiled",), 2),
    "loop / metadist of 1 or 2": (("loop",), EITHER, 2),
    "2 loops / metadist of 2": (("loop2",), ("metadist2",), 2),
    "learn2learn / metadist": (("l2l",), EITHER, 2),
    "learn2learn / metadist, compiled or not": (("l2l",), ANY, 2),
    "higher / metadist": (("higher",), EITHER, 2),
    "JAX / metadist, compiled or not": (("jax",), ANY, 2),
    "the same on one core": (("jax",), ANY, 1),
}
WANTED = {"mlp1": 2.5, "mlp5": 3.5, "omni": 2.0, "nodes": 7.0}  # times learn2learn; the others: not below the loop
GOALS = {"mlp1": 8.0, "mlp5": 15.0, "omni": 3.4, "omnifo": 2.4, "nodes": 12.0}  # compiled or not
NOTE = """\
A step is one outer step with Adam; for `nodes` it is a round in which 100 nodes make 20 steps of 4 tasks each, with
parameters of their own. The first table has the time of a step, tasks per second, and peak memory (with Python and
torch). The second has ratios: how many times as long the first one took, as the median and range over {repeats} rounds
of measurement. Unless a column says otherwise, both sides use the better of 1 and 2 threads, and metadist may also use
2 processes (`execution.workers=2`), each with half of the tasks or nodes. Wanted and goal are ratios to learn2learn, or
"never slower than the loop". As two processes started by hand, a loop is up to twice as fast, and so may be a library,
which has only threads here; one core shows which code is faster. ~ marks figures where others used the cores all the
time."""


def best(samples: list[dict[str, Any]], *variants: str, cores: int = 2) -> list[dict[str, Any]]:
    """The fastest lane of these variants in each window, of those on at most this many cores."""
    windows: dict[int, list[dict[str, Any]]] = {}
    for sample in samples:
        if sample["variant"] in variants and sample["processes"] * sample["threads"] <= cores:
            windows.setdefault(sample["window"], []).append(sample)
    return [min(lanes, key=lambda s: s["ms"]) for lanes in windows.values()]


def ratios(samples: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, (one, two, cores) in RATIOS.items():
        both = best(samples, *one, cores=cores), best(samples, *two, cores=cores)
        each = [a["ms"] / b["ms"] for a, b in zip(*both, strict=False)]
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


def _ratio(row: dict[str, Any], name: str) -> str:
    if name not in row["ratios"]:
        return "-"
    median, low, high = (row["ratios"][name][key] for key in ("median", "min", "max"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _mark(row: dict[str, Any], name: str, least: float) -> str:
    if name not in row["ratios"]:
        return "not measured"
    return "met" if row["ratios"][name]["median"] >= least else "not met"


def _wanted(row: dict[str, Any]) -> str:
    least = WANTED.get(row["workload"])
    if least is None:
        return f"loop: {_mark(row, 'loop / metadist', 1)}"
    return f"{least:g} x: {_mark(row, 'learn2learn / metadist', least)}"


def _goal(row: dict[str, Any]) -> str:
    least = GOALS.get(row["workload"])
    return "-" if least is None else f"{least:g} x: {_mark(row, 'learn2learn / metadist, compiled or not', least)}"


def table(found: dict[str, Any]) -> str:
    """Markdown: a line a workload of times, one of ratios, and what they mean."""
    rows, there = found["rows"], found["machine"]
    shown = [v for v in TITLES if any(best(row["samples"], v) for row in rows)]
    ratios = [name for name in RATIOS if any(name in row["ratios"] for row in rows)]
    times = [[row["workload"], *(_cell(row, v) for v in shown)] for row in rows]
    factors = [[row["workload"], *(_ratio(row, name) for name in ratios), _wanted(row), _goal(row)] for row in rows]
    parts = [_lines(["workload", *(TITLES[v] for v in shown)], times)]
    parts.append(_lines(["workload", *ratios, "wanted", "goal"], factors))
    absent = f" Not installed: {', '.join(found['missing'])}." if found["missing"] else ""
    parts.append(NOTE.format(repeats=found["repeats"]) + absent)
    place = f"{there['cpu']}, {there['cores']} cores, torch {there['torch']}, Python {there['python']}"
    libraries = "".join(f", {name} {version}" for name, version in found["libraries"].items())
    parts.append(f"{place}{libraries}; {found['date']}, commit {there['commit']}.")
    return "\n\n".join(parts) + "\n"


def _lines(heads: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])
