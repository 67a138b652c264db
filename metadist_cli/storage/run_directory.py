"""The run directory: all state of an experiment, as files that appear whole or not at all.

runs/<name>/config.yaml, manifest.json, shards/, rounds/0000/global.safetensors ... A round is closed when its global
checkpoint exists. A command takes over whatever it finds committed; resuming is not a mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from metadist_cli import config as configs
from metadist_cli.config import Config
from metadist_cli.core import files
from metadist_cli.core.errors import Diverged, Problem

PACK = 1000  # nodes a file: one stacked file is 7x cheaper to write and 45x to read than a file a node (measured)
_JSON_MAX = 1 << 30
# What each kind of artefact depends on. Where the data are and how long training takes do not matter.
SHARDS = ("seed", "data", "task", "partition")
TRAINING = (*SHARDS, "model", "learner", "train", "uplink", "aggregate", "pooled")
_FREE = ("data.path", "train.rounds", "train.keep_nodes", "train.node_metrics", "train.early_stopping")


class Run(NamedTuple):
    """A run directory. shards: the folder of its shards (a baseline uses those of its experiment)."""

    path: Path
    shards: Path

    @classmethod
    def at(cls, path: Path) -> Run:
        return cls(path, path / "shards")

    def baseline(self, name: str) -> Run:
        return Run(self.path / "baselines" / name, self.shards)

    def round(self, number: int) -> Path:
        return self.path / "rounds" / f"{number:04d}"

    def checkpoint(self, number: int) -> Path:
        return self.round(number) / "global.safetensors"

    def last_closed(self) -> int:
        """The newest closed round, -1 if not even round 0 exists. Older ones may be missing."""
        names = (path.parent.name for path in self.path.glob("rounds/[0-9]*/global.safetensors"))
        return max((int(name) for name in names if name.isdecimal()), default=-1)


def basis(config: Config, names: Sequence[str]) -> dict[str, Any]:
    """The settings that an artefact depends on, as plain values."""
    present = configs.sections(config, names)
    free = [key for key in _FREE if (parts := key.split("."))[0] in present and parts[1] in present[parts[0]]]
    return configs.sections(config, names, free)


def agree(config: Config, run: Run) -> None:
    """Raises Problem if what the run has so far was made with different settings."""
    changes: list[tuple[str, Any, Any]] = []
    if (run.shards / "manifest.json").exists():
        changes = configs.difference(_filled(shard_manifest(run)["basis"], config), basis(config, SHARDS))
    if run.last_closed() >= 0:
        saved = configs.load(run.path / "config.yaml")
        changes += [c for c in configs.difference(basis(saved, TRAINING), basis(config, TRAINING)) if c not in changes]
    if changes:
        shown = "; ".join(f"{key}: {was}, now {now}" for key, was, now in changes[:6])
        more = f" and {len(changes) - 6} more" if len(changes) > 6 else ""
        raise Problem(
            f"the run in this folder used different settings ({shown}{more})",
            str(run.path),
            "choose another --name, use --restart (which keeps the old run under another name), or set them back",
        )


def _filled(saved: dict[str, Any], config: Config) -> dict[str, Any]:
    """A partition's settings, with the defaults of keys that did not exist when it was made."""
    if not isinstance(saved, dict):
        raise Problem("the partition manifest lacks its settings", "shards/manifest.json", "use --restart")
    if not saved.keys() >= set(SHARDS):
        return saved
    try:
        return basis(Config.model_validate(config.resolved() | saved), SHARDS)
    except ValidationError:
        return saved


def reached(config: Config, run: Run) -> Config:
    """The config with `train.rounds` no lower than the rounds that are closed: a run has no way back.

    Args:
        config: the experiment as asked for.
        run: its run directory, which need not exist.
    """
    own = {
        name: baseline if baseline.train is None else _reached(baseline, run.baseline(name))
        for name, baseline in config.baselines.items()
    }
    return _reached(config, run).model_copy(update={"baselines": own})


def _reached(config: Any, run: Run) -> Any:
    rounds = max(config.train.rounds, run.last_closed())
    return config.model_copy(update={"train": config.train.model_copy(update={"rounds": rounds})})


def save_config(config: Config, run: Run) -> None:
    """Write config.yaml, resolved and re-runnable as it is."""
    text = configs.to_yaml(config)
    path = run.path / "config.yaml"
    if not path.exists() or files.read(path, _JSON_MAX, "config").decode() != text:
        files.write(path, text)


def rounds_asked(run: Run) -> int | None:
    """train.rounds of the last command in this run; None before the first."""
    path = run.path / "config.yaml"
    return configs.load(path).train.rounds if path.exists() else None


def note_divergence(run: Run, problem: Diverged | None) -> None:
    """Write down that a baseline's training diverged; None: that it has not."""
    path = run.path / "diverged.json"
    if problem is None:
        path.unlink(missing_ok=True)
    else:
        files.write(path, files.to_json({"message": f"{problem.where}: {problem.message}"}))


def divergence(run: Run) -> str | None:
    """How a baseline's training diverged; None where it did not."""
    path = run.path / "diverged.json"
    return str(read_json(path, "note")["message"]) if path.exists() else None


def read_json(path: Path, what: str) -> Any:
    return files.from_json(files.read(path, _JSON_MAX, what), str(path))


def archive(run: Run) -> Path | None:
    """--restart: move the old run aside; returns its new path. Raises Problem(RETRY) if a command is running in it."""
    if not run.path.exists():
        return None
    number = 1
    while (target := run.path.with_name(f"{run.path.name}.old-{number}")).exists():
        number += 1
    with files.lock(run.path / ".lock"):
        run.path.rename(target)
    return target


def sweep(run: Run) -> None:
    """Remove what killed writes left behind, except in the open round, where other processes may be writing.

    Call it with the run's lock held.
    """
    rounds = [run.round(number) for number in range(run.last_closed() + 1)]
    for folder in (run.path, run.path / "shards", *rounds):
        for temp in folder.glob(".tmp-*"):
            temp.unlink(missing_ok=True)
    for temp in (run.path / "finetune").rglob(".tmp-*"):
        temp.unlink(missing_ok=True)


def frozen_inputs(run: Run, number: int) -> dict[str, Any] | None:
    """inputs.json of a round that `aggregate` has begun to close: {files: {name: sha256}, dropped: [node], ...}."""
    path = run.round(number) / "inputs.json"
    return read_json(path, "frozen inputs") if path.exists() else None


def dropped_nodes(run: Run, number: int) -> set[int]:
    """The nodes without which `aggregate` closes a round."""
    return set((frozen_inputs(run, number) or {"dropped": []})["dropped"])


def shard_manifest(run: Run) -> dict[str, Any]:
    """The partition manifest; do not change it. Raises Problem(DATA) if it is missing."""
    path = run.shards / "manifest.json"
    if not path.exists():
        raise Problem(
            "this run has no shards yet",
            str(run.shards),
            "first run `metadist partition` with the same config and --name",
        )
    now = path.stat()
    return _shard_manifest(path, (now.st_ino, now.st_size, now.st_mtime_ns))


@lru_cache(maxsize=1)
def _shard_manifest(path: Path, state: tuple[int, int, int]) -> dict[str, Any]:
    """A run asks seven times for it, and that of 100,000 nodes takes seconds to read."""
    return read_json(path, "partition manifest")
