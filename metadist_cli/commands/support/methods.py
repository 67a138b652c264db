"""The methods that are compared on new tasks: their adaptation, and what baselines get chosen for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from metadist_cli.commands.support.finetune_outputs import Chosen, Tasks, Trained
from metadist_cli.config import variant
from metadist_cli.config.schema import Episodic
from metadist_cli.core import seeds
from metadist_cli.core.losses import Loss, balanced_score
from metadist_cli.evaluation import tuning
from metadist_cli.evaluation.classical import CLASSICAL, Classical
from metadist_cli.evaluation.evaluate import Outcome, Protocol, chunk_size, evaluate
from metadist_cli.evaluation.metrics import METRICS
from metadist_cli.experiment import Experiment, assemble
from metadist_cli.runtime.execution import Setting, apart, row_bytes
from metadist_cli.tasks.episodes import TaskIndices
from metadist_cli.tasks.gathering import gather

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
STEPS = 100  # at most; a model that is trained from scratch needs many
SAMPLE = 20  # tasks to choose by
Part = tuple[Tasks, TaskIndices]  # tasks of a shard


def judge(
    trained: Trained, tasks: Tasks, plan: TaskIndices, steps: int, setting: Setting, loss: Loss | None = None
) -> Outcome:
    """Adapt a model to the tasks of a plan on a shard, and score it, by the experiment's loss or another.

    Outputs and scores are in the units of the data.
    """
    experiment, wanted = trained.experiment, setting.experiment.config.finetune
    _, kept = row_bytes(experiment.model, experiment.spec.shape)
    support, query = plan.support.shape[-1], plan.query.shape[-1]
    together = wanted.transductive or not experiment.model.mixes  # one by one gives the same, and costs far more
    large = apart(experiment, setting.device, kept * max(support, query))
    chunk = 1 if large else chunk_size(kept, support, query, together)
    by = Protocol(steps, together, wanted.batch, chunk, setting.execution["threads"])
    model = trained.model(tasks, setting.device)
    found = evaluate(experiment.algorithm.learner, loss or experiment.loss, model, tasks.pool, plan, by)
    return _in_units(found, experiment)


def untrained(main: Trained) -> Trained:
    """Another random initialization of the model than the one training began with."""
    experiment = main.experiment
    params, own = experiment.algorithm.start(seeds.generator(experiment.config.seed, "scratch"))
    return main._replace(params=params, own=own, owns={})


def local_only(main: Trained, setting: Setting) -> Trained:
    """The model from a random start, trained on the support alone by gradient descent."""
    config = variant(
        main.experiment.config,
        learner={"name": "supervised"},
        train={"rounds": 0, "class_weights": main.experiment.config.train.class_weights},
    )
    if isinstance(config.task, Episodic) and config.finetune.task.way:
        task = config.task.model_copy(update={"way": config.finetune.task.way})
        config = config.model_copy(update={"task": task})
    return untrained(main._replace(experiment=assemble(config, setting.experiment.spec)))


def chosen(trained: Trained, parts: Sequence[Part], setting: Setting, balanced: bool) -> Chosen | None:
    """The step size and number of steps with the best mean score.

    Args:
        trained: the baseline.
        parts: tasks to choose by.
        setting: where to compute.
        balanced: whether to choose by balanced accuracy.

    Returns:
        The choice; None where the learner has no step size, or without tasks to choose by.
    """
    if not parts or not has_choice(trained.experiment):
        return None
    loss = scored_by(trained.experiment, balanced)
    rate, steps = tuning.best(tried(trained, parts, setting, loss), METRICS[loss.metric].higher_is_better)
    return Chosen(RATES[rate], steps)


def has_choice(experiment: Experiment) -> bool:
    """Whether a baseline's adaptation is left to be chosen: that of supervised learning, which trains without it."""
    return experiment.config.learner.name == "supervised"


def tried(trained: Trained, parts: Sequence[Part], setting: Setting, loss: Loss) -> np.ndarray:
    """(rates, steps + 1, E) scores of a supervised model with every step size, after every step."""
    scores = []
    for rate in RATES:
        model = at_rate(trained, rate)
        outcomes = [judge(model, task, plan, STEPS, setting, loss) for task, plan in parts]
        scores.append(np.concatenate([outcome.score for outcome in outcomes]).T)
    return np.array(scores)


def at_rate(trained: Trained, rate: float) -> Trained:
    """The model with a learner of another step size."""
    config = trained.experiment.config
    learner = config.learner.model_copy(update={"inner_lr": rate})
    return trained._replace(
        experiment=assemble(config.model_copy(update={"learner": learner}), trained.experiment.spec)
    )


def headline(experiment: Experiment, tasks: Sequence[Tasks]) -> str:
    """The metric of the headline: `metric`, or balanced accuracy where a constant answer is a good one by accuracy."""
    wanted, metric = experiment.config.finetune.headline, experiment.loss.metric
    tasks = [task for task in tasks if task.labelled]
    if wanted != "auto" or metric != "accuracy" or not tasks:
        return metric if wanted == "auto" else wanted
    method = CLASSICAL[experiment.spec.kind]["constant"]
    outcomes = [_fitted(experiment, method, (0.0, False), task, task.plan) for task in tasks]
    frequent = np.concatenate([outcome.score[:, -1] for outcome in outcomes]).mean()
    classes = np.mean([len(np.unique(y)) for task in tasks for y in task.truths()])
    return "balanced_accuracy" if frequent - 1 / classes > (1 - 1 / classes) / 4 else metric


