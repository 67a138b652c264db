"""Sections that choose an algorithm by `name`, and names that choose one: made from the registries.

A builder's keyword-only parameters are the keys of its section. So the keys, their help, the JSON Schema and the code
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
    """What all parts of a config share: unknown keys are errors, text is never taken for a number."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,  # the registries, and torch with them, are imported by the first validation
        protected_namespaces=(),
        validate_default=True,
    )


class Section(Model):
    name: str


def registries() -> dict[str, dict[str, Callable[..., Any]]]:
    """The registries by the noun that messages call their entries."""
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
    """The keyword-only parameters of a builder: its keys in a config."""
    parameters = inspect.signature(builder, eval_str=True).parameters
    return {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


@cache
def entry(noun: str, name: str, base: type[Section], default: bool) -> type[Section]:
    """The section model of one registry entry; `name` may be left out where the entry is the default."""
    builder = registries()[noun][name]
    fields: dict[str, Any] = {
        key: (p.annotation, ... if p.default is p.empty else p.default) for key, p in options(builder).items()
    }
    fields["name"] = (Literal[name], Field(name if default else ..., description=f"Which {noun}."))
    title = f"{name.title().replace('_', '')}{noun.title().replace(' ', '')}"
    doc = (inspect.getdoc(builder) or "").partition("\n")[0]
    return create_model(title, __base__=base, __doc__=doc, **fields)


class Choice:
    """Annotation of a field whose value is a registry entry, chosen by its `name`.

    The given defaults are those of the section where it names no entry, or the entry that they name.
    """

    def __init__(self, noun: str, base: type[Section] = Section, **default: Any):
        self.noun, self.base, self.default = noun, base, default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        usual = self.default.get("name")
        models = {name: entry(self.noun, name, self.base, name == usual) for name in registries()[self.noun]}
        choices = {name: handler.generate_schema(model) for name, model in models.items()}
        union = core_schema.tagged_union_schema(choices, discriminator="name")
        return core_schema.no_info_before_validator_function(self.filled, union)

    def filled(self, value: Any) -> Any:
        if isinstance(value, dict) and value.get("name", self.default.get("name")) == self.default.get("name"):
            return self.default | value
        return value


class ScoreName:
    """Annotation of a field whose value is the name of a score."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from metadist_cli.evaluation.metrics import SCORES

        return core_schema.literal_schema(list(SCORES))
