"""The sections of a config about a trained model's evaluation, and about where and how everything is computed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from metadist_cli.config.registry_sections import Model, ScoreName

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(rf"([1-9][0-9]{{0,5}}) ?({'|'.join(UNITS)})")

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Amount = Positive | Fraction  # a number of rows, or a fraction of a node's rows


def default_section(description: str, **section: Any) -> Any:
    return Field(default=section, description=description)


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
    headline: Literal["auto"] | Annotated[str, ScoreName()] = Field(
        "auto",
        description="Metric of the headline and its verdicts; auto: accuracy (in regression: mse), or "
        "balanced_accuracy where the most frequent class alone comes a quarter of the way from chance to 100%.",
    )
    predictions: bool = Field(
        False, description="Write every prediction to predictions.csv, those of other methods to predictions/."
    )
    parquet: bool = Field(False, description="Write the table of scores by node and method (nodes.csv) as Parquet too.")
    tune: bool = Field(
        True,
        description="Evaluate what a node can do alone, and choose by cross-validation in the support what that and "
        "supervised baselines need (step size, number of steps); false: baselines adapt as they are configured.",
    )
    task: OtherTask = default_section("Sizes of new tasks that differ from training.")
    round: Annotated[int, Field(ge=0)] | Literal["best"] | None = Field(
        None,
        description="Round whose model to adapt; best: the one with the best validation score (train.early_stopping); "
        "null: the latest.",
    )


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
