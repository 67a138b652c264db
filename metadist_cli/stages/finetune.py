"""finetune: the global model adapts to new tasks; the adapted model, its figures and a report are written."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metadist_cli import files, seeds, store, tree
from metadist_cli.adapted import pack_adapted
from metadist_cli.config import Config, fingerprint, sections, variants
from metadist_cli.console import Console
from metadist_cli.episodes import Plan, Pool, gather
from metadist_cli.errors import DATA, Problem
from metadist_cli.evaluation import Outcome, chunk_size, evaluate, summary
from metadist_cli.experiment import Experiment, assemble, new_tasks, row_bytes, start
from metadist_cli.learners.types import last
from metadist_cli.schema import Episodic
from metadist_cli.shards import Shard, pool
from metadist_cli.stages.setting import Setting, command, open_setting
from metadist_cli.stages.train import round_metrics
from metadist_cli.store import TRAINING, Run, basis
from metadist_cli.tree import Params


class Trained(NamedTuple):
    """A model to be judged: its experiment, global parameters, and where they come from."""

    experiment: Experiment
    params: Params
    round: int
    sha256: str


class Tasks(NamedTuple):
    """The new tasks of one shard: E episodes of it. names: of the outputs of episode 0; source: rows' names."""

    shard: Shard
    pool: Pool
    plan: Plan
    names: tuple[str, ...]


def finetune(config: Config, run: Run, console: Console, own: Path | None = None) -> dict[str, Any]:
    """Adapt to the held-out tasks, or to a task of the user's own, and write finetune/<task>/."""
    store.agree(config, run)
    setting = open_setting(config, run, console)
    main = _trained(config, run, setting.experiment)
    if own is not None:
        from metadist_cli.stages.own import finetune_own

        return finetune_own(config, run, console, setting, main, own)
    others = _baselines(config, run, setting, console)
    folder = run.path / "finetune" / "new"
    inputs = _inputs(config, main, others, setting.manifest)
    found = _finished(folder, inputs)
    if found is not None:
        console.say(f"finetune: already done, {folder / 'report.html'}")
        return found
    with command("finetune", config, run, setting.experiment) as result:
        began = time.monotonic()
        tasks = _new_tasks(config, run, setting)
        steps = main.experiment.algorithm.learner.inner_steps if config.finetune.steps is None else config.finetune.steps
        judged = {"main": main, **others}
        judged["scratch"] = main._replace(params=_untrained(main.experiment))
        outcomes: dict[str, list[Outcome]] = {}
        with console.progress("finetune: method", len(judged)) as progress:
            for name, trained in judged.items():
                outcomes[name] = [_judge(trained, task, steps, setting) for task in tasks]
                progress.advance()
        metrics = _metrics(config, setting, judged, outcomes, tasks, steps)
        metrics |= {"inputs": inputs, "seconds": {"evaluate": round(time.monotonic() - began, 3)}}
        write_results(config, run, folder, setting, main, tasks, outcomes["main"], metrics, steps)
        result |= {key: metrics[key] for key in ("metric", "before", "after", "scratch")}
    from metadist_cli.findings import headline

    console.say(headline(metrics))
    console.say(f"finetune: report in {folder / 'report.html'}, figures in metrics.json")
    return metrics


def _trained(config: Config, run: Run, experiment: Experiment) -> Trained:
    """The newest closed round of a run, or the one that finetune.round names."""
    closed = store.last_closed(run)
    number = closed if config.finetune.round is None else config.finetune.round
    if number > closed or closed < 0 or (number == 0 and config.finetune.round is None):
        have = f"round {closed} is the newest" if closed > 0 else "no round is closed yet"
        hint = "train and aggregate first: metadist run does all of it"
        raise Problem(f"there is no global checkpoint to adapt ({have})", str(run.path), hint, DATA)
    params, _, sha256 = store.read_global(run, number, start(experiment)[0])
    return Trained(experiment, params, number, sha256)