def classical(
    experiment: Experiment, tasks: Sequence[Tasks], parts: Sequence[Part], balanced: bool
) -> Iterator[tuple[str, str, list[Outcome]]]:
    """(name, what it is, its outcomes by shard) of every classical method that makes sense for these rows.

    Without `parts` to choose its options by, only the constant answer.
    """
    codes = tasks[0].pool.x.dtype == torch.uint8 and experiment.spec.divide == 1  # the characters of a text
    scored = experiment._replace(loss=scored_by(experiment, balanced))
    higher = METRICS[experiment.loss.metric].higher_is_better
    for name, method in CLASSICAL[experiment.spec.kind].items():
        if (codes or not parts) and not method.raw:
            continue
        option = method.options[0]
        if len(method.options) > 1:
            every = [
                np.concatenate([_fitted(scored, method, (one, balanced), *part).score[:, -1] for part in parts])
                for one in method.options
            ]
            option = method.options[tuning.best(np.array(every), higher)[0]]
        outcomes = [_fitted(experiment, method, (option, balanced), task, task.plan) for task in tasks]
        yield name, method.text.format(option), outcomes


def scored_by(experiment: Experiment, balanced: bool) -> Loss:
    """The experiment's loss, with balanced accuracy as its score if so wanted."""
    return experiment.loss._replace(score=balanced_score) if balanced else experiment.loss


def _fitted(
    experiment: Experiment, method: Classical, how: tuple[float, bool], tasks: Tasks, plan: TaskIndices
) -> Outcome:
    outs, scores = [], []
    for i in range(plan.support.shape[2]):
        episode = gather(tasks.pool, plan.support[0, 0, i], plan.query[0, 0, i], plan.labels)
        x, y, query, _ = (leaf.cpu().numpy() for leaf in episode)
        x, query = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (x, query))
        outputs = len(tasks.names) or experiment.spec.targets
        out = torch.from_numpy(method.fit(x, y, query, outputs, *how)).float()
        outs.append(out)
        scores.append(experiment.loss.score(out, episode.query_y.cpu()).double().mean())
    out = torch.stack(outs)
    return _in_units(Outcome(torch.stack(scores).numpy()[:, None], out, out), experiment)


def _in_units(outcome: Outcome, experiment: Experiment) -> Outcome:
    """The outputs in the units of the data."""
    units = experiment.spec.in_units
    return outcome._replace(first=units(outcome.first), out=units(outcome.out))


def support_folds(tasks: Sequence[Tasks]) -> list[Part]:
    """The support of some tasks, spread evenly over the shards, in folds to choose by; [] with a row a class."""
    count = min(len(tasks), SAMPLE)
    found = []
    for i in range(count):
        task = tasks[i * len(tasks) // count]
        few, plan = -(-SAMPLE // count), task.plan
        plan = plan._replace(
            support=plan.support[:, :, :few], query=plan.query[:, :, :few], seeds=plan.seeds[..., :few]
        )
        support = plan.support[0, 0]
        if plan.labels is not None:
            labels = np.broadcast_to(plan.labels[0], support.shape)
        elif task.pool.y.is_floating_point():
            labels = np.zeros_like(support)
        else:
            labels = task.pool.y.cpu().numpy()[support]
        found += [(task, fold) for fold in tuning.folds(plan, labels)]
    return merged(found)


def merged(parts: Sequence[Part]) -> list[Part]:
    """The same tasks in few pools: those of equal sizes whose tasks start from one model."""
    alike: dict[object, list[Part]] = {}
    for task, plan in parts:
        pair = plan.labels and (plan.labels[0].tobytes(), plan.labels[1].tobytes())
        alike.setdefault((task.shard.home, plan.support.shape[3], plan.query.shape[3], pair), []).append((task, plan))
    return [_together(parts) for parts in alike.values()]


def _together(parts: Sequence[Part]) -> Part:
    """Tasks of several pools with equal sizes, on a pool of their own rows."""
    pools, plans, begin = [], [], 0
    for task, plan in parts:
        rows = np.concatenate([plan.support, plan.query], axis=-1)
        at = torch.from_numpy(rows.ravel()).to(task.pool.x.device)
        place = at if task.pool.place is None else task.pool.place[at]
        pools.append((task.pool.x.index_select(0, place), task.pool.y.index_select(0, at)))
        places = begin + np.arange(rows.size).reshape(rows.shape)
        plans.append(np.split(places, [plan.support.shape[-1]], axis=-1))
        begin += rows.size
    first, plan = parts[0]
    x, y = (torch.cat(column) for column in zip(*pools, strict=True))
    support, query = (np.concatenate(column, axis=2) for column in zip(*plans, strict=True))
    task_seeds = np.concatenate([plan.seeds for _, plan in parts], axis=2)
    pool = first.pool._replace(x=x, y=y, place=None)
    return first._replace(pool=pool), plan._replace(support=support, query=query, seeds=task_seeds)
