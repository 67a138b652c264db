"""Whole commands as they are started from the shell, beside the same work without metadist, or done in another way.

    python tests/benchmarks/launches.py                                   all four, with 10 rounds of omniglot-maml
    python tests/benchmarks/launches.py --only omniglot --rounds 150 --repeats 1
    python tests/benchmarks/launches.py --only start hashes

start: `metadist run tiny`, from the start of the process until round 1 is closed (the time at which its checkpoint got
its name), beside a process that imports torch and takes a first `torch.func.grad`, until it has it.
omniglot: all of `metadist run omniglot-maml` beside all of launches_reference.py, a bare loop with the same settings;
one core, one thread. Judging, both adapt two models to every new task, the trained one and a random one, and answer
its query before and after each step; metadist adapts to the first task once more, for the model that it saves. Both
find the images decoded, metadist in its cache. Nothing is timed unless the loop's meta-gradient is metadist's, in
float64, and no figure is given where one has done more tasks, rows or adaptations than the other, or has more weights.
ranks: omniglot-maml at two nodes of 16 tasks: one process on one core, two ranks of torchrun and two workers on two.
hashes: the last global checkpoint of tiny from one process, workers, ranks, and by hand, with `execution.block=1`; all
cores, no repeats.
What is timed is pinned to the last cores of those at hand (`taskset -c 2,3` chooses), and what is compared takes turns,
--repeats times, starts three times as often. Writes --out and the table between the marks of --readme; --table runs
nothing. Set TMPDIR to choose the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import HERE, machine, put
from launches_commands import hashes, ranks, start
from launches_omniglot import whole, write_images
from launches_table import table

from metadist_cli.core import files
from metadist_cli.core.errors import Problem

NAMES = ("start", "omniglot", "ranks", "hashes")


def absent(only: Sequence[str], cores: Sequence[int], images: Path) -> dict[str, str]:
    """What cannot be measured here, and why; the images are written where they are wanted."""
    wanted = {"omniglot", "ranks"}.intersection(only)
    left_out = {}
    if wanted:
        try:
            write_images(images)
        except Problem:
            left_out = dict.fromkeys(sorted(wanted), "the images of Omniglot are not in METADIST_DATA")
    if len(cores) < 2 and "ranks" in wanted:
        left_out.setdefault("ranks", "one core is not enough")
    return left_out


def measure(only: Sequence[str], cores: Sequence[int], repeats: int, rounds: int) -> dict[str, Any]:
    """The rows of the table, and why some are left out."""
    with TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        makers: dict[str, Callable[[], dict[str, Any]]] = {
            "start": lambda: start(cores, 3 * repeats),  # short, and of unlike lengths
            "omniglot": lambda: whole(cores, repeats, rounds, images),
            "ranks": lambda: ranks(cores, repeats, 1 + min(5, rounds)),
            "hashes": lambda: hashes(cores),
        }
        left_out = absent(only, cores, images)
        rows = []
        for name in (name for name in NAMES if name in only and name not in left_out):
            rows.append(makers[name]())
            print(f"{name}: done", file=sys.stderr)
    return {"repeats": repeats, "rows": rows, "left_out": left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rounds", type=int, default=10, help="of omniglot-maml's 150")
    parser.add_argument("--repeats", type=int, default=3, help="times that everything is measured")
    parser.add_argument("--out", type=Path, default=HERE / "launches.json")
    parser.add_argument("--readme", type=Path, help="a Markdown file in which the table is put between its marks")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table of what is there")
    told = parser.parse_args()
    if min(told.rounds, told.repeats) < 1:
        parser.error("at least 1 round and 1 repeat")
    if not told.table:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
        about = {"machine": machine(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
        files.write(told.out, files.to_json(about | measure(told.only, cores, told.repeats, told.rounds)))
    text = table(json.loads(told.out.read_text()))
    if told.readme:
        put(text, told.readme, "launches")
    print(text, end="")


if __name__ == "__main__":
    main()
