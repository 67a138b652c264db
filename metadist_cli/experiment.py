"""From a config to the mathematics: the one place where names in YAML become functions."""

from __future__ import annotations

import math
from typing import NamedTuple

from metadist_cli import config as configs
from metadist_cli.config import Config
from metadist_cli.config.schema import Episodic
from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.losses import LOSSES, Loss
from metadist_cli.core.optimizers import OPTIMIZERS
from metadist_cli.data.sets import DATASETS, Dataset
from metadist_cli.evaluation.metrics import SCORES
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
from metadist_cli.partition.held_out import Held
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import Need, Shard, make_shards
from metadist_cli.tasks import episodes
from metadist_cli.tasks.augmentation import AUGMENTS
from metadist_cli.tasks.episodes import Sampler


class Spec(NamedTuple):
    """What the mathematics must know of the data: it stands in the partition manifest."""

    kind: str  # classification | regression
    shape: tuple[int, ...]  # of one row
    divide: float
    classes: tuple[str, ...]
    targets: int  # outputs of a regression, 0 for classification
    smallest: int  # rows of the poorest training node
    largest: int  # of the richest
    rows: int  # of all training nodes
    nodes: int  # that train


class Experiment(NamedTuple):
    """Everything that a round and an evaluation need, with no disk and no console."""

    config: Config
    spec: Spec
    model: Model
    loss: Loss
    algorithm: Algorithm
    server: Server
    sampler: Sampler
    steps: int  # local steps of a round (of the largest node, with local_epochs)
    rows: tuple[int, int, int]  # tasks a step, support and query rows of a task

    @property
    def text(self) -> str:
        """The learner, and what a round makes of it, as every report prints them."""
        rules = (self.config.train.drift.name, self.config.train.personal.name)
        more = ["augmented rows"] if self.config.train.augment.name != "none" else []
        more += ["pooled rows"] if self.config.pooled else []
        return ", ".join([self.algorithm.learner.text, *(name for name in rules if name != "none"), *more])


def load_data(config: Config) -> Dataset:
    """The data set of a config."""
    return configs.build(config.data, DATASETS, config.seed)


def deal(config: Config, data: Dataset) -> list[Shard]:
    """The shards of a config, held-out ones among them."""
    task = config.task
    partition = config.partition
    held = Held(task.new.from_, task.new.test, task.new.validation)
    partitioner = configs.build(partition, PARTITIONERS)
    return make_shards(
        data,
        partitioner,
        partition.nodes,
        need(config),
        held,
        config.seed,
        partition.rotate,
        partition.relabel,
        partition.scale,
    )


def need(config: Config) -> Need:
    """What a node must have for its tasks."""
    task = config.task
    if isinstance(task, Episodic):
        return Need(True, task.way, task.shot + task.query)
    support = task.support if isinstance(task.support, int) else 1
    query = task.query if isinstance(task.query, int) else 1
    return Need(False, 0, support + query)


def spec_of(data: Dataset, shards: list[Shard]) -> Spec:
    """The Spec of freshly dealt shards."""
    rows = [len(s.label) for s in shards if s.role == "train"]
    targets = 0 if data.target is None else data.target.shape[1]
    return Spec(
        data.kind, data.x.shape[1:], data.divide, data.classes, targets, min(rows), max(rows), sum(rows), len(rows)
    )


def assemble(config: Config, spec: Spec) -> Experiment:
    """The experiment of a config on data of this kind. Raises Problem where they do not fit each other."""
    if spec.kind == "regression" and isinstance(config.task, Episodic):
        for where, way in (("task.way", config.task.way), ("finetune.task.way", config.finetune.task.way)):
            if way not in (None, 1):
                raise Problem("a task of a regression is one function, not several classes", where, "write 1", CONFIG)
    _right_scores(config, spec)
    if config.pooled:
        # An epoch is of all rows; a task has as many as at the poorest node
        spec = spec._replace(largest=spec.rows, nodes=1)
    loss = LOSSES[spec.kind]
    model = configs.build(config.model, MODELS, spec.shape, outputs(config, spec))
    if config.execution.precision == "bf16":
        model = in_bf16(model)
    learner = configs.build(config.learner, LEARNERS, model, loss)
    sampler, steps, rows = _work(config, spec, learner.splits)
    _both_parts_train(config, spec, sum(rows[1:]) * rows[0])
    return Experiment(
        config,
        spec,
        model,
        loss,
        _algorithm(config, spec, learner),
        _server(config),
        sampler,
        steps,
        rows,
    )


def _server(config: Config) -> Server:
    """How a round is combined. Pooled rows are one node's, which sends nothing: no uplink changes them."""
    uplinks = () if config.pooled else config.uplink
    return Server(
        chain([configs.build(uplink, UPLINKS) for uplink in uplinks]),
        configs.build(config.aggregate, AGGREGATORS),
        configs.build(config.aggregate.server, OPTIMIZERS),
    )


