"""Conflicts between settings that are valid on their own. To add a check: one function and one entry in CHECKS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from metadist_cli.config.positions import Path
from metadist_cli.config.schema import Baseline, Config, Episodic, Local

RESERVED = {"main", "untrained", "local-only", "nearest", "linear", "constant"}  # names of other methods in reports


class Conflict(NamedTuple):
    """Settings that contradict each other; `path` is that of the setting to change."""

    path: Path
    message: str
    hint: str


def held_out_classes(config: Config) -> Iterator[Conflict]:
    if isinstance(config.task, Local) and config.task.new.from_ == "classes":
        message = "local tasks keep the data set's classes, so classes cannot be held out"
        yield Conflict(("task", "new", "from"), message, "use `from: nodes`, or `kind: episodic` for the task")


def held_out_amounts(config: Config) -> Iterator[Conflict]:
    new = config.task.new
    for key in ("test", "validation"):
        value = getattr(new, key)
        if new.from_ == "rows" and value and not isinstance(value, float):
            message = f"`{key}: {value}` is not a fraction; with `from: rows` use a number between 0 and 1"
            yield Conflict(("task", "new", key), message, f"for example `{key}: 0.25`")
        if new.from_ != "rows" and isinstance(value, float):
            message = f"`{key}: {value}` is a fraction, but whole {new.from_} are held out"
            rows = f", or use `from: rows` to hold out {value} of every node" if isinstance(config.task, Local) else ""
            yield Conflict(("task", "new", key), message, f"use a number of {new.from_}{rows}")


def steps_of_the_head(config: Config) -> Iterator[Conflict]:
    train, head_steps = config.train, getattr(config.train.personal, "head_steps", 0)
    if train.local_steps is not None and head_steps >= train.local_steps:
        message = (
            f"`head_steps` ({head_steps}) must be below `local_steps` ({train.local_steps}), "
            "or the shared layers never train"
        )
        yield Conflict(("train", "personal", "head_steps"), message, "lower `head_steps` or raise `local_steps`")


def relabelling(config: Config) -> Iterator[Conflict]:
    if isinstance(config.task, Episodic) and config.partition.relabel:
        message = "`relabel` has no effect on episodic tasks, which renumber their classes anyway"
        yield Conflict(("partition", "relabel"), message, "remove it, or use `kind: local` for the task")


def clipping(config: Config) -> Iterator[Conflict]:
    if config.partition.clip is not None and config.partition.scale == "none":
        message = "`clip` limits standardized features, but `scale` is none"
        yield Conflict(("partition", "clip"), message, "add `scale: train` or `scale: robust`, or remove it")


def length_of_local_training(config: Config) -> Iterator[Conflict]:
    epochs = ("train", "local_epochs")
    if config.train.local_epochs is None:
        return
    if config.train.local_steps is not None:
        hint = "remove one of them, or set it to null"
        yield Conflict(epochs, "`local_steps` and `local_epochs` both set the length of local training", hint)
    if isinstance(config.task, Episodic):
        message = "episodic tasks are sampled at random, so a node has no epochs"
        yield Conflict(epochs, message, "use `local_steps`, or `kind: local` for the task")


def schedules(config: Config) -> Iterator[Conflict]:
    for path in (("train", "outer"), ("aggregate", "server")):
        section = getattr(getattr(config, path[0]), path[1])
        for key, unset in (("over", 1.0), ("end", 0.0)):
            if section.schedule == "constant" and getattr(section, key) != unset:
                message = f"`{key}` has no effect: the step size is constant"
                yield Conflict((*path, key), message, "add `schedule: linear` or `schedule: cosine`, or remove it")


def validation(config: Config) -> Iterator[Conflict]:
    rule, new = config.train.early_stopping, config.task.new
    if rule and new.test is not None and not new.validation:  # null: the data set's own split, which may have some
        message = "nothing is held out for validation, so rounds cannot be evaluated"
        some = 0.1 if new.from_ == "rows" else 1
        yield Conflict(("train", "early_stopping"), message, f"add `validation: {some}` to `new` in `task`")
    if config.finetune.round == "best" and not rule and config.train.rounds:
        message = "`best` is the round with the best validation score, but rounds are not evaluated"
        hint = "add `early_stopping: {patience: null}` to `train`, which evaluates every round and never stops"
        yield Conflict(("finetune", "round"), message, hint)


def node_count(config: Config) -> Iterator[Conflict]:
    if config.partition.nodes is None and config.partition.name != "natural":
        message = f'`nodes` is missing in partition "{config.partition.name}"'
        yield Conflict(("partition", "nodes"), message, "add the number of nodes, such as `nodes: 8`")


def enough_nodes(config: Config) -> Iterator[Conflict]:
    nodes, new = config.partition.nodes, config.task.new
    if nodes is None:
        return
    held = 0
    if new.from_ == "nodes":
        test = len(new.test) if isinstance(new.test, list) else int(new.test or 0)
        held = test + int(new.validation)
    hint = "raise `partition.nodes`, or hold out fewer nodes"
    if held >= nodes:
        message = f"cannot hold out {held} of {nodes} nodes for new tasks: none would be left to train"
        yield Conflict(("task", "new", "test"), message, hint)
        return
    chosen, left = config.train.nodes_per_round, nodes - held
    if isinstance(chosen, int) and chosen > left:
        message = f"`nodes_per_round` is {chosen}, but only {left} nodes train ({nodes} minus {held} held out)"
        yield Conflict(("train", "nodes_per_round"), message, f"use `all` or at most {left}")


def support_and_query(config: Config) -> Iterator[Conflict]:
    if not isinstance(config.task, Local):
        return
    other, task = config.finetune.task, config.task
    pairs = {
        ("task", "query"): (task.support, task.query),
        ("finetune", "task"): (other.support or task.support, other.query or task.query),
    }
    for path, (support, query) in pairs.items():
        if isinstance(support, float) and isinstance(query, float) and support + query > 1 + 1e-9:
            message = f"`support` ({support}) and `query` ({query}) add up to more than all rows of a node"
            yield Conflict(path, message, "use fractions that add up to at most 1, or `query: rest`")
            return


def finetune_task(config: Config) -> Iterator[Conflict]:
    other = config.finetune.task
    if config.task.new.from_ == "rows" and other.query is not None:
        message = "with `from: rows`, all held-out rows are queries"
        yield Conflict(("finetune", "task", "query"), message, "remove it; only `support` can be limited")
    if isinstance(config.task, Local):
        for key in ("way", "shot"):
            if getattr(other, key) is not None:
                message = f"local tasks have no `{key}`: they keep the node's classes"
                yield Conflict(("finetune", "task", key), message, "remove it, or use `support` and `query`")
        return
    if other.support is not None:
        message = "episodic tasks have no `support`: its size is `way` times `shot`"
        yield Conflict(("finetune", "task", "support"), message, "use `shot` instead")
    if isinstance(other.query, float | str):
        message = "`query` of an episodic task must be a whole number of examples per class"
        yield Conflict(("finetune", "task", "query"), message, "for example `query: 15`")


def empty_query(config: Config) -> Iterator[Conflict]:
    from metadist_cli.learners import WHOLE_EPISODE

    if not isinstance(config.task, Episodic) or config.task.query:
        return
    if config.learner.name not in WHOLE_EPISODE:
        message = f'learner "{config.learner.name}" trains on query examples, but `query` is 0'
        names = ", ".join(sorted(WHOLE_EPISODE))
        yield Conflict(("task", "query"), message, f"use at least 1; learners that train without a query set: {names}")
    elif config.finetune.task.query is None:
        message = "`query` is 0, so new tasks have no examples to test on"
        yield Conflict(("task", "query"), message, "add `task: {query: 1}` to `finetune`")


def minibatches(config: Config) -> Iterator[Conflict]:
    from metadist_cli.learners import WHOLE_EPISODE

    if config.train.batch is None:
        return
    path, hint = ("train", "batch"), "remove it; the sizes in `task` apply"
    if isinstance(config.task, Episodic):
        yield Conflict(path, "`batch` has no effect on episodic tasks, which use all their examples", hint)
    elif config.learner.name not in WHOLE_EPISODE:
        message = (
            f'learner "{config.learner.name}" trains on `support` and `query` rows of a local task, not on batches'
        )
        yield Conflict(path, message, hint)


def pooled_personalization(config: Config) -> Iterator[Conflict]:
    if config.pooled and config.train.personal.name != "none":
        message = f"`{config.train.personal.name}` keeps parameters at each node, but pooled training has only one node"
        yield Conflict(("pooled",), message, "use a `train` section without `personal`")


def metrics_of_the_data(config: Config) -> Iterator[Conflict]:
    from metadist_cli.evaluation.metrics import METRICS

    wanted = [*config.finetune.metrics, config.finetune.headline]
    first = next((name for name in wanted if name in METRICS), None)
    kind = getattr(config.data, "kind", None) or (METRICS[first].kind if first else "")  # most data sets know it
    yield from metrics_of_kind(config, kind)


def metrics_of_kind(config: Config, kind: str) -> Iterator[Conflict]:
    """The metric that does not apply to data of this kind, if any."""
    from metadist_cli.evaluation.metrics import METRICS

    wanted = {("metrics", i): name for i, name in enumerate(config.finetune.metrics)}
    for path, name in {**wanted, ("headline",): config.finetune.headline}.items():
        if name in METRICS and METRICS[name].kind != kind:
            message = f"`{name}` is a metric for {METRICS[name].kind}, not for {kind}"
            fitting = ", ".join(key for key, metric in METRICS.items() if metric.kind == kind)
            yield Conflict(("finetune", *path), message, f"metrics for {kind}: {fitting}")
            return


def baseline_names(config: Config) -> Iterator[Conflict]:
    for name in sorted(RESERVED & config.baselines.keys()):
        message = f"`{name}` cannot be a baseline's name: it is reserved for reports"
        yield Conflict(("baselines", name), message, "choose another name")


def different_seeds(config: Config) -> Iterator[Conflict]:
    seeds = config.seeds or []
    if len(set(seeds)) < len(seeds):
        yield Conflict(("seeds",), "a seed is in the list twice", "write each seed once")


CHECKS: tuple[Callable[[Config], Iterator[Conflict]], ...] = (
    held_out_classes,
    held_out_amounts,
    steps_of_the_head,
    relabelling,
    clipping,
    length_of_local_training,
    schedules,
    validation,
    node_count,
    enough_nodes,
    support_and_query,
    finetune_task,
    empty_query,
    minibatches,
    pooled_personalization,
    metrics_of_the_data,
    baseline_names,
    different_seeds,
)


def conflicts(config: Config) -> Iterator[Conflict]:
    """All conflicts of the main model and of its baselines; one that they share is reported once."""
    main = [conflict for check in CHECKS for conflict in check(config)]
    yield from main
    for name, variant in variants(config).items():
        own = config.baselines[name].model_fields_set
        for conflict in (c for check in CHECKS for c in check(variant)):
            if conflict not in main:
                path = conflict.path if conflict.path[0] in own else ()
                yield conflict._replace(path=("baselines", name, *path))


def variants(config: Config) -> dict[str, Config]:
    """Each baseline as a full config by name: its sections replace those of the main model."""
    return {name: _replaced(config, baseline) for name, baseline in config.baselines.items()}


def variant(config: Config, **sections: Any) -> Config:
    """The config with some sections replaced, as a baseline with these sections would be."""
    return _replaced(config, Baseline.model_validate(sections))


def _replaced(config: Config, baseline: Baseline) -> Config:
    sections = {key: getattr(baseline, key) for key in type(baseline).model_fields}
    given = {key: section for key, section in sections.items() if section is not None}
    return config.model_copy(update=given | {"baselines": {}})
