"""The table of launches.py, and what in it is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from operator import sub, truediv
from typing import Any, NamedTuple

LATER = 1.5  # seconds more than the bare script may pass
TIMES = 1.2  # of the bare loop's time
FASTER = 1.6  # with two processes
OMNIGLOT = """\
omniglot-maml: {rounds} of the config's {of} rounds and {episodes} new tasks, in proportion, so that training and
evaluation weigh as much as in the whole run; {fixed}.
Both used {tasks:,} tasks of {each} rows to train {weights:,} weights, and adapted {adaptations:,} times by {steps}
steps; metadist's meta-gradient is {gap:.0e} from the loop's. Accuracy before, after, and from a random start: {ours}
(metadist), {loops} (the loop, which draws its own tasks)."""
SHORT = "one-time work (imports, partition, report) weighs {times:g} times as much"


class Line(NamedTuple):
    what: str
    figure: str
    wanted: str
    met: bool


def _range(each: Sequence[float]) -> str:
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def _seconds(each: Sequence[float]) -> str:
    return f"{statistics.median(each):,.2f} s"


def _pairs(of: Callable[[float, float], float], one: Sequence[float], two: Sequence[float]) -> list[float]:
    """What is compared within a repeat."""
    return [of(*pair) for pair in zip(one, two, strict=True)]


def start(row: dict[str, Any]) -> list[Line]:
    more = _pairs(sub, row["metadist"], row["bare"])
    what = "`metadist run tiny` to the end of round 1, beside `import torch` and a first `torch.func.grad`"
    figure = f"**{_range(more)} s more**: {_seconds(row['metadist'])}, {_seconds(row['bare'])}"
    return [Line(what, figure, f"at most {LATER} s more", statistics.median(more) <= LATER)]


def omniglot(row: dict[str, Any]) -> list[Line]:
    times = _pairs(truediv, row["metadist"], row["loop"])
    what = f"`metadist run omniglot-maml`, {row['rounds']} rounds, beside a bare loop, one core"
    cpu = statistics.median(_pairs(truediv, row["cpu"]["metadist"], row["cpu"]["loop"]))
    figure = f"**{_range(times)} x**: {_seconds(row['metadist'])}, {_seconds(row['loop'])}; CPU time {cpu:.2f} x"
    return [Line(what, figure, f"at most {TIMES} x", statistics.median(times) <= TIMES)]


def ranks(row: dict[str, Any]) -> list[Line]:
    found = []
    for way, name in (("torchrun", "2 ranks of torchrun"), ("workers", "`execution.workers=2`")):
        times = _pairs(truediv, row["alone"], row[way])
        what = f"a round of omniglot-maml at 2 nodes of 16 tasks: {name} on 2 cores, beside 1 process on one"
        figure = f"**{_range(times)} x as fast**: {_seconds(row[way])}, {_seconds(row['alone'])}"
        found.append(Line(what, figure, f"at least {FASTER} x", statistics.median(times) >= FASTER))
    return found


def hashes(row: dict[str, Any]) -> list[Line]:
    told = ", ".join(f"{way} `{sha256[:12]}`" for way, sha256 in row["found"].items())
    return [
        Line("SHA-256 of tiny's last global checkpoint", told, "all the same", len(set(row["found"].values())) == 1)
    ]


LINES = {"start": start, "omniglot": omniglot, "ranks": ranks, "hashes": hashes}


def _note(row: dict[str, Any]) -> str:
    """What the line on omniglot-maml stands for."""
    done, times = row["done"], row["of"] / row["rounds"]
    score = {
        who: ", ".join(f"{100 * found[when]:.0f}%" for when in ("before", "after", "untrained"))
        for who, found in row["accuracy"].items()
    }
    fixed = SHORT.format(times=times) if times > 1 else "it is the whole"
    told = {key: done[key] for key in ("tasks", "weights", "adaptations", "steps")}
    told |= {key: row[key] for key in ("rounds", "of", "episodes")}
    told |= {"each": done["rows"] // done["tasks"], "ours": score["metadist"], "loops": score["loop"]}
    return OMNIGLOT.format(**told, fixed=fixed, gap=row["gradient_gap"])


def table(found: dict[str, Any]) -> str:
    """Markdown, and below it where it was made and what it leaves out."""
    here = found["machine"]
    shown = [line for row in found["rows"] for line in LINES[row["what"]](row)]
    rows = [f"| {line.what} | {line.figure} | {line.wanted} | {'met' if line.met else 'not met'} |" for line in shown]
    notes = [_note(row) for row in found["rows"] if row["what"] == "omniglot"]
    notes += [f"Left out: {what}, for {why}." for what, why in found["left_out"].items()]
    place = f"{here['cpu']}, {here['cores']} cores at hand, torch {here['torch']}, Python {here['python']}"
    told = f"medians and ranges, repeats: {found['repeats']} (start: {3 * found['repeats']}), one thread a process"
    where = f"{place}; {found['date']}, metadist at {here['commit']}; {told}."
    return "\n\n".join(["\n".join(["| what | figure | wanted | |", "|---|---|---|---|", *rows]), *notes, where]) + "\n"
