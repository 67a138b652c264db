"""The keys that all optimizers share: how the step size changes over the rounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from metadist_cli.config.registry_sections import Section

if TYPE_CHECKING:
    from metadist_cli.config.schema import Config

Share = Annotated[float, Field(gt=0, le=1)]
Rounds = Annotated[int, Field(ge=1)]


class StepSize(Section):
    """Keys of every optimizer: the schedule of its step size."""

    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the step size falls: not at all, linearly, or along half a cosine."
    )
    over: Rounds | Share = Field(
        1.0, description="Rounds over which it falls, or a fraction of the run: 1.0 is all rounds, 1 the first alone."
    )
    end: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Fraction of lr that it falls to.")
    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0, description="Rounds, or the fraction of the run, during which the step size rises to lr."
    )


class Outer(StepSize):
    """Keys of the nodes' optimizer."""

    clip: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest norm of a step's gradient; a longer one is shortened to it. null: no limit."
    )


def rounds_of(amount: float, rounds: int) -> float:
    """The rounds that `over` or `warmup` means in a run of `rounds` rounds."""
    return amount if isinstance(amount, int) else amount * rounds


def stretches(config: Config) -> bool:
    """Whether a schedule depends on train.rounds."""
    for section in (config.train.outer, config.aggregate.server):
        falls = section.schedule != "constant" and isinstance(section.over, float)
        if falls or isinstance(section.warmup, float):
            return True
    return False


def idle_rounds(config: Config) -> list[str]:
    """A sentence for each schedule that leaves rounds in which the step size is 0."""
    found = []
    for key, section in (("train.outer", config.train.outer), ("aggregate.server", config.aggregate.server)):
        if section.schedule == "constant" or section.end:
            continue
        rounds = config.train.rounds
        last = math.ceil(max(rounds_of(section.over, rounds), rounds_of(section.warmup, rounds)) - 1e-9)
        if last < rounds:
            found.append(
                f"{key}: the step size is 0 from round {last + 1} on, so {rounds - last} of {rounds} rounds change "
                f"nothing; remove `over` to let it fall over the whole run, or set train.rounds to {last}"
            )
    return found
