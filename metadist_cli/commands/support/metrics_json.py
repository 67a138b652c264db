"""metrics.json: every method before and after adaptation, with its difference from the main model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from metadist_cli.commands.support.finetune_outputs import Evaluation, Tasks
from metadist_cli.config import Config
from metadist_cli.config.schema import Episodic
from metadist_cli.evaluation.evaluate import Outcome
from metadist_cli.evaluation.intervals import Sources
from metadist_cli.evaluation.summary import MetricValues, metric_over_rows, metric_per_task, summary, with_difference

FORMAT = 2
FEW = 12  # new nodes, up to which all methods are reported for each node
_STEPS = (("before", 0), ("after", -1))
_ALONE = Sources(None)  # of tasks looked at by themselves, as those of one node
Answers = list[tuple[np.ndarray, np.ndarray]]  # (outputs, y) of each task


class _State(NamedTuple):
    """A method before or after adaptation: the score of every task, and the others by name."""

    main: MetricValues
    others: dict[str, MetricValues]


def metrics_json(evaluation: Evaluation) -> dict[str, Any]:
    """The content of metrics.json; `metadist help files` explains its keys."""
    setting, methods, tasks, outcomes, steps, headline, chosen, texts = evaluation
    config, main, experiment = evaluation.config, methods["main"], setting.experiment
    scored = [task for task in tasks if task.labelled]  # without labels every figure is absent, never a number
    outcomes = {name: parts[: len(scored)] for name, parts in outcomes.items()}
    alike = not isinstance(config.task, Episodic) or tasks[0].plan.query.shape[2] * len(tasks) == 1
    sources = _sources(config, scored)
    names = list(config.finetune.metrics)
    names += [headline] if headline not in (experiment.loss.metric, *names) else []
    states = {name: _states(names, scored, parts, sources, alike) for name, parts in outcomes.items()}
    found = {name: _before_and_after(both, states["main"]) for name, both in states.items()}
    best = states["main"]["after"].main
    per_step = {name: _per_step(parts, best) for name, parts in outcomes.items()}
    few = len(scored) <= FEW
    per_node = [
        _node(names, task, {name: parts[i] for name, parts in outcomes.items()}, alike, few)
        for i, task in enumerate(scored)
    ]
    after = np.array([n["after"] for n in per_node if n["after"] is not None])
    spread = None
    if len(after) > 1:
        spread = {"mean": after.mean(), "sd": after.std(ddof=1), "min": after.min(), "max": after.max()}
    return {
        "format": FORMAT,
        "name": config.name,
        "metric": experiment.loss.metric,
        "headline": headline,
        "learner": experiment.text,
        "model": experiment.model.text,
        "round": main.round,
        "global": main.sha256,
        "seed": config.seed,
        "device": str(setting.device),
        "task_text": _task_text(evaluation),
        "interval": {"over": sources.over, "enough": sources.enough},
        "episodes": sum(task.plan.query.shape[2] for task in tasks),
        "steps": steps,
        "transductive": config.finetune.transductive,
        **found["main"],
        "untrained": found["untrained"]["after"],
        "per_step": per_step["main"],
        "untrained_per_step": per_step["untrained"],
        "baselines": {
            name: {
                "learner": trained.experiment.text,
                "round": trained.round,
                "global": trained.sha256,
                "chosen": chosen[name]._asdict() if name in chosen else None,
                **found[name],
                "per_step": per_step[name],
            }
            for name, trained in methods.items()
            if name not in ("main", "untrained", "local-only")
        },
        "local": {
            name: {
                "text": text,
                "chosen": chosen[name]._asdict() if name in chosen else None,
                "after": found[name]["after"],
                "per_step": per_step[name],
            }
            for name, text in texts.items()
        },
        "per_node": per_node,
        "node_spread": spread and {k: float(v) for k, v in spread.items()},
    }


def _sources(config: Config, tasks: list[Tasks]) -> Sources:
    """Where every task comes from: held-out nodes, or held-out classes; a task by itself from neither."""
    each = [task.plan.query.shape[2] for task in tasks]
    if sum(each) < 2:
        return _ALONE
    nodes = None if config.task.new.from_ == "classes" else np.repeat(np.arange(len(tasks)), each)
    if not isinstance(config.task, Episodic):
        return Sources(nodes)
    way = config.finetune.task.way or config.task.way
    drawn = [task.shard.label[task.plan.support[0, 0]] for task in tasks]  # rows are grouped by class
    return Sources(nodes, np.concatenate([labels[:, :: labels.shape[1] // way] for labels in drawn]))


def _states(
    names: Sequence[str], tasks: list[Tasks], outcomes: list[Outcome], sources: Sources, alike: bool
) -> dict[str, _State]:
    """A method on all tasks."""
    out = {}
    for when, step in _STEPS:
        answers = answers_of(tasks, outcomes, step)
        others = {name: metric_per_task(name, answers, sources, alike) for name in names}
        out[when] = _State(_scores(outcomes, step, sources), others)
    return out


def _scores(outcomes: list[Outcome], step: int, sources: Sources) -> MetricValues:
    values = np.concatenate([np.zeros(0), *(o.score[:, step] for o in outcomes)])
    rows = np.concatenate([np.zeros(0), *(np.full(len(o.score), o.out.shape[1]) for o in outcomes)])
    return MetricValues(values, rows, sources, summary(values, rows, sources)["over_rows"])


def answers_of(tasks: list[Tasks], outcomes: list[Outcome], step: int) -> Answers:
    """Of every task, with the classes as the data set numbers them."""
    found: Answers = []
    for task, outcome in zip(tasks, outcomes, strict=True):
        out: Tensor = outcome.out if step else outcome.first
        outputs, y = out.numpy(), task.truths()
        if task.shard.labels is not None:
            outputs, y = outputs[..., list(task.shard.labels)], np.argsort(task.shard.labels)[y]
        found += zip(outputs, y, strict=True)
    return found


def _before_and_after(mine: dict[str, _State], main: dict[str, _State]) -> dict[str, Any]:
    """{"before", "after"} of a method beside the adapted main model."""
    best = main["after"]
    out = {}
    for when, state in mine.items():
        than = None if state is best else best
        others = {
            name: with_difference(found, than and than.others[name]) | {"undefined": found.undefined}
            for name, found in state.others.items()
        }
        out[when] = with_difference(state.main, than and than.main) | {"metrics": others}
    return out


def _node(names: Sequence[str], task: Tasks, outcomes: dict[str, Outcome], alike: bool, few: bool) -> dict[str, Any]:
    """One new node; with all methods if there are few nodes."""
    mine = outcomes["main"]
    methods = {name: _at_node(names, task, o, mine, alike) for name, o in outcomes.items()} if few else None
    return {
        "node": task.shard.node if task.shard.home is None else task.shard.home,
        "name": task.shard.name,
        "episodes": len(mine.score),
        "before": _or_none(mine.score[:, 0].mean()),
        "after": _or_none(mine.score[:, -1].mean()),
        "methods": methods,
    }


def _at_node(names: Sequence[str], task: Tasks, outcome: Outcome, main: Outcome, alike: bool) -> dict[str, Any]:
    """{"before", "after"} of a method at a node; its further scores are of all of the node's query rows."""
    best = _scores([main], -1, _ALONE)
    out = {}
    for when, step in _STEPS:
        than = None if outcome is main and step else best
        answers = answers_of([task], [outcome], step)
        others = {name: metric_over_rows(name, answers, alike) for name in names}
        out[when] = with_difference(_scores([outcome], step, _ALONE), than) | {"metrics": others}
    return out


