"""Steps of second- and first-order MAML, metadist beside a plain autograd loop and beside the libraries that are there.

    python tests/benchmarks/meta_steps.py                     everything
    python tests/benchmarks/meta_steps.py -w mlp1 omni -v metadist loop --seconds 2 --repeats 1

First metadist's meta-gradient is compared with the loop's, in float64; a difference ends the script. Then every way is
timed in a process of its own, pinned to its cores (the last of those at hand: `taskset -c 2,3` chooses), warmed up, one
after the other and --repeats times round, for machines are not equally fast from minute to minute: a ratio is taken
within a round. A library's meta-gradient must agree too. A single thread counts its CPU time; of several, blocks in
which others used the cores are dropped.
Writes --out and the table between the marks of --readme; --table times nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import meta_jax
from common import machine, put
from meta_table import TITLES, ratios, table
from meta_variants import LIBRARIES, gradient_gap, library_gap, metadist, missing, one_by_one
from meta_workloads import WORKLOADS, half

from metadist_cli.core import files
from metadist_cli.runtime import memory

HERE = Path(__file__).resolve().parent
BLOCK = 0.4  # seconds that are timed at a time, at most a fifth of --seconds
BUSY = 0.05  # a block is dropped where others took so much of its cores' time: the clock of it counts 10 ms
TOLERANCE = 1e-9


class Way(NamedTuple):
    """How a variant is run. lanes: (processes, threads of each), of which the fastest counts in each round."""

    route: str
    lanes: tuple[tuple[int, int], ...]


WAYS = {
    "metadist": Way("metadist", ((1, 1),)),
    "compiled": Way("compiled", ((1, 1), (1, 2), (2, 1))),
    "loop": Way("loop", ((1, 1), (1, 2))),
    "l2l": Way("learn2learn", ((1, 1), (1, 2))),
    "higher": Way("higher", ((1, 1), (1, 2))),
    "jax": Way("jax", ((1, 1), (1, 2))),
    "metadist2": Way("metadist", ((1, 2), (2, 1))),
    "loop2": Way("loop", ((2, 1),)),
}


def busy(cores: Sequence[int]) -> float:
    """Seconds that these cores have worked, for whomever."""
    table = Path("/proc/stat")
    lines = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    ticks = {f[0]: sum(map(int, f[1:9])) - int(f[4]) - int(f[5]) for f in lines if f[0].startswith("cpu")}
    return sum(ticks.get(f"cpu{core}", 0) for core in cores) / os.sysconf("SC_CLK_TCK")


def pin(cores: Sequence[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def child(variant: str, workload: str, processes: int, threads: int, cores: list[int], seconds: float) -> None:
    """Time one variant; prints "ready", waits for a line, prints what it found."""
    pin(cores)
    w = WORKLOADS[workload] if processes == 1 else half(WORKLOADS[workload])
    route = WAYS[variant].route
    if route in LIBRARIES and not (gap := library_gap(route, WORKLOADS[workload])) < TOLERANCE:
        raise SystemExit(f"{workload}: the meta-gradient of {route} is {gap:.0e} from the loop's; it is not timed")
    if route in ("metadist", "compiled"):
        take, units = metadist(w, threads, route == "compiled")
    else:
        take, units = meta_jax.steps(w) if route == "jax" else one_by_one(route, w, threads)
    take(1)
    begin = time.perf_counter()
    take(1)
    n = max(1, min(100, int(min(BLOCK, seconds / 5) / (time.perf_counter() - begin))))
    print("ready", flush=True)
    sys.stdin.readline()
    blocks: list[tuple[float, float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(blocks) < 3:
        all_before, cpu_before, before = busy(cores), time.process_time(), time.perf_counter()
        take(n)
        wall, cpu = time.perf_counter() - before, time.process_time() - cpu_before
        blocks.append((wall * units / n, cpu * units / n, (busy(cores) - all_before - cpu) / wall))
    clean = [wall for wall, _, others in blocks if others < BUSY] or [min(blocks, key=lambda block: block[2])[0]]
    cpu = statistics.median(cpu for _, cpu, _ in blocks)
    found = {
        "ms": 1e3 * (cpu if processes * threads == 1 else statistics.median(clean)),  # alone, whatever it waits for
        "cpu_ms": 1e3 * cpu,
        "blocks": len(blocks),
        "clean": sum(others < BUSY for _, _, others in blocks),
        "peak_mb": memory.peak().get("host", 0) / 1e6,
    }
    print(json.dumps(found))


def measure(
    variant: str, workload: str, processes: int, threads: int, cores: list[int], seconds: float
) -> dict[str, Any]:
    """One sample: the slower of the processes, which begin together."""
    running = []
    for i in range(processes):
        own = cores[i * threads : (i + 1) * threads]
        told = json.dumps([variant, workload, processes, threads, own, seconds])
        running.append(
            subprocess.Popen(
                [sys.executable, __file__, "--child", told],
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in running:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise SystemExit(f"{variant} failed on {workload}")
    for process in running:
        print("go", file=process.stdin, flush=True)
    found = [json.loads(process.communicate()[0]) for process in running]
    return {
        "variant": variant,
        "processes": processes,
        "threads": threads,
        **max(found, key=lambda each: each["ms"]),
        "clean": min(each["clean"] for each in found),
        "peak_mb": sum(each["peak_mb"] for each in found),
    }


def workload_row(name: str, variants: Sequence[str], cores: list[int], seconds: float, repeats: int) -> dict[str, Any]:
    gap = gradient_gap(WORKLOADS[name])
    if not gap < TOLERANCE:
        raise SystemExit(f"{name}: metadist's meta-gradient is {gap:.0e} from the loop's; nothing is timed")
    samples = [
        {"window": window, **measure(variant, name, *lane, cores[-lane[0] * lane[1] :], seconds)}
        for window in range(repeats)
        for variant in variants
        for lane in WAYS[variant].lanes
        if lane[0] * lane[1] <= len(cores) and (variant != "compiled" or WORKLOADS[name].model == "mlp")
    ]
    tasks = WORKLOADS[name].all_tasks
    return {"workload": name, "tasks": tasks, "gradient_gap": gap, "samples": samples, "ratios": ratios(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS])
    parser.add_argument("-v", "--variants", nargs="+", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for a variant in a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of measurement")
    parser.add_argument("--out", type=Path, default=HERE / "meta_steps.json")
    parser.add_argument("--readme", type=Path, help="a Markdown file in which the table is put between its marks")
    parser.add_argument("--table", action="store_true", help="time nothing, write the table of --out")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        child(*told.child)
        return
    if not told.table:
        absent = [v for v in told.variants if missing(WAYS[v].route)]
        variants = [v for v in told.variants if v not in absent]
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
        made = {"machine": machine(), "date": date.today().isoformat(), "seconds": told.seconds}
        pin(cores[-1:])  # the comparison of gradients has one thread
        rows = [workload_row(name, variants, cores, told.seconds, told.repeats) for name in told.workloads]
        used = [WAYS[v].route for v in variants if WAYS[v].route in LIBRARIES]
        made |= {"repeats": told.repeats, "missing": [TITLES[v] for v in absent], "rows": rows}
        made["libraries"] = {route: version(route) for route in used}
        files.write(told.out, files.to_json(made))
    found = json.loads(told.out.read_text())
    if told.readme:
        put(table(found), told.readme, "meta-steps")
    print(table(found), end="")


if __name__ == "__main__":
    main()
