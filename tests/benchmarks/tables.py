"""How long a million rows of CSV take to become a data set, and how much memory, beside Python's csv and float.

    python tests/benchmarks/tables.py

Each reading is a process of its own; the table has medians and ratios.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MEASURE = """
import resource, time
begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{code}
used = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - begin, used.ru_utime + used.ru_stime - start, (used.ru_maxrss - before) / 1024)
"""
START = (
    "import resource as r; import numpy as np; {setup}; u = r.getrusage(r.RUSAGE_SELF); start = u.ru_utime + u.ru_stime"
)
OURS = "from metadist_cli.data.sets import DATASETS", "DATASETS['table'](0, path={path!r}, target='y', groups=['who'])"
PLAIN = (
    "import csv",
    "rows = csv.reader(open({path!r}, newline='')); next(rows)\n"
    "x = np.array([[float(cell) for cell in row[1:-1]] for row in rows], dtype=np.float32)",
)


def make(path: Path, rows: int) -> None:
    """A table of names, eight numbers and a class."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("who," + ",".join(f"x{i}" for i in range(8)) + ",y\n")
        for _ in range(rows // 1000):
            parts = [rng.integers(0, 1000, 1000), rng.normal(size=(1000, 8)), rng.integers(0, 5, 1000)]
            np.savetxt(file, np.column_stack(parts), fmt=["u%d", *["%.4f"] * 8, "%d"], delimiter=",")


def measure(path: Path, way: tuple[str, str]) -> tuple[float, ...]:
    """(seconds, seconds of CPU, MiB more at the peak) of one process."""
    code = START.format(setup=way[0]) + MEASURE.format(code=way[1].format(path=str(path)))
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[1], capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        make(path, options.rows)
        size = path.stat().st_size / 1e6
        both = [(measure(path, OURS), measure(path, PLAIN)) for _ in range(options.repeats)]
    ours, plain = ([statistics.median(each) for each in zip(*of, strict=True)] for of in zip(*both, strict=True))
    print(f"{options.rows:,} rows, {size:.0f} MB, medians of {options.repeats}")
    print("| | seconds | CPU | MiB |\n|---|---|---|---|")
    for name, found in (("metadist", ours), ("csv and float", plain)):
        print(f"| {name} | {found[0]:.2f} | {found[1]:.2f} | {found[2]:.0f} |")
    print(f"csv and float / metadist: {plain[0] / ours[0]:.1f} times as long, {plain[1] / ours[1]:.1f} times the CPU")


if __name__ == "__main__":
    main()