def _baselines(config: Config, run: Run, setting: Setting, console: Console) -> dict[str, Trained]:
    """Those baselines that were trained."""
    found = {}
    for name, variant in variants(config).items():
        place = run.baseline(name)
        if store.last_closed(place) < 1:
            console.say(f"finetune: baseline {name} is not trained yet, so it is left out (metadist run trains it)")
            continue
        store.agree(variant, place)
        found[name] = _trained(variant, place, assemble(variant, setting.experiment.spec))
    return found


def _inputs(config: Config, main: Trained, others: dict[str, Trained], manifest: dict[str, Any]) -> str:
    """Hash of everything that the results depend on."""
    settings = {"finetune": sections(config, ["finetune"])["finetune"], "training": basis(config, TRAINING)}
    learners = {name: basis(variant, TRAINING) for name, variant in variants(config).items() if name in others}
    sources = {name: trained.sha256 for name, trained in {"main": main, **others}.items()}
    return fingerprint({**settings, "baselines": learners, "sources": sources, "files": manifest["files"]})


def _finished(folder: Path, inputs: str) -> dict[str, Any] | None:
    """metrics.json of a finished evaluation of exactly these inputs; it is written last."""
    path = folder / "metrics.json"
    if not path.exists():
        return None
    metrics = store.read_json(path, "metrics")
    there = all((folder / name).is_file() for name in metrics.get("files", []))
    return metrics if metrics.get("inputs") == inputs and there else None


def _new_tasks(config: Config, run: Run, setting: Setting) -> list[Tasks]:
    """`episodes` tasks in all, dealt out evenly over the held-out shards."""
    spec = setting.experiment.spec
    shards = store.read_shards(run, setting.manifest, [n["node"] for n in setting.manifest["nodes"] if n["role"] == "test"])
    if not shards:
        raise Problem("nothing is held out to be tested on", "task.new.test", "keep some classes or nodes", DATA)
    episodes = config.finetune.episodes
    tasks = []
    for i, shard in enumerate(shards):
        count = episodes // len(shards) + (i < episodes % len(shards))
        if not count:
            continue
        rows = pool([shard], spec.divide, setting.device)
        sampler, _ = new_tasks(config, spec, len(shard.label), count)
        plan = sampler(rows, "new")
        tasks.append(Tasks(shard, rows, plan, _output_names(config, spec.classes, shard, plan)))
    return tasks


def _output_names(config: Config, classes: tuple[str, ...], shard: Shard, plan: Plan) -> tuple[str, ...]:
    """What the model's outputs stand for in the shard's first task."""
    if shard.target is not None:
        return ()
    if isinstance(config.task, Episodic):
        assert plan.labels is not None
        drawn = shard.label[plan.support[0, 0, 0]]
        return tuple(classes[int(drawn[plan.labels[0] == way][0])] for way in range(int(plan.labels[0].max()) + 1))
    if shard.labels is None:
        return classes
    names = [""] * len(classes)
    for c, own_number in enumerate(shard.labels):
        names[own_number] = classes[c]
    return tuple(names)


def _untrained(experiment: Experiment) -> Params:
    """A random start of the model, another one than training began with."""
    meta, stats, _ = experiment.algorithm.learner.init(seeds.generator(experiment.config.seed, "scratch"))
    return tree.prefixed(meta=meta, stats=stats)


def _judge(trained: Trained, task: Tasks, steps: int, setting: Setting) -> Outcome:
    experiment, config = trained.experiment, setting.experiment.config
    params = {k: v.to(setting.device) for k, v in trained.params.items()}
    wanted = config.finetune
    _, kept = row_bytes(experiment.model, experiment.spec.shape)
    support, query = task.plan.support.shape[-1], task.plan.query.shape[-1]
    return evaluate(
        experiment.algorithm.learner,
        experiment.loss,
        tree.part(params, "meta"),
        tree.part(params, "stats"),
        task.pool,
        task.plan,
        steps,
        wanted.transductive,
        wanted.batch,
        chunk_size(kept, support, query, wanted.transductive),
    )


