"""Config sections derived from the registries: `name` selects an entry, whose parameters are the section's keys.

A builder's keyword-only parameters are the keys of its section, so the keys, their help, the JSON Schema and the code
cannot disagree.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.annotated_handlers import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Model(BaseModel):
    """Base of all config sections: unknown keys are errors, and text is never converted to a number."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,  # the first validation imports the registries, and with them torch
        protected_namespaces=(),
        validate_default=True,
    )


class Section(Model):
    """A section whose `name` selects a registry entry."""

    name: str


def registries() -> dict[str, dict[str, Callable[..., Any]]]:
    """All registries, by the noun that messages use for an entry."""
    from metadist_cli import learners, models
    from metadist_cli.core import optimizers
    from metadist_cli.data import sets
    from metadist_cli.federated import aggregators, drift_corrections, personalization, uplink
    from metadist_cli.partition import partitioners
    from metadist_cli.tasks import augmentation

    return {
        "data set": sets.DATASETS,
        "partitioner": partitioners.PARTITIONERS,
        "model": models.MODELS,
        "learner": learners.LEARNERS,
        "optimizer": optimizers.OPTIMIZERS,
        "aggregator": aggregators.AGGREGATORS,
        "uplink": uplink.UPLINKS,
        "drift correction": drift_corrections.DRIFTS,
        "personal part": personalization.PERSONAL,
        "augmentation": augmentation.AUGMENTS,
    }


def options(builder: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a builder, by name: its keys in a config."""
    parameters = inspect.signature(builder, eval_str=True).parameters
    return {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


@cache
def entry(noun: str, name: str, base: type[Section], default: bool) -> type[Section]:
    """Make the section model of one registry entry.

    Args:
        noun: Which registry, such as "learner".
        name: The entry's name.
        base: Model with the keys that all entries of the registry share.
        default: Whether the entry is the default, so that `name` may be omitted.

    Returns:
        A pydantic model: a key without a default in the builder is required.
    """
    builder = registries()[noun][name]
    fields: dict[str, Any] = {
        key: (p.annotation, ... if p.default is p.empty else p.default) for key, p in options(builder).items()
    }
    fields["name"] = (Literal[name], Field(name if default else ..., description=f"Name of the {noun}."))
    title = f"{name.title().replace('_', '')}{noun.title().replace(' ', '')}"
    doc = (inspect.getdoc(builder) or "").partition("\n")[0]
    return create_model(title, __base__=base, __doc__=doc, **fields)


class FromRegistry:
    """Annotation of a field whose section selects a registry entry by `name`.

    Args:
        noun: Which registry, such as "optimizer".
        base: Model with the keys that all entries share.
        **default: Default entry and options; they also fill a section that names this entry or none.
    """

    def __init__(self, noun: str, base: type[Section] = Section, **default: Any):
        self.noun, self.base, self.default = noun, base, default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        default = self.default.get("name")
        models = {name: entry(self.noun, name, self.base, name == default) for name in registries()[self.noun]}
        schemas = {name: handler.generate_schema(model) for name, model in models.items()}
        union = core_schema.tagged_union_schema(schemas, discriminator="name")
        return core_schema.no_info_before_validator_function(self.fill, union)

    def fill(self, value: Any) -> Any:
        if isinstance(value, dict) and value.get("name", self.default.get("name")) == self.default.get("name"):
            return self.default | value
        return value


class ScoreName:
    """Annotation of a field whose value is the name of a metric."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from metadist_cli.evaluation.metrics import METRICS

        return core_schema.literal_schema(list(METRICS))
