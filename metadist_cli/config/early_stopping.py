"""The keys of train.early_stopping: which rounds are evaluated on validation tasks, and when training stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from metadist_cli.config.registry_sections import Model

if TYPE_CHECKING:
    from metadist_cli.config.schema import Config


class EarlyStopping(Model):
    on: Literal["validation"] = Field(
        "validation", description="What rounds are evaluated on: tasks of what task.new.validation holds out."
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        5, description="Evaluations in a row without a better score after which training stops; null: never."
    )
    every: Annotated[int, Field(ge=1)] = Field(1, description="Evaluate every round, every second one, and so on.")


def patience(config: Config) -> int | None:
    """Evaluations without a better score after which training stops; None: it does not."""
    rule = config.train.early_stopping
    return None if rule is None else rule.patience
