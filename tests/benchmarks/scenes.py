"""The worked examples of configs/scenes/ over three seeds, and the tables of configs/scenes/README.md.

    python tests/benchmarks/scenes.py                          all scenes
    python tests/benchmarks/scenes.py hospitals finance --jobs 2 --set execution.threads=1

Runs go to runs/scenes/ (--runs-dir) and are kept: what is done is not done again. Writes scenes.json beside this file
and the tables between the marks of --readme; --table trains nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import HERE, arguments, metadist, put

from metadist_cli.core import files
from metadist_cli.evaluation.metrics import METRICS

FOLDER = HERE.parents[1] / "configs" / "scenes"
SEEDS = 3
# A scene that is run several times with each seed; its figures are means over these runs.
EACH = {
    "hospitals": tuple(f"task.new.test=[{name}]" for name in ("cleveland", "hungarian", "switzerland", "va")),
}
# method in metrics.json, when, and what it is
UNTRAINED = ("untrained", "after", "untrained, adapted as the main model")
ALONE = ("local-only", "linear", "nearest", "constant")
MAIN = (("main", "before", "global, not adapted"), ("main", "after", "**global, adapted**"))


def places(scene: str, seed: int, runs: Path) -> dict[str, Path]:
    """The runs of a scene with one seed, by their own override."""
    each = EACH.get(scene, ("",))
    return {told: runs / (f"{scene}-s{seed}" + (f"-{i}" if told else "")) for i, told in enumerate(each)}


def work(scene: str, seed: int, runs: Path, settings: Sequence[str]) -> None:
    for told, place in places(scene, seed, runs).items():
        settled = [f"seed={seed}", *([told] if told else []), *settings]
        metadist("run", str(FOLDER / f"{scene}.yaml"), settled, place.name, runs)


def collect(scene: str, runs: Path) -> dict[str, Any] | None:
    """What the finished seeds of a scene gave, None where there is none: a row a method, a list over seeds a score."""
    seeds = [s for s in range(SEEDS) if all(_path(p).exists() for p in places(scene, s, runs).values())]
    if not seeds:
        return None
    found = [[json.loads(_path(p).read_text()) for p in places(scene, s, runs).values()] for s in seeds]
    one = found[0][0]
    scores = [one["metric"], *one["after"]["metrics"]]
    methods = [*MAIN]
    for name in one["baselines"]:
        methods += [(name, "before", f"{name}, not adapted"), (name, "after", f"{name}, adapted")]
    methods += [(name, "after", f"alone: {name}") for name in ALONE if name in one["local"]] + [UNTRAINED]
    rows = []
    for key, when, label in methods:
        stats = [[_stat(metrics, key, when) for metrics in runs_] for runs_ in found]
        figures = {score: [statistics.fmean(_score(s, score, one) for s in seed) for seed in stats] for score in scores}
        gaps = [s["difference"] for seed in stats for s in seed]
        rows.append({"label": label, "scores": figures, "gaps": gaps if all(gaps) else None})
    seconds = [
        sum(sum(json.loads(line).get("seconds", {}).values()) for line in path.read_text().splitlines())
        for s in seeds
        for place in places(scene, s, runs).values()
        for path in place.rglob("metrics.jsonl")
    ]
    return {
        "scene": scene,
        "learner": one["learner"],
        "model": one["model"],
        "task": one["task_text"],
        "episodes": one["episodes"],
        "steps": one["steps"],
        "seeds": seeds,
        "seconds": round(sum(seconds) / len(seeds)),
        "metric": one["metric"],
        "rows": rows,
    }


def _path(run: Path) -> Path:
    return run / "finetune" / "new" / "metrics.json"


def _stat(metrics: dict[str, Any], key: str, when: str) -> dict[str, Any]:
    if key == "untrained":
        return metrics["untrained"]
    return (metrics if key == "main" else metrics["baselines"].get(key) or metrics["local"][key])[when]


def _score(stat: dict[str, Any], score: str, metrics: dict[str, Any]) -> float:
    """The mean over tasks; of a score that no single task defines, that of all their rows."""
    told = stat if score == metrics["metric"] else stat["metrics"][score]
    value = told["over_rows"] if told["mean"] is None else told["mean"]
    return float("nan") if value is None else value


def table(found: dict[str, Any]) -> str:
    """Markdown of one scene."""
    scores = list(found["rows"][0]["scores"])
    heads = [f"{name} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in scores]
    lines = [f"| {' | '.join(['method', *heads, 'from global, adapted'])} |", "|---" * (len(heads) + 2) + "|"]
    for row in found["rows"]:
        cells = [_cell(row["scores"][score]) for score in scores]
        lines.append(f"| {' | '.join([row['label'], *cells, _verdict(row['gaps'], found['metric'])])} |")
    what = f"{found['learner']}, {found['model']}; {found['task']}, {found['episodes']:,} tasks, {found['steps']} steps"
    spread = f"{len(found['seeds'])} seeds, ± their standard deviation; {found['seconds']:,} s of training a seed"
    command = f"`metadist run scenes/{found['scene']}` (one seed)"
    return "\n".join([f"### {found['scene']}", "", f"{what}; {spread}. {command}", "", *lines, ""])


def _cell(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _verdict(gaps: list[dict[str, Any]] | None, metric: str) -> str:
    """better or worse where the paired interval over nodes or classes leaves 0 out on the same side in every run."""
    if gaps is None:
        return "-"
    if any(g["ci95"] is None for g in gaps):
        return f"{statistics.fmean(g['mean'] for g in gaps):+.3f}, no claim"
    sign = 1 if METRICS[metric].higher_is_better else -1
    sides = {0 if abs(g["mean"]) <= g["ci95"] else (1 if sign * g["mean"] > 0 else -1) for g in gaps}
    word = {1: "better", -1: "worse"}.get(sides.pop(), "not significant") if len(sides) == 1 else "not significant"
    return f"{statistics.fmean(g['mean'] for g in gaps):+.3f}, {word}"


def main() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", choices=[[], *names], help="default: all")
    arguments(parser, "scenes")
    told = parser.parse_args()
    runs = told.runs_dir.resolve()
    if not told.table:
        with ThreadPoolExecutor(told.jobs) as pool:
            todo = [(scene, seed) for scene in told.scenes or names for seed in range(SEEDS)]
            for _ in pool.map(lambda pair: work(pair[0], pair[1], runs, told.set), todo):
                pass
    path = told.out / "scenes.json"
    before = {one["scene"]: one for one in json.loads(path.read_text())["scenes"]} if path.exists() else {}
    found = [one for name in names if (one := collect(name, runs) or before.get(name))]  # runs may be elsewhere
    files.write(path, files.to_json({"scenes": found}))
    text = "\n".join(table(one) for one in found)
    if told.readme:
        put(text, told.readme, "scenes")
    print(text, end="")


if __name__ == "__main__":
    main()
