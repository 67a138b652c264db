"""What no single key can know: settings that contradict one another. A new check: one function, one entry in CHECKS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from metadist_cli.config.positions import Path
from metadist_cli.config.schema import Baseline, Config, Episodic, Local

RESERVED = {"main", "scratch"}  # the report calls the main model and the untrained one so


class Complaint(NamedTuple):
    path: Path  # of the line to change
    message: str
    hint: str


def held_out_classes(config: Config) -> Iterator[Complaint]:
    if isinstance(config.task, Local) and config.task.new.from_ == "classes":
        message = "local tasks keep the data set's own classes, so new tasks cannot be held-out classes"
        yield Complaint(("task", "new", "from"), message, "write `from: nodes`, or `kind: episodic` for the task")


def how_much_is_held_out(config: Config) -> Iterator[Complaint]:
    new = config.task.new
    for key in ("test", "validation"):
        value = getattr(new, key)
        if new.from_ == "rows" and value and not isinstance(value, float):
            message = f"of every node's rows a fraction is kept back, {key}: {value} is none"
            yield Complaint(("task", "new", key), message, "for example 0.25")
        if new.from_ != "rows" and isinstance(value, float):
            message = f"{key}: {value} is a fraction, but whole {new.from_} are held out"
            rows = f", or write `from: rows` for {value} of every node" if isinstance(config.task, Local) else ""
            yield Complaint(("task", "new", key), message, f"say how many{rows}")


def turns_of_parts(config: Config) -> Iterator[Complaint]:
    train, head_steps = config.train, getattr(config.train.personal, "head_steps", 0)
    if train.local_steps is not None and head_steps >= train.local_steps:
        message = f"`head_steps` is {head_steps} of {train.local_steps} local steps: the shared part would never train"
        yield Complaint(("train", "personal", "head_steps"), message, "use fewer, or raise `local_steps`")


def relabelled(config: Config) -> Iterator[Complaint]:
    if isinstance(config.task, Episodic) and config.partition.relabel:
        message = "`relabel` has no meaning for episodic tasks: each one numbers its classes anew"
        yield Complaint(("partition", "relabel"), message, "take it out, or use `kind: local` for the task")


def length_of_local_work(config: Config) -> Iterator[Complaint]:
    epochs = ("train", "local_epochs")
    if config.train.local_epochs is None:
        return
    if config.train.local_steps is not None:
        hint = "keep one of the two; the other is null or left out"
        yield Complaint(epochs, "`local_steps` and `local_epochs` both set the length of local work", hint)
    if isinstance(config.task, Episodic):
        message = "episodic tasks are drawn at random, so a node has no epochs"
        yield Complaint(epochs, message, "use `local_steps`, or `kind: local` for the task")


def node_count(config: Config) -> Iterator[Complaint]:
    if config.partition.nodes is None and config.partition.name != "natural":
        message = f'`nodes` is missing in partition "{config.partition.name}"'
        yield Complaint(
            ("partition", "nodes"), message, "say over how many nodes the data are dealt, such as `nodes: 8`"
        )


def enough_nodes(config: Config) -> Iterator[Complaint]:
    nodes, new = config.partition.nodes, config.task.new
    if nodes is None:
        return
    held = 0
    if new.from_ == "nodes":
        test = len(new.test) if isinstance(new.test, list) else int(new.test or 0)
        held = test + int(new.validation)
    hint = "raise `partition.nodes`, or hold out fewer"
    if held >= nodes:
        message = f"{held} nodes are held out for new tasks, but there are {nodes}: none is left to train"
        yield Complaint(("task", "new", "test"), message, hint)
        return
    chosen, left = config.train.nodes_per_round, nodes - held
    if isinstance(chosen, int) and chosen > left:
        message = f"`nodes_per_round` is {chosen}, but {left} nodes train ({nodes} less {held} held out)"
        yield Complaint(("train", "nodes_per_round"), message, f"use `all` or at most {left}")


def split_of_rows(config: Config) -> Iterator[Complaint]:
    if not isinstance(config.task, Local):
        return
    other, task = config.finetune.task, config.task
    pairs = {
        ("task", "query"): (task.support, task.query),
        ("finetune", "task"): (other.support or task.support, other.query or task.query),
    }
    for path, (support, query) in pairs.items():
        if isinstance(support, float) and isinstance(query, float) and support + query > 1 + 1e-9:
            message = f"support {support} and query {query} are together more than all rows of a node"
            yield Complaint(path, message, "use fractions whose sum is at most 1, or `query: rest`")
            return


def other_task(config: Config) -> Iterator[Complaint]:
    other = config.finetune.task
    if config.task.new.from_ == "rows" and other.query is not None:
        message = "the query of held-back rows is all of them"
        yield Complaint(("finetune", "task", "query"), message, "take it out; `support` may be fewer than all")
    if isinstance(config.task, Local):
        for key in ("way", "shot"):
            if getattr(other, key) is not None:
                message = f"local tasks have no `{key}`: they keep the node's classes"
                yield Complaint(("finetune", "task", key), message, "take it out, or use `support` and `query`")
        return
    if other.support is not None:
        message = "episodic tasks have no `support`: it is way times shot"
        yield Complaint(("finetune", "task", "support"), message, "use `shot`")
    if isinstance(other.query, float | str):
        message = "`query` of an episodic task must be a whole number: examples of each class"
        yield Complaint(("finetune", "task", "query"), message, "for example `query: 15`")


def empty_query(config: Config) -> Iterator[Complaint]:
    from metadist_cli.learners import WHOLE_EPISODE

    if not isinstance(config.task, Episodic) or config.task.query:
        return
    if config.learner.name not in WHOLE_EPISODE:
        message = f'learner "{config.learner.name}" learns from the query examples, but `query` is 0'
        names = ", ".join(sorted(WHOLE_EPISODE))
        yield Complaint(("task", "query"), message, f"use at least 1; 0 is for learners without a query set ({names})")
    elif config.finetune.task.query is None:
        message = "`query` is 0, so new tasks would have nothing to be tested on"
        yield Complaint(("task", "query"), message, "add `task: {query: 1}` to `finetune`")


def rows_of_a_step(config: Config) -> Iterator[Complaint]:
    from metadist_cli.learners import WHOLE_EPISODE

    if config.train.batch is None:
        return
    path, hint = ("train", "batch"), "take it out; the task's own sizes count"
    if isinstance(config.task, Episodic):
        yield Complaint(path, "episodic tasks have way times shot rows: a minibatch has no meaning", hint)
    elif config.learner.name not in WHOLE_EPISODE:
        message = f'learner "{config.learner.name}" takes `support` and `query` rows of a local task, not a minibatch'
        yield Complaint(path, message, hint)


def nothing_personal(config: Config) -> Iterator[Complaint]:
    if config.pooled and config.train.personal.name != "none":
        message = f"`{config.train.personal.name}` keeps something at each node, and pooled rows are of none"
        yield Complaint(("pooled",), message, "give it a `train` section without `personal`")


def kinds_of_metrics(config: Config) -> Iterator[Complaint]:
    from metadist_cli.evaluation.metrics import SCORES

    names = config.finetune.metrics
    kind = getattr(config.data, "kind", None) or (SCORES[names[0]].kind if names else "")  # most readers just know it
    for i, name in enumerate(names):
        if SCORES[name].kind != kind:
            message = f"`{name}` is a score of a {SCORES[name].kind}, not of a {kind}"
            yield Complaint(("finetune", "metrics", i), message, "keep those that the data need")
            return


def names_of_baselines(config: Config) -> Iterator[Complaint]:
    for name in sorted(RESERVED & config.baselines.keys()):
        message = f"`{name}` cannot be a baseline's name: the report uses it"
        yield Complaint(("baselines", name), message, "choose another name")


CHECKS: tuple[Callable[[Config], Iterator[Complaint]], ...] = (
    held_out_classes,
    how_much_is_held_out,
    turns_of_parts,
    relabelled,
    length_of_local_work,
    node_count,
    enough_nodes,
    split_of_rows,
    other_task,
    empty_query,
    rows_of_a_step,
    nothing_personal,
    kinds_of_metrics,
    names_of_baselines,
)


def complaints(config: Config) -> Iterator[Complaint]:
    """What the settings contradict, for the main model and each of its baselines."""
    main = [complaint for check in CHECKS for complaint in check(config)]
    yield from main
    for name, variant in variants(config).items():
        own = config.baselines[name].model_fields_set
        for complaint in (c for check in CHECKS for c in check(variant)):
            if complaint not in main:
                path = complaint.path if complaint.path[0] in own else ()
                yield complaint._replace(path=("baselines", name, *path))


def variants(config: Config) -> dict[str, Config]:
    """Each baseline as a whole config: its sections in place of the main ones, without baselines."""
    return {name: _variant(config, baseline) for name, baseline in config.baselines.items()}


def _variant(config: Config, baseline: Baseline) -> Config:
    sections = {key: getattr(baseline, key) for key in type(baseline).model_fields}
    given = {key: section for key, section in sections.items() if section is not None}
    return config.model_copy(update=given | {"baselines": {}})
