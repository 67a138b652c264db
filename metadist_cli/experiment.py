"""Assemble an experiment: the only module that turns names in a config into functions."""

from __future__ import annotations

import math
from typing import NamedTuple

from metadist_cli import config as configs
from metadist_cli.config import Config
from metadist_cli.config.checks import metrics_of_kind
from metadist_cli.config.schema import Episodic
from metadist_cli.config.step_sizes import StepSize, rounds_of
from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.losses import BALANCED_CROSS_ENTROPY, LOSSES, Loss, in_units
from metadist_cli.core.optimizers import OPTIMIZERS, Optimizer
from metadist_cli.core.schedules import schedule
from metadist_cli.data.sets import DATASETS, Dataset
from metadist_cli.federated.aggregators import AGGREGATORS
from metadist_cli.federated.drift_corrections import DRIFTS
from metadist_cli.federated.local_training import Algorithm
from metadist_cli.federated.personalization import PERSONAL
from metadist_cli.federated.rounds import Server, first_models
from metadist_cli.federated.uplink import UPLINKS
from metadist_cli.federated.uplink.types import chain
from metadist_cli.learners import LEARNERS, Learner
from metadist_cli.models import MODELS, Model
from metadist_cli.models.types import in_bf16
from metadist_cli.partition.accounting import Partitioned
from metadist_cli.partition.held_out import HoldOut
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import PartitionSpec, TaskSize, make_shards
from metadist_cli.partition.spec import Spec
from metadist_cli.tasks import episodes
from metadist_cli.tasks.augmentation import AUGMENTS
from metadist_cli.tasks.episodes import Sampler


class Experiment(NamedTuple):
    """Everything that training and evaluation need, independent of disk and console.

    Attributes:
        steps: Local steps per round (those of the largest node, if `local_epochs` is set).
        rows: (tasks per step, support rows per task, query rows per task).
    """

    config: Config
    spec: Spec
    model: Model
    loss: Loss
    algorithm: Algorithm
    server: Server
    sampler: Sampler
    steps: int
    rows: tuple[int, int, int]

    @property
    def text(self) -> str:
        """The method as reports print it: the learner and whatever changes its training."""
        rules = (self.config.train.drift.name, self.config.train.personal.name)
        more = ["augmented rows"] if self.config.train.augment.name != "none" else []
        more += ["pooled rows"] if self.config.pooled else []
        return ", ".join([self.algorithm.learner.text, *(name for name in rules if name != "none"), *more])


def load_data(config: Config) -> Dataset:
    """Load the data set of a config. Raises Problem if it is missing or invalid."""
    return configs.build(config.data, DATASETS, config.seed)


def deal(config: Config, data: Dataset) -> Partitioned:
    """Split a data set into the shards of all nodes, held-out nodes included.

    Returns:
        One Shard per node: row indices, labels and role; and what is too small for a task.

    Raises:
        Problem: The data cannot be split like this, or a node gets too few rows for a task.
    """
    task = config.task
    partition = config.partition
    held = HoldOut(task.new.from_, task.new.test, task.new.validation)
    spec = PartitionSpec(
        configs.build(partition, PARTITIONERS),
        partition.nodes,
        task_size(config),
        held,
        partition.rotate,
        partition.relabel,
        partition.scale,
        partition.clip,
        partition.too_small,
    )
    return make_shards(data, spec, config.seed)


def task_size(config: Config) -> TaskSize:
    """The least data that a node needs for one task."""
    task = config.task
    if isinstance(task, Episodic):
        return TaskSize(True, task.way, task.shot + task.query)
    support = task.support if isinstance(task.support, int) else 1
    query = task.query if isinstance(task.query, int) else 1
    return TaskSize(False, 0, support + query)


