"""The sections of a config: description, type, range and default of each key."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from metadist_cli.config.registry_sections import FromRegistry, Model, ScoreName, Section

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(rf"([1-9][0-9]{{0,5}}) ?({'|'.join(UNITS)})")

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Amount = Positive | Fraction  # a number of rows, or a fraction of a node's rows
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
    scale: Literal["none", "node", "train"] = Field(
        "none",
        description="Standardize features (z-scores) by the training rows of each node, or of all training nodes.",
    )


def _default(description: str, **section: Any) -> Any:
    return Field(default=section, description=description)


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
    outer: Annotated[Section, FromRegistry("optimizer", name="adam", lr=1e-3)] = _default(
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
    augment: Annotated[Section, FromRegistry("augmentation", name="none")] = _default(
        "Random changes to the rows of a training task each time it is sampled.", name="none"
    )
    keep_nodes: Literal["none", "last", "all"] = Field("none", description="Rounds whose node files are kept.")

    @model_validator(mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("local_steps") is None and value.get("local_epochs") is None:
            return value | {"local_steps": 10}
        return value


class Aggregate(Section):
    server: Annotated[Section, FromRegistry("optimizer", name="sgd", lr=1.0)] = _default(
        "Server optimizer; sgd with lr 1 uses the aggregate unchanged.", name="sgd"
    )


class OtherTask(Model):
    way: Positive | None = Field(None, description="Classes per new task; null: as in training.")
    shot: Positive | None = Field(None, description="Support examples per class; null: as in training.")
    query: Amount | Literal["rest"] | None = Field(None, description="Query examples; null: as in training.")
    support: Amount | None = Field(None, description="Support rows of a local task; null: as in training.")


class Finetune(Model):
    name: str = Field(
        "new", pattern=NAME, examples=["new"], description="Name of the results' folder, inside finetune/."
    )
    steps: Annotated[int, Field(ge=0)] | None = Field(None, description="Adaptation steps; null: as in training.")
    batch: Positive | None = Field(None, description="Minibatch size in adaptation; null: the whole support set.")
    episodes: Positive = Field(600, description="New tasks to evaluate and average.")
    held_out: Literal["test", "validation"] = Field(
        "test", description="Which held-out part new tasks come from; use validation to choose settings."
    )
    transductive: bool = Field(
        False, description="Normalize the query examples of a task together, so each depends on the others."
    )
    save: Literal["first", "none", "all"] = Field("first", description="Which adapted models to save.")
    metrics: list[Annotated[str, ScoreName()]] = Field(
        [], description="Metrics besides accuracy (in regression: mse), which is always reported."
    )
    predictions: bool = Field(False, description="Write every prediction to a file.")
    task: OtherTask = _default("Sizes of new tasks that differ from training.")
    round: Annotated[int, Field(ge=0)] | None = Field(None, description="Round whose model to adapt; null: the latest.")


class Execution(Model):
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        description="Device to compute on; auto: cuda if available, otherwise cpu.",
    )
    block: Literal["auto"] | Positive = Field("auto", description="Nodes computed together in one vectorized program.")
    tasks_at_once: Literal["auto"] | Positive = Field(
        "auto", description="Tasks of a step computed together in one vectorized program."
    )
    compile: bool = Field(
        False,
        description="Compile each block's step with torch.compile: 30 to 60 s per block size, then about 1.5 times as "
        "fast for small networks, but not for convolutions.",
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="Precision of matrix products: float32; tf32 (GPU only); or bf16 for hidden layers, if the device "
        "supports it (1.3 to 1.7 times as fast for solved heads on images). Parameters stay float32.",
    )
    threads: Literal["auto"] | Positive = Field(
        "auto", description="Blocks computed in parallel threads on the CPU; results are bit-identical."
    )
    replay: bool = Field(
        True, description="Record each training step once and replay it: faster; bit-identical results."
    )
    workers: Positive = Field(1, description="Training processes on this machine; results are bit-identical.")
    memory: str = Field(
        "2GiB",
        examples=["512MiB", "2GiB"],
        description="Memory limit for a block's working set (on a CPU at most 192MiB, which is faster).",
    )

    @field_validator("memory")
    @classmethod
    def _size(cls, text: str) -> str:
        size(text)
        return text


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
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of all randomness.")
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
        {}, description="Models to train for comparison; each replaces whole sections of the main one."
    )

    def resolved(self) -> dict[str, Any]:
        """All settings, defaults included, as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)


def size(text: str) -> int:
    """Parse a size such as "512MiB" or "2GiB".

    Args:
        text: A whole number and a unit: KiB, MiB, GiB or TiB.

    Returns:
        The size in bytes.

    Raises:
        ValueError: Any other text.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"a size such as 512MiB or 2GiB (units: {', '.join(UNITS)})")
    return int(match[1]) * UNITS[match[2]]