def _right_scores(config: Config, spec: Spec) -> None:
    """Raises Problem where a score is asked for that data of this kind do not have."""
    for name in config.finetune.metrics:
        if SCORES[name].kind != spec.kind:
            fitting = ", ".join(key for key, score in SCORES.items() if score.kind == spec.kind)
            message = f"`{name}` is a score of a {SCORES[name].kind}, and these data are a {spec.kind}"
            raise Problem(message, "finetune.metrics", f"one of: {fitting}", CONFIG)


def _algorithm(config: Config, spec: Spec, learner: Learner) -> Algorithm:
    """Raises Problem where nothing of the model would be shared, or nothing kept at the nodes."""
    train = config.train
    drift, personal = configs.build(train.drift, DRIFTS), configs.build(train.personal, PERSONAL)
    outer = configs.build(train.outer, OPTIMIZERS)
    augment = configs.build(train.augment, AUGMENTS, spec.shape, spec.kind)
    algorithm = Algorithm(learner, outer, train.outer_state, drift, personal, augment)
    meta, stats = learner.init(seeds.generator(0))
    everything, something = all(map(personal.keeps, meta)), any(map(personal.keeps, (*meta, *stats)))
    if personal.parts and (everything or not something):
        what = "everything" if everything else "nothing"
        message = f"{train.personal.name} would keep {what} of what {config.learner.name} learns with this model"
        hint = "use another model or learner, or ditto, which keeps a whole model beside the shared one"
        raise Problem(message, "train.personal.name", hint, CONFIG)
    return algorithm


def _both_parts_train(config: Config, spec: Spec, rows: int) -> None:
    """Raises Problem where a node's epochs, in steps of so many rows, leave none for the part that is shared."""
    head_steps = getattr(config.train.personal, "head_steps", 0)
    if config.train.local_epochs is None or not head_steps:  # steps are checked with the config, before any data
        return
    steps = config.train.local_epochs * math.ceil(spec.smallest / rows)
    if head_steps >= steps:
        message = f"`head_steps` is {head_steps} of {steps} local steps at the poorest node: it would share nothing new"
        raise Problem(message, "train.personal.head_steps", "use fewer, or more epochs", CONFIG)


def assemble_all(config: Config, spec: Spec) -> dict[str, Experiment]:
    """The main experiment and its baselines by name, as they will be judged too; a Problem says which one it is of."""
    found = {}
    for name, variant in {"main": config, **configs.variants(config)}.items():
        try:
            found[name] = assemble(variant, spec)
            judged(found[name], config.finetune.task.way)
        except Problem as problem:
            if name != "main":
                problem.where = f"baselines.{name}.{problem.where}"
            raise
    return found


def training_nodes(config: Config, rows: dict[int, int]) -> dict[int, int]:
    """Who trains, with how many rows: the nodes themselves, or all of their rows as node 0."""
    return {0: sum(rows.values())} if config.pooled else rows


def outputs(config: Config, spec: Spec) -> int:
    """Width of the model's last layer."""
    if spec.kind == "regression":
        return spec.targets
    return config.task.way if isinstance(config.task, Episodic) else len(spec.classes)


def _work(config: Config, spec: Spec, splits: bool) -> tuple[Sampler, int, tuple[int, int, int]]:
    """(sampler, local steps of a round, (tasks, support rows, query rows)) of the local work."""
    task, train, seed = config.task, config.train, config.seed
    tasks = train.meta_batch or (4 if splits or isinstance(task, Episodic) else 1)
    if isinstance(task, Episodic):
        steps = train.local_steps or 0
        renumber = spec.kind == "classification"
        sampler = episodes.episodic(seed, steps, tasks, task.way, task.shot, task.query, renumber)
        return sampler, steps, (tasks, task.way * task.shot, task.way * task.query)
    support, query = episodes.counts(spec.smallest, task.support, task.query)
    if not splits:  # no support is set aside: a task is a batch of the node's rows, all of them where it has fewer
        support, query = 0, min(train.batch or support + query, -(-spec.largest // tasks))
    if train.local_epochs is None:
        steps = train.local_steps or 0
        return episodes.local(seed, steps, tasks, support, query), steps, (tasks, support, query)
    steps = train.local_epochs * math.ceil(spec.largest / (tasks * (support + query)))
    return episodes.epochs(seed, train.local_epochs, tasks, support, query), steps, (tasks, support, query)


def judged(experiment: Experiment, way: int | None) -> Experiment:
    """The experiment as new tasks of `way` classes see it, which a solved output layer may have; None: as in training.

    Raises Problem where the learner cannot take so many.
    """
    config, task = experiment.config, experiment.config.task
    if not isinstance(task, Episodic) or way in (None, task.way) or experiment.spec.kind == "regression":
        return experiment
    if not experiment.algorithm.learner.solves:
        raise Problem(
            f"the model tells {task.way} classes apart, a new task has {way}",
            "finetune.task.way",
            "leave it out: only prototypical, ridge and svm, which solve the last layer, take another way",
            CONFIG,
        )
    other = task.model_copy(update={"way": way})
    return assemble(config.model_copy(update={"task": other}), experiment.spec)


def start(experiment: Experiment) -> tuple[tree.Params, tree.Params]:
    """(round 0's global model, what every node keeps before its first round)."""
    generator = seeds.generator(experiment.config.seed, "init")
    return first_models(experiment.algorithm, experiment.server, generator)
