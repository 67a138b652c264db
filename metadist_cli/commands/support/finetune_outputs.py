"""What finetune leaves behind: adapted models, predictions, pictures and the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metadist_cli.commands.support.round_log import round_metrics
from metadist_cli.config import Config
from metadist_cli.config.schema import Episodic
from metadist_cli.core import files
from metadist_cli.core.tree import Params
from metadist_cli.data.preprocessing import Preprocessing
from metadist_cli.data.standardise import moments
from metadist_cli.evaluation.evaluate import Outcome
from metadist_cli.experiment import Experiment
from metadist_cli.learners.types import last
from metadist_cli.partition.shards import Shard
from metadist_cli.runtime.execution import Setting
from metadist_cli.storage.adapted_model import pack_adapted, probabilities, unpack_adapted
from metadist_cli.storage.run_directory import Run
from metadist_cli.tasks.episodes import Pool, TaskIndices
from metadist_cli.tasks.gathering import gather, stored


class Trained(NamedTuple):
    """A model to evaluate: its experiment, global parameters, and where they come from.

    own: what a node has before its first round; owns: what nodes kept from their last round. selection: by what the
    round was chosen, for metrics.json.
    """

    experiment: Experiment
    params: Params
    round: int
    sha256: str
    own: Params
    owns: dict[int, Params]
    selection: dict[str, Any] | None = None

    def model(self, task: Tasks, device: torch.device) -> tuple[Params, Params]:
        """(meta, stats) that a task starts from; for rows that a node held out, with what that node keeps."""
        home = task.shard.home
        own = self.own if home is None else self.owns.get(home, self.own)
        shared, own = ({k: v.to(device) for k, v in leaves.items()} for leaves in (self.params, own))
        return self.experiment.algorithm.model(shared, own)


class Tasks(NamedTuple):
    """The new tasks of one shard, E episodes of it.

    preprocessing: of the shard's rows, with its scale; names: of the outputs in episode 0, () for a regression; rows:
    what the shard's rows are called in predictions.csv; labelled: False where the query carries no labels and nothing
    can be scored.
    """

    shard: Shard
    pool: Pool
    plan: TaskIndices
    preprocessing: Preprocessing
    names: tuple[str, ...]
    rows: Sequence[object]
    labelled: bool = True

    def truths(self) -> np.ndarray:
        """(E, Q) labels of the query rows, or their targets (E, Q, out) in the data's units."""
        query = self.plan.query[0, 0]
        if self.plan.labels is not None:
            return np.broadcast_to(self.plan.labels[1], query.shape)
        if self.shard.target is not None:  # not the pool's, which are standardised; its last rows are the shard's
            own = query - (len(self.pool.y) - len(self.shard.target))
            return self.preprocessing.in_units(self.shard.target[own])
        return self.pool.y[torch.from_numpy(query).to(self.pool.y.device)].cpu().numpy()

    def in_units(self, outcome: Outcome) -> Outcome:
        """Outputs of a regression, in multiples of the unit, and their mean squared errors in the data's units."""
        if (unit := self.preprocessing.unit) == 1:
            return outcome
        first, out = (torch.from_numpy(self.preprocessing.in_units(o.numpy())) for o in (outcome.first, outcome.out))
        return Outcome(outcome.score * unit**2, first, out)


class Chosen(NamedTuple):
    """The step size and the number of steps that were chosen for a baseline's adaptation."""

    inner_lr: float
    steps: int


class Evaluation(NamedTuple):
    """Every method on every new task.

    methods: "main", the baselines' names, "untrained" and "local-only"; outcomes: one a shard, of these and of the
    classical methods; steps: of adaptation; headline: the metric of the headline; chosen: how tuned baselines adapt
    instead; local: what each of the methods is that a node can use alone.
    """

    setting: Setting
    methods: dict[str, Trained]
    tasks: list[Tasks]
    outcomes: dict[str, list[Outcome]]
    steps: int
    headline: str
    chosen: dict[str, Chosen]
    local: dict[str, str]

    @property
    def config(self) -> Config:
        return self.setting.experiment.config


def output_names(config: Config, classes: tuple[str, ...], shard: Shard, plan: TaskIndices) -> tuple[str, ...]:
    """Names of the model's outputs in the shard's first task."""
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


def _names(config: Config, classes: tuple[str, ...], task: Tasks, i: int) -> tuple[str, ...]:
    """Names of the outputs in a shard's i-th task; episodic tasks draw classes of their own."""
    if task.plan.labels is None:
        return task.names
    return output_names(config, classes, task.shard, task.plan._replace(support=task.plan.support[:, :, i : i + 1]))


def write_results(
    evaluation: Evaluation, run: Run, folder: Path, metrics: dict[str, Any], tables: dict[str, bytes]
) -> None:
    """Write finetune/<task>/: models, predictions and report, then metrics.json, which is the commit.

    Args:
        evaluation: all methods on all tasks.
        run: where the rounds' metrics are.
        folder: where to write.
        metrics: the content of metrics.json; gets the names of the other files.
        tables: further files by name.
    """
    from metadist_cli.report import Results, render

    config, setting, tasks = evaluation.config, evaluation.setting, evaluation.tasks
    outcomes = evaluation.outcomes["main"]
    models = [] if config.finetune.save == "none" else _adapted_models(evaluation, config.finetune.save == "all")
    written = dict(tables)
    if models:
        written["adapted.safetensors"] = models[0]
    if config.finetune.save == "all":
        written |= {f"adapted/episode-{number:05d}.safetensors": model for number, model in enumerate(models)}
    if config.finetune.predictions or metrics["task"] != "new":
        classes = setting.experiment.spec.classes
        written["predictions.csv"] = _predictions(classes, config, tasks, outcomes, models)
        others = {name: parts for name, parts in evaluation.outcomes.items() if name != "main"}
        for name, parts in others.items():
            written[f"predictions/{name}.csv"] = _predictions(classes, config, tasks, parts, [])
    rounds = [{"run": "main", **line} for line in round_metrics(run)]
    for name in metrics["baselines"]:
        rounds += [{"run": name, **line} for line in round_metrics(run.baseline(name))]
    if tasks[0].labelled:
        title = f"{config.name}: {metrics['learner']}"
        examples = _examples(setting, tasks[0], outcomes[0])
        written |= render(title, Results(metrics, rounds, setting.manifest, examples))
    _forget(folder)
    for name, data in written.items():
        files.write(folder / name, data)
    metrics["files"] = sorted(written)
    files.write(folder / "metrics.json", files.to_json(metrics))


