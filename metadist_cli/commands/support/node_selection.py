"""Commands that wait for others, the part of a job in an array of jobs, and nodes that a round asks for in vain."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

from metadist_cli.config import Config
from metadist_cli.core.console import Console
from metadist_cli.core.errors import RETRY, USAGE, Problem

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PAUSE, _LONGEST = 2.0, 30.0  # seconds between looks, each of which reads all that is there
_MANY = 1_000_000


def patiently(work: Callable[[bool], dict[str, Any]], wait: str | None, console: Console) -> dict[str, Any]:
    """Repeat work(last) while it raises Problem(RETRY), for as long as `wait` says; last: time is up."""
    began = time.monotonic()
    end = began + (seconds(wait) if wait else 0)
    last_message = ""
    while (left := end - time.monotonic()) > 0:
        try:
            return work(False)
        except Problem as problem:
            if problem.code != RETRY:
                raise
            if problem.message != last_message:  # once for each thing to wait for
                console.say(f"waiting: {problem.message}")
                last_message = problem.message
        time.sleep(min(max(_PAUSE, (time.monotonic() - began) / 10), _LONGEST, left))
    return work(True)


def seconds(text: str) -> float:
    """Of "90s", "30m", "2h" or "1d". Raises Problem(USAGE)."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not found:
        raise Problem(f"{text!r} is not a valid duration", "--wait", "use for example 90s, 30m, 2h or 1d", USAGE)
    return int(found[1]) * _UNITS[found[2]]


def warn_of_few_nodes(config: Config, nodes: int, console: Console) -> None:
    """Warn where a round asks for more nodes than train. nodes: that train."""
    asked = config.train.nodes_per_round
    if isinstance(asked, int) and asked > nodes and not config.pooled:
        console.warn(f"train.nodes_per_round is {asked}, but only {nodes} nodes train: every round has {nodes}")


def which_nodes(text: str) -> Callable[[list[int]], list[int]]:
    """What `--nodes` names, as a function of all training nodes.

    "0-3,7": numbers. "2/8": part 2 of 8 equal parts of the training nodes, parts counted from 0. "slurm": the part of
    this task in a Slurm array, (SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) / SLURM_ARRAY_TASK_STEP of
    SLURM_ARRAY_TASK_COUNT. Raises Problem(USAGE).
    """
    if text == "slurm":
        part, parts = _slurm()
    elif found := re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text):
        part, parts = int(found[1]), int(found[2])
    else:
        numbers = _numbers(text)
        return lambda nodes: numbers
    if part >= parts:
        hint = f"the last of {parts:,} parts is {parts - 1}/{parts}" if parts else "use for example 0/8"
        raise Problem(f"{part}/{parts} is not a valid part", "--nodes", hint, USAGE)
    return lambda nodes: nodes[part * len(nodes) // parts : (part + 1) * len(nodes) // parts]


def _slurm() -> tuple[int, int]:
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "STEP", "COUNT")]
    values = [os.environ.get(name, "1" if name.endswith("STEP") else "") for name in names]
    for name, value in zip(names, values, strict=True):
        if not value.isdecimal() or (name.endswith(("STEP", "COUNT")) and int(value) == 0):
            hint = "sbatch --array sets it in its jobs; elsewhere use --nodes 0/8, or 0-3,7"
            raise Problem(f"slurm, but {name} is {value or 'not set'}", "--nodes", hint, USAGE)
    task, first, step, count = map(int, values)
    return (task - first) // step, count


def _numbers(text: str) -> list[int]:
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,7})(?:-([0-9]{1,7}))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            hint = "use for example 3, 0-9,12, 0/8 or slurm"
            raise Problem(f"{part!r} is not a node or a range of nodes", "--nodes", hint, USAGE)
        if int(match[2] or match[1]) - int(match[1]) >= _MANY:
            raise Problem(f"{part!r} is more than a million nodes", "--nodes", "name nodes of this run", USAGE)
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)
