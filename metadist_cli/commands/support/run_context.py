"""What every command does first: check the run's manifest and settings, and record the command."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metadist_cli import __version__
from metadist_cli.config import Config
from metadist_cli.core import files
from metadist_cli.core.console import Console
from metadist_cli.experiment import Experiment, assemble
from metadist_cli.runtime import memory
from metadist_cli.runtime.execution import Setting, computed, resolve, settle, threads
from metadist_cli.storage import run_directory, shard_files
from metadist_cli.storage.run_directory import Run


def open_setting(config: Config, run: Run, console: Console, alone: bool = False) -> Setting:
    """The experiment of a run that has shards, with torch set up as the run requires.

    alone: this process works while all others wait.
    """
    manifest = run_directory.shard_manifest(run)
    experiment = assemble(config, shard_files.spec_in(manifest))
    stored, execution = _execution(run, experiment)
    changed = [f"{key} {stored.get(key)} -> {now}" for key, now in execution.items() if now != stored.get(key)]
    if changed:
        console.warn(
            f"execution settings changed since the run began ({', '.join(changed)}); results may differ in the last "
            "bits, or more if precision changed"
        )
    settle(execution["precision"])
    count = threads(config, torch.device(execution["device"]), alone)
    return Setting(computed(experiment, execution), manifest, execution | {"threads": count})


def _execution(run: Run, experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any]]:
    """(execution settings that the run began with, those used now): the stored ones, but for what the config names.

    Before the first round nothing depends on them, so the present ones are the first.
    """
    fresh = resolve(experiment)
    stored = _manifest(run).get("execution", fresh) if run.last_closed() >= 0 else fresh
    products = "torch's default" if stored["device"].startswith("cuda") else "float32"  # tf32 for convolutions
    first = {
        "tasks_at_once": experiment.rows[0],
        "compile": False,
        "precision": products,
        "replay": True,
    }  # as in 0.1.0
    stored = first | stored
    wanted = experiment.config.execution
    settings = ("device", "block", "tasks_at_once", "compile", "precision", "replay")
    named = {key: fresh[key] for key in settings if getattr(wanted, key) != "auto"}
    here = {key: fresh[key] for key in ("capability", "torch")}
    return stored, stored | named | here


def _manifest(run: Run) -> dict[str, Any]:
    path = run.path / "manifest.json"
    return run_directory.read_json(path, "run manifest") if path.exists() else {}


@contextmanager
def command(name: str, config: Config, run: Run, experiment: Experiment) -> Iterator[dict[str, Any]]:
    """Hold the run's lock, write its config, and add an entry with the result to its manifest.

    Yields the entry's result, to be filled in. Raises Problem(RETRY) if another command is running in the run.
    """
    began, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    with files.lock(run.path / ".lock"):
        run_directory.sweep(run)
        run_directory.save_config(config, run)
        stored, now = _execution(run, experiment)
        manifest: dict[str, Any] = (_manifest(run) or _first_manifest(experiment)) | {"execution": stored}
        if manifest != _manifest(run):  # before the work, so that a kill does not lose what decides the last bits
            files.write(run.path / "manifest.json", files.to_json(manifest))
        result: dict[str, Any] = {}
        yield result
        entry = {"command": name, "began": began, "seconds": round(time.monotonic() - clock, 3)}
        entry |= {"peak_memory": memory.peak(), "result": result}
        if now != stored:
            entry["execution"] = now
        manifest["commands"].append(entry)
        files.write(run.path / "manifest.json", files.to_json(manifest))


def _first_manifest(experiment: Experiment) -> dict[str, Any]:
    return {
        "format": 1,
        "seed": experiment.config.seed,
        "learner": experiment.text,
        "model": experiment.model.text,
        "versions": {
            "metadist": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "commit": _commit(),
        },
        "commands": [],
    }


def _commit() -> str | None:
    """The git commit of the code, if it runs from a clone."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return None
    asked = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None