def assemble(config: Config, spec: Spec) -> Experiment:
    """Build the experiment of a config for given data.

    Args:
        config: The settings.
        spec: The data.

    Returns:
        The experiment, with model, learner, optimisers, aggregator and task sampler built.

    Raises:
        Problem: CONFIG if settings do not fit the data or each other.
    """
    if spec.kind == "regression" and isinstance(config.task, Episodic):
        for where, way in (("task.way", config.task.way), ("finetune.task.way", config.finetune.task.way)):
            if way not in (None, 1):
                raise Problem(f"`way` is {way}, but a regression task is one function", where, "use 1", CONFIG)
    for conflict in metrics_of_kind(config, spec.kind):
        raise Problem(conflict.message, ".".join(map(str, conflict.path[:2])), conflict.hint, CONFIG)
    if config.pooled:
        # an epoch passes over all rows, but a task is no larger than on the smallest node
        spec = spec._replace(largest=spec.rows, nodes=1)
    loss = in_units(LOSSES[spec.kind], spec.target_deviation)
    if config.train.class_weights == "balanced":
        if spec.kind == "regression":
            message = "`class_weights` has no meaning for a regression"
            raise Problem(message, "train.class_weights", "remove it", CONFIG)
        loss = BALANCED_CROSS_ENTROPY
    model = configs.build(config.model, MODELS, spec.shape, outputs(config, spec))
    if config.execution.precision == "bf16":
        model = in_bf16(model)
    learner = configs.build(config.learner, LEARNERS, model, loss)
    sampler, steps, rows = _local_tasks(config, spec, learner.splits)
    _check_head_steps(config, spec, sum(rows[1:]) * rows[0])
    return Experiment(
        config,
        spec,
        model,
        loss,
        _algorithm(config, spec, learner, steps),
        _server(config),
        sampler,
        steps,
        rows,
    )


def _server(config: Config) -> Server:
    """How a round is combined. Pooled training sends no updates, so it has no uplink."""
    uplinks = () if config.pooled else config.uplink
    return Server(
        chain([configs.build(uplink, UPLINKS) for uplink in uplinks]),
        configs.build(config.aggregate, AGGREGATORS),
        _optimizer(config.aggregate.server, config.train.rounds, 1),
    )


def _optimizer(section: StepSize, rounds: int, steps: int) -> Optimizer:
    """The optimizer of a section, with its schedule over `rounds` rounds of `steps` steps."""
    warmup, until = (round(rounds_of(amount, rounds) * steps) for amount in (section.warmup, section.over))
    return configs.build(section, OPTIMIZERS, schedule(section.schedule, warmup, until, section.end))


def _algorithm(config: Config, spec: Spec, learner: Learner, steps: int) -> Algorithm:
    """What a node does in a round of `steps` steps.

    Raises Problem if personalisation would leave no shared or no personal parameters.
    """
    train = config.train
    drift, personal = configs.build(train.drift, DRIFTS), configs.build(train.personal, PERSONAL)
    outer = _optimizer(train.outer, train.rounds, steps)
    augment = configs.build(train.augment, AUGMENTS, spec.shape, spec.kind)
    algorithm = Algorithm(learner, outer, train.outer_state, drift, personal, augment, train.outer.clip)
    meta, stats = learner.init(seeds.generator(0))
    all_personal, some_personal = all(map(personal.keeps, meta)), any(map(personal.keeps, (*meta, *stats)))
    if personal.parts and (all_personal or not some_personal):
        left = "no shared parameters" if all_personal else "no personal parameters"
        message = f"{train.personal.name} leaves {left} with this model and learner ({config.learner.name})"
        hint = "use another model or learner, or ditto, which trains a personal model beside the shared one"
        raise Problem(message, "train.personal.name", hint, CONFIG)
    return algorithm


