"""What launches.py starts: a first round, ranks and workers, and the same checkpoint made in six ways."""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from common import HERE
from meta_steps import pin

from metadist_cli import config
from metadist_cli.core import files

BARE = "import torch, time; torch.func.grad(lambda x: (x * x).sum())(torch.ones(2)); print(time.time())"
ONE = "execution.block=1"
TWO_NODES = ("partition.nodes=2", "train.meta_batch=16", "train.local_steps=5", "finetune.episodes=1")
TWO_NODES += ("baselines={}", "finetune.tune=false")
PARTS = 3  # in which tiny's nodes are trained by hand


class Ended(NamedTuple):
    """A process that has ended well. began: by the clock of files; cpu: seconds of all its processes."""

    began: float
    seconds: float
    cpu: float
    out: str


def call(command: Sequence[str], cores: Sequence[int]) -> Ended:
    """Run a process to its end on these cores, with one thread."""
    pin(cores)
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"} | {"OMP_NUM_THREADS": "1"}
    began, clock, cpu = time.time(), time.perf_counter(), childrens_cpu()
    called = [sys.executable, *command]
    done = subprocess.run(called, cwd=HERE.parents[1], env=plain, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    return Ended(began, time.perf_counter() - clock, childrens_cpu() - cpu, done.stdout)


def childrens_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def metadist(command: str, name: str, *arguments: str, runs: str, cores: Sequence[int], ranks: int = 0) -> Ended:
    """A command of metadist on a run of a shipped config; with ranks: of torchrun."""
    door = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
    return call([*door, "-m", "metadist_cli", command, name, *arguments, "--runs-dir", runs], cores)


def checkpoint(run: Path, number: int) -> Path:
    return run / "rounds" / f"{number:04d}" / "global.safetensors"


def lines(run: Path) -> list[dict[str, Any]]:
    """What a run notes of its rounds."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def start(cores: Sequence[int], repeats: int) -> dict[str, Any]:
    ours, bare = [], []
    for _ in range(repeats):
        done = call(["-c", BARE], cores[-1:])
        bare.append(float(done.out) - done.began)  # not to its end: taking torch down takes a second
        with TemporaryDirectory() as runs:
            began = metadist("run", "tiny", runs=runs, cores=cores[-1:]).began
            ours.append(checkpoint(Path(runs) / "tiny", 1).stat().st_ctime - began)
    return {"what": "start", "metadist": ours, "bare": bare}


def ranks(cores: Sequence[int], repeats: int, rounds: int) -> dict[str, Any]:
    """Seconds of a round, the median without the first."""
    settings = (*TWO_NODES, ONE, "execution.threads=1", f"train.rounds={rounds}")
    ways: dict[str, tuple[tuple[str, ...], int, int]] = {
        "alone": ((), 0, 1),
        "torchrun": ((), 2, 2),
        "workers": (("execution.workers=2",), 0, 2),
    }
    row: dict[str, Any] = {"what": "ranks", "rounds": rounds, **{way: [] for way in ways}}
    for _ in range(repeats):
        for way, (more, count, used) in ways.items():
            with TemporaryDirectory() as runs:
                told = {"runs": runs, "cores": cores[-used:], "ranks": count}
                metadist("run", "omniglot-maml", *settings, *more, **told)
                noted = lines(Path(runs) / "omniglot-maml")
                row[way].append(statistics.median(sum(line["seconds"].values()) for line in noted[1:]))
    return row


def by_hand(told: dict[str, Any], rounds: int) -> None:
    """tiny's nodes in parts, in another order each round."""
    metadist("partition", "tiny", ONE, **told)
    shuffle = random.Random(0)
    for _ in range(rounds):
        for part in shuffle.sample(range(PARTS), PARTS):
            metadist("train", "tiny", ONE, "--nodes", f"{part}/{PARTS}", **told)
        metadist("aggregate", "tiny", ONE, **told)


def hashes(cores: Sequence[int]) -> dict[str, Any]:
    """SHA-256 of the last global checkpoint, by the way in which it was made."""
    rounds = config.load("tiny").train.rounds
    ways = {"plain": ((), 0), "2 workers": (("execution.workers=2",), 0)}
    ways |= {f"torchrun {n}": ((), n) for n in (1, 2, 4)}
    found = {}
    for way, (more, count) in {**ways, "by hand": ((), 0)}.items():
        with TemporaryDirectory() as runs:
            told = {"runs": runs, "cores": cores}
            if way == "by hand":
                by_hand(told, rounds)
            else:
                metadist("run", "tiny", ONE, *more, ranks=count, **told)
            found[way] = files.sha256(checkpoint(Path(runs) / "tiny", rounds).read_bytes())
    return {"what": "hashes", "found": found}
