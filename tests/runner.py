"""The command line for tests: in this process, or as a process that can be killed at a chosen moment.

As a script it is `metadist` with faults from the environment:
  FAULT=stage:n:signal   send itself the signal at the n-th write's "temp", "synced" or "renamed"
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = """\
task: {kind: local, support: 5, query: 10, new: {test: 2}}
partition: {name: iid, nodes: 8}
model: {name: mlp, hidden: [16]}
learner: {name: maml, inner_lr: 0.1, inner_steps: 1}
train: {rounds: 3, local_steps: 2, meta_batch: 2}
finetune: {episodes: 6}
execution: {threads: 1}
"""
# Settings of commands: half of the nodes in a round; nodes so few and small that hundreds of runs take a minute.
SAMPLED = "train.nodes_per_round=0.5"
SMALL = (
    "data={name: synthetic, nodes: 4, rows: 24, features: 12}",
    "partition.nodes=4",
    "task.new.test=1",
    "task.support=4",
    "train.rounds=2",
    "finetune.episodes=2",
)


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, which Linux alone has")
# An expression: kB of this process at its peak. getrusage would begin with what the parent had.
MEMORY = "next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))"


class Lab:
    """A folder with tiny.yaml and runs/; commands are given without the options that say so."""

    def __init__(self, folder: Path, text: str = TINY):
        self.folder, self.config, self.runs = folder, folder / "tiny.yaml", folder / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)

    def __call__(self, command: str, *arguments: str, code: int = 0, name: str = "") -> Done:
        """A command in this process, on tiny.yaml; it must end with this code."""
        from typer.testing import CliRunner

        from metadist_cli.cli import app

        result = CliRunner().invoke(app, self.arguments(command, *arguments, name=name))
        done = Done(result.exit_code, result.stdout, result.stderr)
        assert done.code == code, f"{command} {arguments}: {done.code}, not {code}\n{done.out}{done.err}"
        return done

    def arguments(self, command: str, *arguments: str, name: str = "") -> list[str]:
        named = ["--name", name] if name else []
        return [command, str(self.config), *arguments, "--runs-dir", str(self.runs), *named]

    def process(self, command: str, *arguments: str, name: str = "", **environment: str) -> Done:
        """The same in a process of its own."""
        return process(*self.arguments(command, *arguments, name=name), **environment)

    def run(self, name: str = "tiny") -> Path:
        return self.runs / name

    def checkpoint(self, number: int, name: str = "tiny") -> bytes:
        return (self.run(name) / "rounds" / f"{number:04d}" / "global.safetensors").read_bytes()

    def update(self, number: int, node: int, name: str = "tiny") -> Path:
        return self.run(name) / "rounds" / f"{number:04d}" / f"nodes-{node:03d}-{node:03d}.safetensors"

    def trained(self, name: str = "tiny") -> list[int]:
        """The training nodes."""
        return [node["node"] for node in self.shards(name)["nodes"] if node["role"] == "train"]

    def shards(self, name: str = "tiny") -> dict[str, Any]:
        from metadist_cli.core.files import from_json

        return from_json((self.run(name) / "shards" / "manifest.json").read_bytes(), "manifest")


def by_hand(lab: Lab, *settings: str, name: str, rounds: int = 3) -> bytes:
    """The last global checkpoint of partition, then train and aggregate in turn."""
    lab("partition", *settings, name=name)
    for number in range(1, rounds + 1):
        lab("train", *settings, f"train.rounds={number}", name=name)
        lab("aggregate", *settings, f"train.rounds={number}", name=name)
    return lab.checkpoint(rounds, name)


def node_by_node(lab: Lab, *settings: str, name: str, rounds: int = 3) -> bytes:
    """The last global checkpoint where every node is trained by a call of its own, the last node first."""
    lab("partition", *settings, name=name)
    for _ in range(rounds):
        for node in reversed(lab.trained(name)):
            lab("train", *settings, "--nodes", str(node), name=name)
        lab("aggregate", *settings, name=name)
    return lab.checkpoint(rounds, name)


def manifest(table: Sequence[Sequence[int]], roles: str = "", **more: Any) -> dict[str, Any]:
    """A manifest of shards with N x K rows by node and class; roles: t, v or s a node, all t where it is empty."""
    names = {"t": "train", "v": "validation", "s": "test"}
    nodes = [
        {
            "node": i,
            "name": f"node-{i:03d}",
            "role": names[roles[i] if roles else "t"],
            "rows": int(sum(row)),
            "classes": [[k, int(n)] for k, n in enumerate(row) if n],
        }
        for i, row in enumerate(table)
    ]
    return {"classes": [f"c{k}" for k in range(len(table[0]))], "nodes": nodes, **more}


def environment(**extra: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "METADIST_RUNS", "TTY_COMPATIBLE")}
    return {**plain, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", **extra}


def start(*arguments: str, module: bool = False, cwd: Path | None = None, **extra: str) -> subprocess.Popen[str]:
    """metadist as a process: through this script, or through `python -m metadist_cli`."""
    door = ["-m", "metadist_cli"] if module else [__file__]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *door, *arguments], env=environment(**extra), cwd=cwd, **pipes)


def process(*arguments: str, module: bool = False, cwd: Path | None = None, **extra: str) -> Done:
    with start(*arguments, module=module, cwd=cwd, **extra) as running:
        out, err = running.communicate(timeout=300)
    return Done(running.returncode, out, err)


def package_with(folder: Path, more: dict[str, str]) -> None:
    """A copy of the package in a folder, with more entries of registries.

    more: by its path in the package the text of a file. It gets its registry's line, with the import, and nothing else.
    """
    package = folder / "metadist_cli"
    shutil.copytree(ROOT / "metadist_cli", package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in more.items():
        place = package / path
        place.write_text(text)
        name, registry = place.stem, place.with_name("__init__.py")
        imported = f"from {'.'.join(place.relative_to(folder).with_suffix('').parts)} import {name}"
        head, _, rest = registry.read_text().partition("\nfrom metadist_cli")
        assert rest.count("] = {\n") == 1
        rest = rest.replace("] = {\n", f'] = {{\n    "{name}": {name},\n')
        registry.write_text(f"{head}\n{imported}\nfrom metadist_cli{rest}")


def contents(folder: Path, *parts: str) -> dict[str, bytes]:
    """Every file under some parts of a folder, by its path; without leftovers of killed writes."""
    found = {}
    for part in parts or (".",):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def results(run: Path) -> dict[str, bytes]:
    """What no kill may change: shards, global checkpoints, adapted model and report, metrics.json without its times."""
    from metadist_cli.core.files import from_json, to_json

    found = contents(run, "shards", "finetune")
    found |= {k: v for k, v in contents(run, "rounds").items() if k.endswith("global.safetensors")}
    for name in [name for name in found if name.endswith("metrics.json")]:
        metrics = from_json(found[name], name)
        assert metrics.pop("seconds")
        found[name] = to_json(metrics).encode()
    return found


def counted(act: Callable[[int, str], None]) -> Callable[[str], None]:
    """A stand-in for files._stage that tells act(n, stage) where a write is; n counts the writes from 1."""
    count = 0

    def stage(name: str) -> None:
        nonlocal count
        count += name == "temp"
        act(count, name)

    return stage


Step = tuple[str, ...]  # a command and its arguments


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and no temporary file is removed on its way."""


def kill(n: int, stage: str) -> Callable[[str], None]:
    """A files._stage that kills at the n-th write's stage."""

    def act(now: int, there: str) -> None:
        if (now, there) == (n, stage):
            raise Killed

    return counted(act)


def crash(lab: Lab, steps: Sequence[Step], n: int, stage: str) -> bool:
    """Run the steps in turn until the n-th write's stage kills one, then that one again and the rest; was there one?"""
    from metadist_cli.core import files

    left, died, remove = list(steps), False, os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if not Path(path).name.startswith(".tmp-"):
            remove(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_stage", kill(n, stage))
        patch.setattr(os, "unlink", unlink)
        try:
            while left:
                lab(*left[0])
                left.pop(0)
        except Killed:
            died = True
    for step in left:
        lab(*step)
    return died


def _fault(n: int, stage: str) -> None:
    wanted, moment, number = os.environ["FAULT"].split(":")
    if (stage, n) == (wanted, int(moment)):
        os.kill(os.getpid(), int(number))


def _main() -> None:
    from metadist_cli import cli
    from metadist_cli.core import files

    if os.environ.get("FAULT"):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
        files._stage = counted(_fault)
    cli.main()


if __name__ == "__main__":
    _main()