def _check_head_steps(config: Config, spec: Spec, rows: int) -> None:
    """Raises Problem if the smallest node's epochs, in steps of `rows` rows, leave no step for the shared layers."""
    head_steps = getattr(config.train.personal, "head_steps", 0)
    if config.train.local_epochs is None or not head_steps:  # local_steps is checked with the config
        return
    steps = config.train.local_epochs * math.ceil(spec.smallest / rows)
    if head_steps >= steps:
        message = (
            f"`head_steps` ({head_steps}) must be below the smallest node's local steps ({steps}), "
            "or the shared layers never train"
        )
        hint = "lower `head_steps` or raise `local_epochs`"
        raise Problem(message, "train.personal.head_steps", hint, CONFIG)


def assemble_all(config: Config, spec: Spec) -> dict[str, Experiment]:
    """Build the main experiment and its baselines by name, "main" first, and check that each can be evaluated.

    Raises:
        Problem: As `assemble`; its `where` names the baseline.
    """
    found = {}
    for name, variant in {"main": config, **configs.variants(config)}.items():
        try:
            found[name] = assemble(variant, spec)
            for_new_tasks(found[name], config.finetune.task.way)
        except Problem as problem:
            if name != "main":
                problem.where = f"baselines.{name}.{problem.where}"
            raise
    return found


def training_nodes(config: Config, rows: dict[int, int]) -> dict[int, int]:
    """Rows per training node; with pooled training, all rows as node 0."""
    return {0: sum(rows.values())} if config.pooled else rows


def outputs(config: Config, spec: Spec) -> int:
    """Number of the model's outputs."""
    if spec.kind == "regression":
        return spec.targets
    return config.task.way if isinstance(config.task, Episodic) else len(spec.classes)


def _local_tasks(config: Config, spec: Spec, splits: bool) -> tuple[Sampler, int, tuple[int, int, int]]:
    """The task sampler, the local steps per round, and (tasks per step, support rows, query rows)."""
    task, train, seed = config.task, config.train, config.seed
    tasks = train.meta_batch or (4 if splits or isinstance(task, Episodic) else 1)
    if isinstance(task, Episodic):
        steps = train.local_steps or 0
        sampler = episodes.episodic(seed, steps, tasks, task.way, task.shot, task.query)
        sampler = sampler if spec.kind == "classification" else episodes.keep_labels(sampler)
        return sampler, steps, (tasks, task.way * task.shot, task.way * task.query)
    support, query = episodes.counts(spec.smallest, task.support, task.query)
    if not splits:  # without a query set, a task is a batch of the node's rows, or all of them if it has fewer
        support, query = 0, min(train.batch or support + query, -(-spec.largest // tasks))
    if train.local_epochs is None:
        steps = train.local_steps or 0
        return episodes.local(seed, steps, tasks, support, query), steps, (tasks, support, query)
    steps = train.local_epochs * math.ceil(spec.largest / (tasks * (support + query)))
    return episodes.epochs(seed, train.local_epochs, tasks, support, query), steps, (tasks, support, query)


def for_new_tasks(experiment: Experiment, way: int | None) -> Experiment:
    """The experiment for evaluation on new tasks.

    Args:
        experiment: The experiment as trained.
        way: Classes per new task; None: as in training.

    Returns:
        The experiment with a model of `way` outputs.

    Raises:
        Problem: CONFIG if the learner cannot change the number of classes.
    """
    config, task = experiment.config, experiment.config.task
    if not isinstance(task, Episodic) or way in (None, task.way) or experiment.spec.kind == "regression":
        return experiment
    if not experiment.algorithm.learner.solves:
        raise Problem(
            f"the model has {task.way} outputs, but a new task has {way} classes",
            "finetune.task.way",
            "remove it; only learners that solve the last layer (prototypical, ridge, svm) can change the way",
            CONFIG,
        )
    other = task.model_copy(update={"way": way})
    return assemble(config.model_copy(update={"task": other}), experiment.spec)


def initial_state(experiment: Experiment) -> tuple[tree.Params, tree.Params]:
    """The state before round 1: (global parameters, what every node keeps to itself)."""
    generator = seeds.generator(experiment.config.seed, "init")
    return first_models(experiment.algorithm, experiment.server, generator)
