"""The sections of a config: what each key means, its type, range and default."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from metadist_cli.config.registry_sections import Choice, Model, ScoreName, Section

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(rf"([1-9][0-9]{{0,5}}) ?({'|'.join(UNITS)})")

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Amount = Positive | Fraction  # rows, or a fraction of a node's rows
Held = Positive | Fraction | Annotated[list[str], Field(min_length=1)]  # how many, what fraction, or which by name


class Partition(Section):
    nodes: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Number of nodes; needed unless the natural groups are the nodes."
    )
    rotate: Annotated[float, Field(ge=0, le=360)] = Field(
        0.0,
        description="Degrees: each node's images are turned by an angle of its own, within +- half of it.",
    )
    relabel: bool = Field(False, description="Each node numbers the classes in a way of its own.")
    scale: Literal["none", "node", "train"] = Field(
        "none",
        description="Standardise each feature (z-score) by the training rows of its node, or of all training nodes.",
    )


def _default(description: str, **section: Any) -> Any:
    return Field(default=section, description=description)


class New(Model):
    from_: Literal["classes", "nodes"] = Field("classes", alias="from", description="What new tasks are made of.")
    test: Held | None = Field(
        None, description="How many are held out for testing, or their names; null: as the data set's own split says."
    )
    validation: Annotated[int, Field(ge=0)] | Fraction = Field(0, description="How many are held out for validation.")


class NewLocal(New):
    from_: Literal["nodes", "rows", "classes"] = Field(
        "nodes",
        alias="from",
        description="nodes: whole nodes are new tasks; rows: every node keeps some of its own rows back.",
    )
    test: Held | None = Field(
        None,
        description="How many nodes (default 1), or their names; of rows a fraction; null: the data set's own split.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_node(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("from", "nodes") == "nodes" and value.get("test") is None:
            return value | {"test": 1}
        return value


class Episodic(Model):
    kind: Literal["episodic"] = Field(
        description="episodic: way classes of a node, renumbered, with shot examples each."
    )
    way: Positive = Field(5, description="Classes in a task.")
    shot: Positive = Field(1, description="Support examples of each class.")
    query: Annotated[int, Field(ge=0)] = Field(15, description="Query examples of each class.")
    new: New = _default("What is kept for new tasks.")


class Local(Model):
    kind: Literal["local"] = Field(description="local: the node's own data and labels, split into support and query.")
    support: Amount = Field(
        0.2,
        description="Support rows of a node, or a fraction (in training of the poorest node's rows).",
    )
    query: Amount | Literal["rest"] = Field("rest", description="Query rows of a node, or their fraction, or the rest.")
    new: NewLocal = _default("What is kept for new tasks.")


class Train(Model):
    rounds: Annotated[int, Field(ge=0)] = Field(10, description="Rounds of local training and aggregation.")
    local_steps: Positive | None = Field(
        None, description="Outer steps of a node in a round; 10 if no length is given."
    )
    local_epochs: Positive | None = Field(None, description="Passes of a node over its rows in a round (local tasks).")
    batch: Positive | None = Field(
        None,
        description="Rows of a step in local tasks, for learners that set no support aside; null: as the task says.",
    )
    meta_batch: Positive | None = Field(
        None,
        description="Tasks whose gradients are averaged in one outer step; null: 4, or 1 where a task is a mere batch.",
    )
    nodes_per_round: Literal["all"] | Positive | Fraction = Field(
        "all", description="Nodes that take part in a round: all, a number, or a fraction of the training nodes."
    )
    outer: Annotated[Section, Choice("optimizer", name="adam", lr=1e-3)] = _default(
        "Optimizer of the outer steps at the nodes.", name="adam"
    )
    outer_state: Literal["reset", "keep", "average"] = Field(
        "reset", description="What becomes of the outer optimizer's moments between rounds."
    )
    drift: Annotated[Section, Choice("drift correction", name="none")] = _default(
        "Correction that keeps local steps from drifting apart.", name="none"
    )
    personal: Annotated[Section, Choice("personal part", name="none")] = _default(
        "What stays at a node: a part of the model, or a model of its own.", name="none"
    )
    augment: Annotated[Section, Choice("augmentation", name="none")] = _default(
        "What changes in the rows of a training task each time it is drawn.", name="none"
    )
    keep_nodes: Literal["none", "last", "all"] = Field("none", description="Which rounds' node files are kept.")

    @model_validator(mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("local_steps") is None and value.get("local_epochs") is None:
            return value | {"local_steps": 10}
        return value


class Aggregate(Section):
    server: Annotated[Section, Choice("optimizer", name="sgd", lr=1.0)] = _default(
        "Server optimizer; sgd with lr 1 takes the aggregate as it is.", name="sgd"
    )


class OtherTask(Model):
    way: Positive | None = Field(None, description="Classes in a new task; null: as in training.")
    shot: Positive | None = Field(None, description="Support examples of each class; null: as in training.")
    query: Amount | Literal["rest"] | None = Field(None, description="Query examples; null: as in training.")
    support: Amount | None = Field(None, description="Support rows of a local task; null: as in training.")


class Finetune(Model):
    name: str = Field("new", pattern=NAME, examples=["new"], description="Folder of the results, below finetune/.")
    steps: Annotated[int, Field(ge=0)] | None = Field(None, description="Steps of adaptation; null: as in training.")
    batch: Positive | None = Field(None, description="Rows of a minibatch in adaptation; null: the whole support set.")
    episodes: Positive = Field(600, description="New tasks over which the report averages.")
    held_out: Literal["test", "validation"] = Field(
        "test", description="Which held-out classes or nodes new tasks come from; choose settings on validation."
    )
    transductive: bool = Field(False, description="Normalise the query examples together, so that they see each other.")
    save: Literal["first", "none", "all"] = Field("first", description="Which adapted models are saved.")
    metrics: list[Annotated[str, ScoreName()]] = Field(
        [], description="Further scores beside accuracy (mse in a regression), which is always there."
    )
    predictions: bool = Field(False, description="Write every prediction to a file.")
    task: OtherTask = _default("Sizes of new tasks where they differ from training.")
    round: Annotated[int, Field(ge=0)] | None = Field(None, description="Round whose model adapts; null: the newest.")


class Execution(Model):
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        description="Where to compute.",
    )
    block: Literal["auto"] | Positive = Field("auto", description="Nodes that are computed as one program.")
    tasks_at_once: Literal["auto"] | Positive = Field(
        "auto", description="Tasks of a node's step that are computed as one program."
    )
    compile: bool = Field(
        False,
        description="Make a block's step one kernel by torch.compile: half a minute to a minute for each size of a "
        "block, then small networks are about 1.5 times as fast; convolutions are not.",
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="Of products: float32; tf32, 10 bits, on a GPU; bf16, 8 bits for all that hidden layers give, "
        "where the device has it, which is 1.3 to 1.7 times as fast for heads on images. Parameters stay float32.",
    )
    threads: Literal["auto"] | Positive = Field(
        "auto", description="Blocks computed side by side on the CPU; changes no bit."
    )
    replay: bool = Field(
        True,
        description="Record a training step once and replay it: faster, with the same bits.",
    )
    workers: Positive = Field(1, description="Processes on this machine that train blocks of nodes; changes no bit.")
    memory: str = Field(
        "2GiB",
        examples=["512MiB", "2GiB"],
        description="Upper bound for a block's working set (a CPU takes 192MiB at most, which is faster).",
    )

    @field_validator("memory")
    @classmethod
    def _size(cls, text: str) -> str:
        size(text)
        return text


class Baseline(Model):
    pooled: bool | None = Field(None, description="Whether it trains on the rows of all training nodes as one node.")
    model: Annotated[Section, Choice("model", name="mlp")] | None = Field(None, description="Its own model section.")
    learner: Annotated[Section, Choice("learner", name="maml")] | None = Field(None, description="Its own learner.")
    train: Train | None = Field(None, description="Its own train section.")
    aggregate: Annotated[Aggregate, Choice("aggregator", Aggregate, name="mean")] | None = Field(
        None, description="Its own aggregate section."
    )

    @model_serializer(mode="wrap")
    def _given(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: section for key, section in serialise(self).items() if section is not None}


class Config(Model):
    """An experiment of metadist."""

    name: str = Field(
        pattern=NAME,
        examples=["omniglot-maml"],
        description="Name of the run and its folder: small letters, digits, - and _; default: the file's name.",
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="All randomness follows from it.")
    data: Annotated[Section, Choice("data set", name="digits")] = _default("The data set.", name="digits")
    task: Annotated[Episodic | Local, Field(discriminator="kind")] = Field(description="What a task is.")
    partition: Annotated[Partition, Choice("partitioner", Partition, name="iid")] = _default(
        "How the data are dealt to the nodes.", name="iid"
    )
    model: Annotated[Section, Choice("model", name="mlp")] = _default("The model.", name="mlp")
    learner: Annotated[Section, Choice("learner", name="maml")] = _default("The learning algorithm.", name="maml")
    train: Train = _default("Rounds and local work.")
    uplink: list[Annotated[Section, Choice("uplink")]] = Field(
        [], description="What happens to an update before it leaves a node, in this order; []: it is sent as it is."
    )
    aggregate: Annotated[Aggregate, Choice("aggregator", Aggregate, name="mean")] = _default(
        "How the nodes' models become one.", name="mean"
    )
    pooled: bool = Field(
        False,
        description="Train on the rows of all training nodes as one node, which no federation could: for comparison.",
    )
    finetune: Finetune = _default("Adaptation to new tasks and its report.")
    execution: Execution = _default("Device, block, threads and memory; changes at most the last bits.")
    baselines: dict[Annotated[str, Field(pattern=NAME)], Baseline] = Field(
        {}, description="Other models to train beside the main one; each replaces whole sections."
    )

    def resolved(self) -> dict[str, Any]:
        """All settings with their defaults written, in plain types that JSON and YAML know."""
        return self.model_dump(mode="json", by_alias=True)


def size(text: str) -> int:
    """Bytes of a size such as 512MiB or 2GiB. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"a size such as 512MiB or 2GiB (units: {', '.join(UNITS)})")
    return int(match[1]) * UNITS[match[2]]