def _forget(folder: Path) -> None:
    """Remove results of other settings, their commit first: a kill must not mix the files of two settings."""
    (folder / "metrics.json").unlink(missing_ok=True)
    for kind in ("safetensors", "csv", "parquet", "html", "png"):
        for path in (*folder.glob(f"*.{kind}"), *folder.glob(f"*/*.{kind}")):
            path.unlink(missing_ok=True)


def _adapted_models(evaluation: Evaluation, every: bool) -> list[bytes]:
    """The model of episode 0, which the report shows; with `every`, those of all episodes."""
    config, setting, main = evaluation.config, evaluation.setting, evaluation.methods["main"]
    learner, classes = main.experiment.algorithm.learner, setting.experiment.spec.classes
    out: list[bytes] = []
    for task in evaluation.tasks if every else evaluation.tasks[:1]:
        meta, stats = main.model(task, setting.device)
        for i in range(task.plan.support.shape[2] if every else 1):
            rows = task.plan.support[0, 0, i]
            episode = gather(task.pool, rows, task.plan.query[0, 0, i], task.plan.labels)
            seed = torch.tensor(int(task.plan.seeds[0, 0, i]), device=setting.device)
            last_one = last(learner.adapt(meta, stats, episode.support, seed, evaluation.steps, config.finetune.batch))
            own = stored(task.pool, rows).cpu().numpy()
            by = task.preprocessing.changed(classes=_names(config, classes, task, i))
            if task.pool.by_support is not None:
                by = by.settled(moments([own]))
                own = by.scaled(own)
            out.append(pack_adapted(main.experiment, last_one, by, torch.from_numpy(own), main.sha256))
    return out


def _predictions(
    classes: tuple[str, ...], config: Config, tasks: list[Tasks], outcomes: Iterable[Outcome], models: list[bytes]
) -> bytes:
    """predictions.csv: one line a query row of every episode, after adaptation; by the saved model where there is one.

    Its bits differ from the evaluation's, which computes many episodes as one program.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    width = len(tasks[0].names)
    columns = ["label", "prediction", *(f"p{i}" for i in range(width))] if width else ["target", "prediction"]
    writer.writerow(["episode", "node", "row", *columns])
    number = 0
    for task, outcome in zip(tasks, outcomes, strict=True):
        for i, (out, truths) in enumerate(zip(outcome.out.numpy(), task.truths(), strict=True)):
            rows = task.plan.query[0, 0, i]
            names = _names(config, classes, task, i)
            found = out
            if number < len(models):
                found = _by_model(models[number], task, rows)
            for row, truth, line in zip(rows, truths, readable(found, names), strict=True):
                label = names[int(truth)] if names else " ".join(map(str, truth))
                label = label if task.labelled else ""
                writer.writerow([number, task.shard.node, task.rows[row], label, *line])
            number += 1
    return text.getvalue().encode()


def _by_model(packed: bytes, task: Tasks, rows: np.ndarray) -> np.ndarray:
    """Outputs of an adapted model for rows of a task's pool; of a regression in the data's units."""
    model = unpack_adapted(packed, "adapted.safetensors")
    x = stored(task.pool, rows).cpu().numpy()
    out = model.raw(x if task.pool.by_support is None else model.preprocessing.scaled(x))
    return out if model.classes else model.preprocessing.predictions(out)


def readable(out: np.ndarray, names: tuple[str, ...]) -> list[list[str]]:
    """Prediction and probabilities (or values) of each row, float32 digits that name each number exactly.

    Args:
        out: (n, outputs), of a regression in the data's units.
        names: of the outputs; () for a regression.
    """
    if not names:
        return [[" ".join(map(str, row))] for row in out]
    best = out.argmax(-1)
    return [[names[i], *map(str, row)] for i, row in zip(best, probabilities(out), strict=True)]


def _examples(setting: Setting, task: Tasks, outcome: Outcome) -> Any:
    """The first episode, for the report's picture."""
    from metadist_cli.report import ExampleTask

    plan, spec = task.plan, setting.experiment.spec
    episode = gather(task.pool, plan.support[0, 0, 0], plan.query[0, 0, 0], plan.labels)
    support_x, support_y, query_x, query_y = (leaf.cpu().numpy() for leaf in episode)
    if spec.kind == "regression":
        support_y, query_y = (task.preprocessing.predictions(y) for y in (support_y, query_y))
    if spec.kind == "classification":
        kind = "image" if len(spec.shape) == 2 else "vector"
        before, after = outcome.first[0].argmax(-1).numpy(), outcome.out[0].argmax(-1).numpy()
    else:
        kind = "curve" if spec.shape == (1,) else "vector"
        before, after = outcome.first[0][:, 0].numpy(), outcome.out[0][:, 0].numpy()
    return ExampleTask(kind, support_x, support_y, query_x, query_y, before, after, task.names)
