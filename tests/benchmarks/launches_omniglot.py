"""omniglot-maml as a whole: metadist beside the bare loop of launches_reference.py, and that both do the same work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import HERE
from launches_commands import call, checkpoint, lines, metadist
from meta_steps import TOLERANCE
from meta_variants import gradient_gap
from meta_workloads import Workload
from safetensors.numpy import load_file

from metadist_cli import config
from metadist_cli.data.sets.omniglot import omniglot


def write_images(path: Path) -> None:
    """Omniglot's upright drawings as (characters, drawings, height, width); raises Problem where they are not there."""
    data = omniglot(0, turns="none")
    order = data.label.argsort(kind="stable")
    np.save(path, np.asarray(data.x)[order].reshape(len(data.classes), -1, *data.x.shape[1:]))


def loops_work(told: config.Config, images: Path) -> dict[str, Any]:
    """The settings of omniglot-maml that launches_reference.py follows."""
    task, train, learner = told.task, told.train, told.learner
    return {
        "images": str(images),
        "test": task.new.test,
        "nodes": told.partition.nodes,
        **{key: getattr(train, key) for key in ("rounds", "local_steps", "meta_batch")},
        **{key: getattr(task, key) for key in ("way", "shot", "query")},
        "steps": learner.inner_steps,
        "lr": learner.inner_lr,
        "first_order": learner.first_order,
        "outer_lr": train.outer.lr,
        "decay_steps": train.outer.over * train.local_steps,
        "episodes": told.finetune.episodes,
        "new_steps": told.finetune.steps,
    }


def gap(told: config.Config) -> float:
    """How far the loop's meta-gradient is from metadist's, at tasks as omniglot-maml has them."""
    task, learner = told.task, told.learner
    rows = (task.way * task.shot, task.way * task.query)
    inner = (learner.inner_steps, learner.inner_lr, learner.first_order)
    return gradient_gap(Workload("conv4", *rows, told.train.meta_batch, *inner, affine=told.model.affine))


def done(run: Path) -> dict[str, int]:
    """What a run of omniglot-maml has done, by its own files, in the words of launches_reference.py."""
    told, metrics = config.load(run), json.loads((run / "finetune" / "new" / "metrics.json").read_text())
    tasks = sum(line["nodes"] for line in lines(run)) * told.train.local_steps * told.train.meta_batch
    stored = load_file(checkpoint(run, told.train.rounds))
    return {
        "tasks": tasks,
        "rows": tasks * told.task.way * (told.task.shot + told.task.query),
        "adaptations": metrics["episodes"] * (2 + len(metrics["baselines"])),
        "steps": metrics["steps"],
        "weights": sum(w.size for name, w in stored.items() if name.startswith("meta/")),
    }


def same(ours: dict[str, int], loops: dict[str, int]) -> dict[str, int]:
    if ours != loops:
        raise SystemExit(f"metadist and the loop do not do the same work: {ours} and {loops}")
    return ours


def whole(cores: Sequence[int], repeats: int, rounds: int, images: Path) -> dict[str, Any]:
    """omniglot-maml, with as many new tasks as there are rounds of the whole."""
    full = config.load("omniglot-maml")
    episodes = max(1, full.finetune.episodes * rounds // full.train.rounds)
    alone = ("baselines={}", "finetune.tune=false")  # the loop has no baselines
    settings = ("execution.threads=1", f"train.rounds={rounds}", f"finetune.episodes={episodes}", *alone)
    told = config.load("omniglot-maml", settings)
    far = gap(told)
    if not far < TOLERANCE:
        raise SystemExit(f"metadist's meta-gradient is {far:.0e} from the loop's; nothing is timed")
    reference = [str(HERE / "launches_reference.py"), json.dumps(loops_work(told, images))]
    row: dict[str, Any] = {"what": "omniglot", "rounds": rounds, "of": full.train.rounds, "episodes": episodes}
    row |= {"gradient_gap": far, "metadist": [], "loop": [], "cpu": {"metadist": [], "loop": []}}
    for _ in range(repeats):
        with TemporaryDirectory() as runs:
            run = Path(runs) / "omniglot-maml"
            ended = {"loop": call(reference, cores[-1:])}
            ended["metadist"] = metadist("run", run.name, *settings, runs=runs, cores=cores[-1:])
            for way, one in ended.items():
                row[way].append(one.seconds)
                row["cpu"][way].append(one.cpu)
            found = json.loads(ended["loop"].out)
            row["done"] = same(done(run), found["done"])
            metrics = json.loads((run / "finetune" / "new" / "metrics.json").read_text())
        ours = {key: metrics[key]["mean"] for key in found["accuracy"]}
        row["accuracy"] = {"metadist": ours, "loop": found["accuracy"]}
    return row
