"""One experiment with several seeds: a run of its own for each, and what they come to together."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metadist_cli.config import Config
from metadist_cli.core import files
from metadist_cli.core.console import Console
from metadist_cli.storage.run_directory import Run, save_config

Once = Callable[[Config, Path], dict[str, Any] | None]


def over_seeds(config: Config, path: Path, once: Once, console: Console, dry_run: bool) -> dict[str, Any] | None:
    """Do a command for every seed, each in a run of its own below `path`.

    Args:
        config: the experiment, with `seeds`.
        path: the folder of the runs.
        once: the command on a config and the folder of its run; None where another process leads.
        console: where to report.
        dry_run: whether nothing is to be written.

    Returns:
        {"seeds": the commands' results by seed}, with "next" of the last, and the summary where new tasks were
        evaluated; None where another process leads.
    """
    assert config.seeds is not None
    found: dict[str, Any] = {}
    for seed in config.seeds:
        console.say(f"seed {seed}")
        result = once(config.model_copy(update={"seed": seed, "seeds": None}), path / f"seed-{seed}")
        if result is None:
            continue
        found[str(seed)] = result
        if not dry_run:
            save_config(config, Run.at(path))  # so that the folder is a config too
    if not found:
        return None
    last = list(found.values())[-1]
    told = {"seeds": found} | ({"next": last["next"]} if "next" in last else {})
    evaluated = {seed: result.get("finetune", result) for seed, result in found.items()}
    if all("per_step" in metrics and metrics["after"]["mean"] is not None for metrics in evaluated.values()):
        told["summary"] = _summary(evaluated)
        folder = path / "finetune" / last.get("finetune", last)["task"]
        files.write(folder / "seeds.json", files.to_json(told["summary"]))
        _show(told["summary"], console)
        console.say(f"finetune: the figures of all seeds are in {folder / 'seeds.json'}")
    return told


def _summary(evaluated: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """By method, adapted, the scores of all seeds, their mean, and their standard deviation."""
    from metadist_cli.report.findings import by_metric, methods

    metric = next(iter(evaluated.values()))["headline"]
    rows: dict[str, list[dict[str, Any]]] = {}
    for metrics in evaluated.values():
        for method in methods(metrics):
            rows.setdefault(method.label, []).append(by_metric(method.after, metrics, metric))
    return {
        "metric": metric,
        "seeds": [int(seed) for seed in evaluated],
        "methods": {
            label: {
                "each": [stat["mean"] for stat in stats],
                "ci95": [stat["ci95"] for stat in stats],
                **_spread([stat["mean"] for stat in stats]),
            }
            for label, stats in rows.items()
            if len(stats) == len(evaluated)
        },
    }


def _spread(values: list[float | None]) -> dict[str, float | None]:
    if any(value is None for value in values):
        return {"mean": None, "sd": None}
    finite = [value for value in values if value is not None]
    return {"mean": statistics.fmean(finite), "sd": statistics.stdev(finite)}


def _show(summary: dict[str, Any], console: Console) -> None:
    from metadist_cli.report.findings import axis, mean_text, value_text

    metric, seeds = summary["metric"], summary["seeds"]
    shown = seeds[:4]
    rows = [
        [
            label,
            mean_text({"mean": found["mean"], "ci95": found["sd"]}, metric),
            *(value_text(value, metric) for value in found["each"][: len(shown)]),
        ]
        for label, found in summary["methods"].items()
    ]
    heads = ["Method", "mean ± sd", *(f"seed {seed}" for seed in shown)]
    console.table(f"{axis(metric).label}: mean and standard deviation over {len(seeds)} seeds.", heads, rows)