def _metrics(
    config: Config,
    setting: Setting,
    judged: dict[str, Trained],
    outcomes: dict[str, list[Outcome]],
    tasks: list[Tasks],
    steps: int,
) -> dict[str, Any]:
    """metrics.json; the README says what its keys mean."""
    score = {name: np.concatenate([o.score for o in parts]) for name, parts in outcomes.items()}
    main, experiment = judged["main"], setting.experiment
    per_node = [
        {
            "node": task.shard.node,
            "name": task.shard.name,
            "episodes": len(outcome.score),
            "before": _or_none(outcome.score[:, 0].mean()),
            "after": _or_none(outcome.score[:, -1].mean()),
        }
        for task, outcome in zip(tasks, outcomes["main"], strict=True)
    ]
    after = np.array([n["after"] for n in per_node if n["after"] is not None])
    spread = None
    if len(after) > 1:
        spread = {"mean": after.mean(), "sd": after.std(ddof=1), "min": after.min(), "max": after.max()}
    return {
        "format": 1,
        "name": config.name,
        "task": "new",
        "metric": experiment.loss.metric,
        "learner": experiment.algorithm.learner.text,
        "model": experiment.model.text,
        "round": main.round,
        "global": main.sha256,
        "seed": config.seed,
        "device": str(setting.device),
        "task_text": _task_text(config, tasks[0]),
        "episodes": len(score["main"]),
        "steps": steps,
        "transductive": config.finetune.transductive,
        "before": summary(score["main"][:, 0]),
        "after": summary(score["main"][:, -1]),
        "scratch": summary(score["scratch"][:, -1]),
        "per_step": _per_step(score["main"]),
        "scratch_per_step": _per_step(score["scratch"]),
        "baselines": {
            name: {
                "learner": trained.experiment.algorithm.learner.text,
                "round": trained.round,
                "global": trained.sha256,
                "before": summary(score[name][:, 0]),
                "after": summary(score[name][:, -1]),
                "per_step": _per_step(score[name]),
            }
            for name, trained in judged.items()
            if name not in ("main", "scratch")
        },
        "per_node": per_node,
        "node_spread": spread and {k: float(v) for k, v in spread.items()},
    }


def _per_step(score: np.ndarray) -> list[dict[str, Any]]:
    return [{"step": step, **summary(column)} for step, column in enumerate(score.T)]


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _task_text(config: Config, task: Tasks) -> str:
    support, query = task.plan.support.shape[-1], task.plan.query.shape[-1]
    if isinstance(config.task, Episodic):
        other = config.finetune.task
        way, shot = other.way or config.task.way, other.shot or config.task.shot
        return f"{way}-way {shot}-shot, {query // way} query rows a class"
    return f"local: {support} support rows, {query} query rows, at each held-out node"


def write_results(
    config: Config,
    run: Run,
    folder: Path,
    setting: Setting,
    main: Trained,
    tasks: list[Tasks],
    outcomes: list[Outcome],
    metrics: dict[str, Any],
    steps: int,
) -> None:
    """Everything in finetune/<task>/: models, predictions, report; metrics.json last, it is the commit."""
    from metadist_cli.report import render

    written: dict[str, bytes] = {}
    if config.finetune.save != "none":
        every = config.finetune.save == "all"
        written |= _adapted_models(config, setting, main, tasks, steps, every)
    if config.finetune.predictions:
        written["predictions.csv"] = _predictions(setting.experiment.spec.classes, config, tasks, outcomes)
    rounds = [{"run": "main", **line} for line in round_metrics(run)]
    for name in metrics["baselines"]:
        rounds += [{"run": name, **line} for line in round_metrics(run.baseline(name))]
    title = f"{config.name}: {metrics['learner']}"
    examples = _examples(setting, tasks[0], outcomes[0])
    written |= render(title, metrics, rounds, setting.manifest, examples)
    for name, data in written.items():
        files.write(folder / name, data)
    metrics["files"] = sorted(written)
    files.write(folder / "metrics.json", files.to_json(metrics))


