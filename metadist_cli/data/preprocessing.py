"""The way from rows as people have them to what a model sees, as one value that travels with the model.

It is fitted when the data are partitioned, and is in the shards' manifest and in every adapted model's file. Held-out
tasks, a user's own tasks and predictions for new rows all go through it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.core.formats import to_json
from metadist_cli.data.standardise import SHARED, Moments, fill, gaps, moments, standardise

_MOST = 1_000_000  # features, columns, categories and classes
_NUMBERS = 500_000_000  # of a row
Text = Annotated[str, Field(max_length=1 << 17)]  # as long as a cell of a table
Name = Annotated[str, Field(min_length=1, max_length=1 << 17)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=_NUMBERS)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Column(_Value):
    """A column of a table, how its cells are written, and what the model sees of it.

    Attributes:
        name: what people call it.
        kind: "number"; "category", one feature for each of `values`; or "date".
        values: the texts of a category, in the order of their features.
        dates: what becomes of a date: days or hours since 1970, or `parts`, a feature each.
        indicator: whether a further feature, after those of all columns, says that the cell is missing.
        decimal, thousands, symbols, date_format: as in `readers.table_format.Format`.
    """

    name: Name
    kind: Literal["number", "category", "date"] = "number"
    values: Annotated[tuple[Text, ...], Field(max_length=_MOST)] = ()
    dates: Literal["days", "hours", "parts"] | None = None
    parts: tuple[Literal["year", "month", "day", "weekday", "hour"], ...] = ()
    indicator: bool = False
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    symbols: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    date_format: Text | None = None

    @property
    def size(self) -> int:
        """Features, without the indicator."""
        return len(self.values) if self.kind == "category" else len(self.parts) if self.dates == "parts" else 1


class Scale(_Value):
    """What is done to features: z-scores, or just the mean where a cell is missing."""

    by: Literal["standardise", "fill"]
    mean: Annotated[tuple[Number, ...], Field(max_length=_MOST)]
    deviation: Annotated[tuple[Positive, ...], Field(max_length=_MOST)]

    @classmethod
    def of(cls, by: Literal["standardise", "fill"], found: Moments) -> Scale:
        """The scale that some moments give."""
        return cls(by=by, mean=tuple(found.mean.ravel().tolist()), deviation=tuple(found.deviation.ravel().tolist()))

    def apply(self, x: np.ndarray, clip: float | None) -> np.ndarray:
        """Rows x (n, D), or signals (n, C, L) with a mean for each channel, on this scale."""
        mean, deviation = (np.array(v).reshape(-1, *[1] * (x.ndim - 2)) for v in (self.mean, self.deviation))
        by = Moments(mean, deviation)
        return standardise(x, by, clip) if self.by == "standardise" else fill(x, by)


class Preprocessing(_Value):
    """Everything that is done to rows before a model sees them, and to its outputs before people do.

    Attributes:
        kind: whether the model predicts classes or numbers.
        shape: of a row of inputs.
        divide: the model sees stored rows, 0..divide, divided by this.
        classes: names of the outputs; () for a regression.
        columns: of a table, in the order of their features; () where rows have no named parts.
        others: further columns of the data set's table, which a file of new rows may have.
        missing: whether a missing cell is refused or filled in.
        marks: of missing cells, besides those that all tables have.
        encoding: of text files that are not UTF-8.
        letters: characters by their numbers, where rows are texts.
        free: whether texts are cut or padded to the length of a row, and characters without a number left out.
        invert: whether dark pixels of a picture become bright.
        angle: degrees by which the rows, images, are rotated.
        scale: of features; "node": not known before a node's training rows or a task's support are.
        clip: the largest standardised feature, either way.
        target_mean, target_deviation: by which the model sees targets standardised; () where it sees them as they are.
        target: what the data set calls its target.
        unit: of the target; the model's outputs are in multiples of it.
        above: threshold that makes two classes of a numeric target.
    """

    format: Literal[1] = 1
    kind: Literal["classification", "regression"]
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
    divide: Positive = 1.0
    classes: Annotated[tuple[Text, ...], Field(max_length=50_000_000)] = ()
    columns: Annotated[tuple[Column, ...], Field(max_length=_MOST)] = ()
    others: Annotated[tuple[Text, ...], Field(max_length=_MOST)] = ()
    missing: Literal["refuse", "fill"] = "refuse"
    marks: Annotated[tuple[Text, ...], Field(max_length=10_000)] = ()
    encoding: Text = "utf-8"
    letters: Annotated[str, Field(max_length=256)] = ""
    free: bool = False
    invert: bool = False
    angle: Number = 0.0
    scale: Scale | Literal["node"] | None = None
    clip: Positive | None = None
    target_mean: Annotated[tuple[Number, ...], Field(max_length=_MOST)] = ()
    target_deviation: Annotated[tuple[Positive, ...], Field(max_length=_MOST)] = ()
    target: Text = ""
    unit: Positive = 1.0
    above: Number | None = None

    @model_validator(mode="after")
    def _agree(self) -> Preprocessing:
        if math.prod(self.shape) > _NUMBERS or (self.kind == "regression" and self.classes):
            raise ValueError("a row is too large, or a regression has classes")
        if self.columns and self.shape != (sum(column.size + column.indicator for column in self.columns),):
            raise ValueError("the columns do not make the features")
        scale = self.scale
        if isinstance(scale, Scale) and not len(scale.mean) == len(scale.deviation) == self.shape[0]:
            raise ValueError("the scale is not that of the features")
        if len(self.target_mean) != len(self.target_deviation) or (self.target_mean and self.classes):
            raise ValueError("the scale is not that of the targets")
        return self

    def changed(self, **fields: Any) -> Preprocessing:
        """A copy with some fields changed, checked."""
        return Preprocessing(**{**dict(self), **fields})

    def fitted(self, rows: Sequence[np.ndarray], scale: str, clip: float | None = None) -> Preprocessing:
        """With the scale of the training rows.

        Args:
            rows: of each training node, as stored; NaN where a cell is missing.
            scale, clip: as in the config.
        """
        if scale in ("node", "support"):
            return self.changed(scale="node", clip=clip)
        if scale in SHARED:
            return self.changed(scale=Scale.of("standardise", SHARED[scale](rows)), clip=clip)
        fills = self.missing == "fill" or any(gaps(part) for part in rows)
        return self.changed(scale=Scale.of("fill", moments(rows))) if fills else self

    def settled(self, found: Moments | None) -> Preprocessing:
        """With the moments of one node or task, where each has its own. Raises Problem where they are unknown."""
        if self.scale != "node":
            return self
        if found is None:
            message = "the shards were made by an earlier version of metadist, without the scale of each node"
            raise Problem(message, "partition.scale", "start over with --restart", DATA)
        return self.changed(scale=Scale.of("standardise", found))

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Stored rows (n, *shape) as a model sees them, but for `divide`."""
        assert self.scale != "node", "settle the scale first"
        return x if self.scale is None else self.scale.apply(x, self.clip)

    def predictions(self, out: np.ndarray) -> np.ndarray:
        """Outputs of a regression's model as people read them: not standardised, in the data set's own units."""
        by = np.array(self.target_mean), np.array(self.target_deviation)
        return self.in_units((out * by[1] + by[0]).astype(np.float32) if self.target_mean else out)

    def in_units(self, values: np.ndarray) -> np.ndarray:
        """Targets in the data set's own units, float32."""
        return values if self.unit == 1 else (values.astype(np.float64) * self.unit).astype(np.float32)

    def from_units(self, values: np.ndarray) -> np.ndarray:
        """The converse: targets that people wrote, as the model is to predict them, float32."""
        with np.errstate(over="ignore"):
            return (values / self.unit).astype(np.float32)


def rotate(x: np.ndarray, angle: float) -> np.ndarray:
    """Images (n, height, width) uint8, rotated by some degrees; corners fill with the image's own background."""
    from PIL import Image

    def rotated(image: np.ndarray) -> np.ndarray:
        background = image[0, 0].item()
        return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR, fillcolor=background))

    return np.stack([rotated(image) for image in x])


def read_preprocessing(entry: Any, where: str) -> Preprocessing:
    """The value in a manifest or a model's header, which is untrusted.

    Raises:
        Problem: DATA where it is none.
    """
    try:
        return Preprocessing.model_validate_json(to_json(entry))
    except (ValidationError, ValueError, RecursionError):
        message = "the preprocessing in this file is damaged, or another version of metadist made it"
        raise Problem(message, where, "use the version of metadist that made it, or make it again", DATA) from None