def _per_step(outcomes: list[Outcome], best: MetricValues) -> list[dict[str, Any]]:
    score = np.concatenate([o.score for o in outcomes]) if outcomes else np.zeros((0, 1))
    return [{"step": step, **summary(column, best.rows, best.sources)} for step, column in enumerate(score.T)]


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _task_text(evaluation: Evaluation) -> str:
    """What a new task is, and whether its features were scaled by its queries too."""
    config, shard = evaluation.config, evaluation.tasks[0].shard
    text = _sizes_text(config, evaluation.tasks)
    held_out = shard.home is None and shard.node < len(evaluation.setting.manifest["nodes"])  # not a user's own task
    if config.partition.scale == "node" and held_out:
        return f"{text}; features scaled by all rows of the new node, queries included"
    return text


def _sizes_text(config: Config, tasks: Sequence[Tasks]) -> str:
    task = tasks[0]
    if task.shard.home is not None:
        few = config.finetune.task.support
        return f"every node: {'all' if few is None else few} of its training rows, judged on those that it kept back"
    if isinstance(config.task, Episodic):
        other = config.finetune.task
        way, shot = other.way or config.task.way, other.shot or config.task.shot
        return f"{way}-way {shot}-shot, {task.plan.query.shape[-1] // way} query rows a class"
    support, query = (_span(rows) for rows in zip(*(_rows(some) for some in tasks), strict=True))
    return f"local: {support} support rows, {query} query rows"


def _rows(task: Tasks) -> tuple[int, int]:
    return task.plan.support.shape[-1], task.plan.query.shape[-1]


def _span(sizes: Sequence[int]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])
