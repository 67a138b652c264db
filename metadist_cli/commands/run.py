"""run: partition, all rounds, finetune; for the main model and for the baselines beside it."""

from __future__ import annotations

from typing import Any

from metadist_cli.commands.finetune import finetune
from metadist_cli.commands.partition import draw, partition
from metadist_cli.commands.train import train
from metadist_cli.config import Config, variants
from metadist_cli.core.console import Console
from metadist_cli.core.errors import Diverged
from metadist_cli.runtime.torchrun import ranks
from metadist_cli.storage import run_directory
from metadist_cli.storage.run_directory import Run


def pipeline(config: Config, run: Run, console: Console) -> dict[str, Any]:
    """Do everything that is not done yet. Interrupted at any moment, the next call resumes to the same bytes."""
    result: dict[str, Any] = {"partition": partition(config, run, console)}
    result["train"] = train(config, run, console, close_last=True)
    result["baselines"] = {}
    for name, variant in variants(config).items():
        result["baselines"][name] = _train_baseline(name, variant, run.baseline(name), console)
    draw(run, console)  # not before the first round, which would wait for it
    return result | {"finetune": finetune(config, run, console)}


def _train_baseline(name: str, config: Config, run: Run, console: Console) -> dict[str, Any]:
    """Train a baseline. One that diverges is noted and does not end the run, except among the ranks of torchrun."""
    run_directory.note_divergence(run, None)
    try:
        return train(config, run, console, close_last=True, label=name)
    except Diverged as problem:
        run_directory.note_divergence(run, problem)
        if ranks() > 1:  # whose messages to each other are out of step now
            raise
        console.warn(f"baseline {name} is left out: {problem.where}: {problem.message}")
        return {"diverged": f"{problem.where}: {problem.message}"}