def _adapted_models(
    config: Config, setting: Setting, main: Trained, tasks: list[Tasks], steps: int, every: bool
) -> dict[str, bytes]:
    """adapted.safetensors of episode 0, the one that is pictured; with `every`, of all in adapted/."""
    learner, spec = main.experiment.algorithm.learner, setting.experiment.spec
    params = {k: v.to(setting.device) for k, v in main.params.items()}
    meta, stats = tree.part(params, "meta"), tree.part(params, "stats")
    out: dict[str, bytes] = {}
    number = 0
    for task in tasks if every else tasks[:1]:
        for i in range(task.plan.support.shape[2] if every else 1):
            episode = gather(task.pool, task.plan.support[0, 0, i], task.plan.query[0, 0, i], task.plan.labels)
            seed = torch.tensor(int(task.plan.seeds[0, 0, i]), device=setting.device)
            last_one = last(
                learner.adapt(meta, stats, episode.support_x, episode.support_y, seed, steps, config.finetune.batch)
            )
            one = task.plan._replace(support=task.plan.support[:, :, i : i + 1])
            names = _output_names(config, spec.classes, task.shard, one)
            data = pack_adapted(config, spec, last_one, names, main.sha256)
            if number == 0:
                out["adapted.safetensors"] = data
            if every:
                out[f"adapted/episode-{number:05d}.safetensors"] = data
            number += 1
    return out


def _predictions(
    classes: tuple[str, ...], config: Config, tasks: list[Tasks], outcomes: Iterable[Outcome]
) -> bytes:
    """predictions.csv: one line a query row of every episode, after adaptation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    width = len(tasks[0].names)
    columns = ["label", "prediction", *(f"p{i}" for i in range(width))] if width else ["target", "prediction"]
    writer.writerow(["episode", "node", "row", *columns])
    number = 0
    for task, outcome in zip(tasks, outcomes, strict=True):
        for i, out in enumerate(outcome.out):
            rows = task.plan.query[0, 0, i]
            one = task.plan._replace(support=task.plan.support[:, :, i : i + 1])
            names = _output_names(config, classes, task.shard, one)
            truths = task.pool.y[torch.from_numpy(rows)].cpu() if task.plan.labels is None else task.plan.labels[1]
            for row, truth, line in zip(task.shard.row[rows], truths, _readable(out, names), strict=True):
                label = names[int(truth)] if names else " ".join(repr(float(v)) for v in truth)
                writer.writerow([number, task.shard.node, int(row), label, *line])
            number += 1
    return text.getvalue().encode()


def _readable(out: Tensor, names: tuple[str, ...]) -> list[list[str]]:
    """Prediction and probabilities (or values) of each query row of one episode."""
    if not names:
        return [[" ".join(repr(v) for v in row)] for row in out.tolist()]
    chances = out.softmax(-1)
    return [[names[int(p.argmax())], *(f"{v:.6f}" for v in p.tolist())] for p in chances]


def _examples(setting: Setting, task: Tasks, outcome: Outcome) -> Any:
    """The first episode as the report pictures it."""
    from metadist_cli.report import Examples

    plan, spec = task.plan, setting.experiment.spec
    episode = gather(task.pool, plan.support[0, 0, 0], plan.query[0, 0, 0], plan.labels)
    support_x, support_y, query_x, query_y = (leaf.cpu().numpy() for leaf in episode)
    if spec.kind == "classification":
        kind = "image" if len(spec.shape) == 2 else "vector"
        before, after = outcome.first[0].argmax(-1).numpy(), outcome.out[0].argmax(-1).numpy()
    else:
        kind = "curve" if spec.shape == (1,) else "vector"
        before, after = outcome.first[0][:, 0].numpy(), outcome.out[0][:, 0].numpy()
    return Examples(kind, support_x, support_y, query_x, query_y, before, after, task.names)

