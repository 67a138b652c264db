"""The sections of a config: description, type, range and default of each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from metadist_cli.config.early_stopping import EarlyStopping
from metadist_cli.config.registry_sections import FromRegistry, Model, Section
from metadist_cli.config.schema_running import NAME, Amount, Execution, Finetune, Fraction, Positive
from metadist_cli.config.schema_running import default_section as _default
from metadist_cli.config.step_sizes import Outer, StepSize

Seed = Annotated[int, Field(ge=0)]
Selection = Positive | Fraction | Annotated[list[str], Field(min_length=1)]  # how many, which fraction, or which names


class Partition(Section):
    nodes: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Number of nodes; required unless each natural group is a node."
    )
    rotate: Annotated[float, Field(ge=0, le=360)] = Field(
        0.0,
        description="Degrees: each node's images are rotated by an angle of its own, within half of this either way.",
    )
    relabel: bool = Field(False, description="Each node numbers the classes in its own order.")
    scale: Literal["none", "node", "support", "train", "robust"] = Field(
        "none",
        description="Standardize features (z-scores) by each node's training rows, or by those of all training nodes "
        "(robust: by their median and quartiles). A held-out node has none: node takes all its rows, support the "
        "task's support.",
    )
    clip: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest standardized feature, either way, in standard deviations; null: no limit."
    )
    targets: Literal["train", "none"] = Field(
        "train",
        description="Standardize a regression's targets by those of the training nodes (scores and predictions are in "
        "the data's units), or none.",
    )
    too_small: Literal["refuse", "drop"] = Field(
        "refuse", description="Nodes with too few rows or classes for a task: refuse to start, or leave them out."
    )


class New(Model):
    from_: Literal["classes", "nodes"] = Field("classes", alias="from", description="What is held out for new tasks.")
    test: Selection | None = Field(
        None, description="How many to hold out for testing, or their names; null: the data set's own split."
    )
    validation: Annotated[int, Field(ge=0)] | Fraction = Field(0, description="How many to hold out for validation.")


class NewLocal(New):
    from_: Literal["nodes", "rows", "classes"] = Field(
        "nodes",
        alias="from",
        description="nodes: whole nodes are held out; rows: some rows of every node are held out.",
    )
    test: Selection | None = Field(
        None,
        description="Number or names of nodes (default 1); with rows, a fraction; null: the data set's own split.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_node(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("from", "nodes") == "nodes" and value.get("test") is None:
            return value | {"test": 1}
        return value


class Episodic(Model):
    kind: Literal["episodic"] = Field(
        description="episodic: `way` classes sampled from a node and renumbered, with `shot` support examples each."
    )
    way: Positive = Field(5, description="Classes per task.")
    shot: Positive = Field(1, description="Support examples per class.")
    query: Annotated[int, Field(ge=0)] = Field(15, description="Query examples per class.")
    new: New = _default("Which classes, nodes or rows are held out for new tasks.")


class Local(Model):
    kind: Literal["local"] = Field(description="local: the node's own data and labels, split into support and query.")
    support: Amount = Field(
        0.2,
        description="Support rows per node, or a fraction of them (in training, of the smallest node's rows).",
    )
    query: Amount | Literal["rest"] = Field("rest", description="Query rows per node, a fraction of them, or the rest.")
    new: NewLocal = _default("Which classes, nodes or rows are held out for new tasks.")


class Train(Model):
    rounds: Annotated[int, Field(ge=0)] = Field(10, description="Rounds of local training and aggregation.")
    local_steps: Positive | None = Field(
        None, description="Outer steps per node and round; default 10 unless `local_epochs` is set."
    )
    local_epochs: Positive | None = Field(None, description="Passes of a node over its rows per round (local tasks).")
    batch: Positive | None = Field(
        None,
        description="Rows per step of local tasks, for learners without a query set; null: the task's own sizes.",
    )
    meta_batch: Positive | None = Field(
        None,
        description="Tasks whose gradients are averaged in an outer step; null: 4, or 1 if a task is a plain batch.",
    )
    nodes_per_round: Literal["all"] | Positive | Fraction = Field(
        "all", description="Nodes per round: all, a number, or a fraction of the training nodes."
    )
    outer: Annotated[Outer, FromRegistry("optimizer", Outer, name="adam", lr=1e-3)] = _default(
        "Optimizer for the outer steps on each node.", name="adam"
    )
    outer_state: Literal["reset", "keep", "average"] = Field(
        "reset",
        description="The outer optimizer's state between rounds: reset, kept by each node, or averaged over nodes.",
    )
    drift: Annotated[Section, FromRegistry("drift correction", name="none")] = _default(
        "Correction for client drift during local training.", name="none"
    )
    personal: Annotated[Section, FromRegistry("personal part", name="none")] = _default(
        "What each node keeps to itself: part of the model, or a second model.", name="none"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: in each step every class weighs the same, however few rows it has."
    )
    augment: Annotated[Section, FromRegistry("augmentation", name="none")] = _default(
        "Random changes to the rows of a training task each time it is sampled.", name="none"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="Evaluate rounds on validation tasks, and stop when they no longer improve; null: do neither."
    )
    keep_nodes: Literal["none", "last", "all"] = Field("none", description="Rounds whose node files are kept.")
    node_metrics: bool = Field(
        False, description="Write each node's training loss and score in each round to rounds.csv."
    )

    @model_validator(mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("local_steps") is None and value.get("local_epochs") is None:
            return value | {"local_steps": 10}
        return value


class Aggregate(Section):
    server: Annotated[StepSize, FromRegistry("optimizer", StepSize, name="sgd", lr=1.0)] = _default(
        "Server optimizer; sgd with lr 1 uses the aggregate unchanged.", name="sgd"
    )


class Baseline(Model):
    pooled: bool | None = Field(None, description="Whether to train on the rows of all training nodes as one node.")
    model: Annotated[Section, FromRegistry("model", name="mlp")] | None = Field(
        None, description="Replaces the model section."
    )
    learner: Annotated[Section, FromRegistry("learner", name="maml")] | None = Field(
        None, description="Replaces the learner section."
    )
    train: Train | None = Field(None, description="Replaces the train section.")
    aggregate: Annotated[Aggregate, FromRegistry("aggregator", Aggregate, name="mean")] | None = Field(
        None, description="Replaces the aggregate section."
    )

    @model_serializer(mode="wrap")
    def _given(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: section for key, section in serialise(self).items() if section is not None}


class Config(Model):
    """A metadist experiment."""

    name: str = Field(
        pattern=NAME,
        examples=["omniglot-maml"],
        description="Name of the run and its folder: lowercase letters, digits, - and _.",
        json_schema_extra={"default": "the file's name"},
    )
    seed: Seed = Field(0, description="Seed of all randomness.")
    seeds: Annotated[list[Seed], Field(min_length=2)] | None = Field(
        None, description="Several seeds: every command works on a run for each, and the spread over them is shown."
    )
    data: Annotated[Section, FromRegistry("data set", name="digits")] = _default("Data set.", name="digits")
    task: Annotated[Episodic | Local, Field(discriminator="kind")] = Field(description="How tasks are made.")
    partition: Annotated[Partition, FromRegistry("partitioner", Partition, name="iid")] = _default(
        "How data are split over the nodes.", name="iid"
    )
    model: Annotated[Section, FromRegistry("model", name="mlp")] = _default("Model.", name="mlp")
    learner: Annotated[Section, FromRegistry("learner", name="maml")] = _default(
        "Meta-learning algorithm.", name="maml"
    )
    train: Train = _default("Rounds and local training.")
    uplink: list[Annotated[Section, FromRegistry("uplink")]] = Field(
        [], description="Transformations of an update before it leaves a node, in order; []: send it unchanged."
    )
    aggregate: Annotated[Aggregate, FromRegistry("aggregator", Aggregate, name="mean")] = _default(
        "How the nodes' models are combined.", name="mean"
    )
    pooled: bool = Field(
        False,
        description="Centralized training for comparison: the rows of all training nodes form one node.",
    )
    finetune: Finetune = _default("Adaptation to new tasks and its evaluation.")
    execution: Execution = _default("How to compute: device, threads, memory; results differ in the last bits at most.")
    baselines: dict[Annotated[str, Field(pattern=NAME)], Baseline] = Field(
        {},
        description="Models to train for comparison; each replaces whole sections of the main one. auto: fedavg, which "
        "is {learner: {name: supervised}}.",
    )

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("baselines") != "auto":
            return value
        learner = value.get("learner")
        averaged = isinstance(learner, dict) and learner.get("name") == "supervised"
        return value | {"baselines": {} if averaged else {"fedavg": {"learner": {"name": "supervised"}}}}

    def resolved(self) -> dict[str, Any]:
        """All settings, defaults included, as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)
