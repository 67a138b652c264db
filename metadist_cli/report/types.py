"""What a report is made from, and what a picture of it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ExampleTask(NamedTuple):
    """One task of the evaluation, to look at.

    Attributes:
        kind: "image" (x (n, H, W) in 0..1), "curve" (x (n,) or (n, 1)) or "vector" (x is not shown).
        support_x, query_x: inputs.
        support_y, query_y: class numbers, int (n,), indices into `classes`; for curves targets, float (n,) or (n, 1).
        before, after: the queries' predicted classes or targets, (n,); before is None without a prediction.
        classes: names.
    """

    kind: str
    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray
    before: np.ndarray | None
    after: np.ndarray
    classes: tuple[str, ...]

    def score(self) -> str:
        """How many queries are predicted correctly, as a sentence."""
        before = "" if self.before is None else f" ({(self.before == self.query_y).sum():,} before)"
        right = (self.after == self.query_y).sum()
        return f"After adaptation {right:,} of {len(self.query_y):,} queries are correct{before}."


class Results(NamedTuple):
    """The inputs of a report.

    Attributes:
        metrics: the content of metrics.json.
        rounds: the lines of metrics.jsonl, each with its "run" ("main" or a baseline); may be empty.
        shards: the partition manifest.
        example: a task to show, or None.
    """

    metrics: dict
    rounds: list[dict]
    shards: dict
    example: ExampleTask | None


class Picture(NamedTuple):
    """A picture of the page. png: its bytes; alt: the text in its place for who cannot see it; caption: below it."""

    png: bytes
    alt: str
    caption: str
