"""When training stops: a plain loop over all scores says the same as the record that goes from round to round."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from metadist_cli.federated.early_stopping import Record, recorded, stops

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0, math.nan, math.inf]) | st.floats(-3, 3), max_size=12)


def plain_loop(scores: list[float], patience: int, higher: bool) -> tuple[int, int | None, float | None]:
    """(number of the last round, the best round, its score) by looking at all scores again after every round."""
    last, best = 0, None
    for last in range(1, len(scores) + 1):
        seen = [(s if higher else -s, -number, number) for number, s in enumerate(scores[:last], 1) if math.isfinite(s)]
        best = max(seen)[2] if seen else None
        if last - (best or 0) >= patience:
            break
    return last, best, None if best is None else scores[best - 1]


@given(SCORES, st.integers(1, 4), st.booleans())
def test_training_stops_where_a_plain_loop_stops(scores: list[float], patience: int, higher: bool):
    record, number = Record("accuracy"), 0
    while number < len(scores) and not stops(record, patience):
        number += 1
        record = recorded(record, number, scores[number - 1], higher)
    assert (number, record.round, record.best) == plain_loop(scores, patience, higher)


def test_equal_scores_are_no_improvement_and_the_first_round_is_best():
    record = recorded(recorded(Record("mse"), 1, 0.5, higher=False), 2, 0.5, higher=False)
    assert record == Record("mse", 0.5, round=1, since=1)


def test_without_patience_or_scores_training_goes_on():
    assert not stops(Record("mse", 0.5, 1, since=99), None)
    assert not stops(None, 1)
