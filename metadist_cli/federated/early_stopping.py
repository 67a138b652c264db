"""When training stops: once the score on validation tasks has not improved for some evaluations."""

from __future__ import annotations

import math
from typing import NamedTuple


class Record(NamedTuple):
    """What validation has found up to a round.

    Attributes:
        metric: of the scores.
        best: the best score; None before a finite one.
        round: the first round that reached it.
        since: evaluations after that round.
    """

    metric: str
    best: float | None = None
    round: int | None = None
    since: int = 0


def recorded(record: Record, number: int, score: float, higher: bool) -> Record:
    """The record with the score of one more round.

    Args:
        record: of the rounds before.
        number: of the round.
        score: its score; one that is not finite is worse than all others.
        higher: whether a higher score is better.
    """
    sign = 1 if higher else -1
    if math.isfinite(score) and (record.best is None or sign * score > sign * record.best):
        return record._replace(best=score, round=number, since=0)
    return record._replace(since=record.since + 1)


def stops(record: Record | None, patience: int | None) -> bool:
    """Whether training ends here. patience: evaluations without a better score; None: any number."""
    return record is not None and patience is not None and record.since >= patience
