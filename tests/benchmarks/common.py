"""What the benchmark scripts share: calls of metadist, where they ran, and how a table gets into a Markdown file."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from metadist_cli.core import files

HERE = Path(__file__).resolve().parent


def arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """The options of a script that has kept runs, which go to runs/<name>, and puts its tables into a README."""
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for every run")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs") / name)
    parser.add_argument("--out", type=Path, default=HERE, help=f"folder of {name}.json")
    parser.add_argument("--readme", type=Path, help="a Markdown file in which the tables are put between their marks")
    parser.add_argument("--table", action="store_true", help="train nothing, write the tables of what is there")


def metadist(command: str, config: str, settings: Sequence[str], name: str, runs: Path) -> None:
    """A command of metadist from this clone, on a run of this name."""
    called = [sys.executable, "-m", "metadist_cli", command, config, *settings, "--name", name]
    subprocess.run([*called, "--runs-dir", str(runs), "-q"], check=True, cwd=HERE.parents[1])


def put(text: str, path: Path, name: str) -> None:
    """Put a text between the two marks of this name of a Markdown file."""
    head, begin, rest = path.read_text().partition(f"<!-- {name} -->\n\n")
    files.write(path, head + begin + text + "\n" + rest[rest.index(f"<!-- end of {name} -->") :])


def machine() -> dict[str, Any]:
    """Where figures are made, and from which state of the code."""
    asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": _cpu(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit or None,
    }


def _cpu() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(named, platform.processor() or platform.machine())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
