"""The score of a round on validation tasks, and what the run's scores say: whether to stop, and which round is best."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metadist_cli.commands.support.finetune_outputs import Trained
from metadist_cli.commands.support.methods import SAMPLE, Part, has_choice, headline, judge, merged, scored_by, tried
from metadist_cli.commands.support.new_tasks import drawn_tasks
from metadist_cli.config import Config
from metadist_cli.config.early_stopping import patience
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.core.losses import Loss
from metadist_cli.core.tree import Params
from metadist_cli.evaluation.metrics import METRICS
from metadist_cli.evaluation.tuning import best
from metadist_cli.experiment import Experiment, for_new_tasks
from metadist_cli.federated.early_stopping import Record, recorded, stops
from metadist_cli.runtime.execution import Setting
from metadist_cli.storage.checkpoints import GlobalModel
from metadist_cli.storage.run_directory import Run

TASKS = 100  # the same ones after every round


class Validation(NamedTuple):
    """What rounds are evaluated by.

    experiment: for tasks of this kind. parts: the tasks. homes: nodes that kept rows back for them. metric: of the
    score, which is that of the loss. every: rounds from one evaluation to the next. tuned: whether `finetune` chooses
    how the model adapts.
    """

    experiment: Experiment
    setting: Setting
    parts: list[Part]
    homes: list[int]
    metric: str
    loss: Loss
    every: int
    tuned: bool


def open_validation(setting: Setting, run: Run, baseline: bool) -> Validation | None:
    """The validation tasks; None without train.early_stopping. Raises Problem if nothing is held out for them."""
    config = setting.experiment.config
    if config.train.early_stopping is None:
        return None
    tuned = baseline and config.finetune.tune and has_choice(setting.experiment)
    tasks = drawn_tasks(config, run, setting, "validation", SAMPLE if tuned else TASKS)
    experiment = for_new_tasks(setting.experiment, len(tasks[0].names) or None)
    balanced = headline(experiment, tasks) == "balanced_accuracy"
    homes = [task.shard.home for task in tasks if task.shard.home is not None]
    parts = merged([(task, task.plan) for task in tasks])
    metric = "balanced_accuracy" if balanced else experiment.loss.metric
    loss, every = scored_by(experiment, balanced), config.train.early_stopping.every
    return Validation(experiment, setting, parts, homes, metric, loss, every, tuned)


def score(validation: Validation, params: Params, own: Params, owns: dict[int, Params]) -> float:
    """The mean score of a global model on the validation tasks, adapted as `finetune` does it.

    Where `finetune` chooses step size and steps, those that are best on these tasks.

    Args:
        validation: the tasks.
        params: the global parameters.
        own: what a node has before its first round.
        owns: what the nodes keep on whose rows the model is tested.
    """
    steps = validation.setting.experiment.config.finetune.steps
    if steps is None:
        steps = validation.experiment.algorithm.learner.inner_steps
    model = Trained(validation.experiment, params, 0, "", own, owns)
    if validation.tuned:
        scores = tried(model, validation.parts, validation.setting, validation.loss)
        return float(scores[best(scores, METRICS[validation.metric].higher_is_better)].mean())
    outcomes = [judge(model, task, plan, steps, validation.setting, validation.loss) for task, plan in validation.parts]
    return float(np.concatenate([outcome.score[:, -1] for outcome in outcomes]).mean())


def record_with(validation: Validation, before: GlobalModel, number: int, value: float) -> Record:
    """The run's record with the score of one more round. before: the round before."""
    record, metric = record_of(before), validation.metric
    if record is None or record.metric != metric:
        record = Record(metric)
    return recorded(record, number, value, METRICS[metric].higher_is_better)


def record_of(model: GlobalModel) -> Record | None:
    """What validation had found when a round was closed; None if no round was evaluated until then."""
    found = model.header.get("validation")
    return None if found is None else Record(**found)


def stopped(config: Config, model: GlobalModel) -> bool:
    """Whether training ends with this round, because validation has not improved for long enough."""
    return stops(record_of(model), patience(config))


def why_stopped(model: GlobalModel) -> str:
    """The reason in words, with the way to go on."""
    record = record_of(model)
    assert record is not None
    reached = "" if record.best is None else f" (best: {record.metric} {record.best:.4g} after round {record.round})"
    count = f"{record.since} evaluation{'s' * (record.since != 1)}"
    return (
        f"training stopped early after round {model.round}: {count} without a better score{reached}; "
        f"to go on, set train.early_stopping.patience to more than {record.since}, or to null"
    )


def chosen_round(config: Config, run: Run, newest: GlobalModel) -> int:
    """The round that finetune.round means. Raises Problem if it means the best one and no round was evaluated."""
    wanted = config.finetune.round
    if wanted is None or (wanted == "best" and config.train.rounds == 0):
        return newest.round
    if wanted != "best":
        return wanted
    record = record_of(newest)
    if record is None or record.round is None:
        what = "was evaluated on validation tasks" if record is None else "has a finite score on validation tasks"
        hint = (
            "raise train.rounds, so that some are (train.early_stopping.every says which), or choose another --name"
            if record is None
            else "lower the step size, or remove finetune.round to adapt the newest round"
        )
        raise Problem(f"no round of this run {what}", str(run.path), hint, DATA)
    return record.round


def selection(config: Config, newest: GlobalModel) -> dict[str, Any]:
    """For metrics.json: by what the round was chosen, and what validation found."""
    wanted, record = config.finetune.round, record_of(newest)
    by = "newest" if wanted is None else "validation" if wanted == "best" else "finetune.round"
    early = newest.round < config.train.rounds and stopped(config, newest)
    found = {"by": by, "newest": newest.round, "stopped": early}
    return found | {
        "metric": record and record.metric,
        "best": record and record.best,
        "best_round": record and record.round,
    }
