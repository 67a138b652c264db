"""From cells to typed columns: numbers, dates, or texts that are numbered as they come."""

# pyright: reportAttributeAccessIssue=false
# Arrow makes the functions of pyarrow.compute when it is imported

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, natural
from metadist_cli.data.readers import table_hints as hints
from metadist_cli.data.readers.table_cells import Cells, Column, Odd
from metadist_cli.data.readers.table_checks import check_numbers, check_texts, grouped, mixed
from metadist_cli.data.readers.table_format import Format, Style, date, number

if TYPE_CHECKING:
    import pyarrow as pa


def typed(column: Cells, form: Format) -> Column | Odd:
    """The numbers or texts in the cells of a column.

    Raises:
        Problem: DATA with file:line:column for a cell that does not fit the others, is not finite in float32, or not of
            the kind asked for; for more than 100 different texts in a column of unknown kind.
    """
    name, style = column.name, form.style(column.name)
    unit = form.option("dates", name)
    if column.kind != "text" and unit is None and (numbers := _numbers(column.cells, style, form)) is not None:
        return _of_numbers(numbers, column, form)
    code, texts = _numbered(column.cells, form)
    if unit is not None:
        return _dated(column, code, texts, form)
    worth = [number(text, style) for text in texts]
    if column.kind != "text" and texts:
        if odd := mixed(column, code, texts, worth, form):
            return odd
        if None not in worth:  # in digits of other scripts, say
            numbers = np.array([*worth, math.nan], dtype=np.float64)[code]
            return _of_numbers(numbers, column, form)
        check_texts(column, code, texts, form)
    if column.kind != "text" and not texts:
        return _of_numbers(np.full(len(code), math.nan), column, form)
    return _ordered(name, code, texts, worth)


def _of_numbers(numbers: np.ndarray, column: Cells, form: Format) -> Column | Odd:
    check_numbers(numbers, column, form)
    symbols = form.style(column.name).symbols
    return grouped(column, form) or Column(column.name, numbers, np.empty(0, dtype=np.int64), (), symbols=symbols)


def _numbers(cells: pa.ChunkedArray, style: Style, form: Format) -> np.ndarray | None:
    """(n,) float64, NaN where one is missing; None where a cell is neither, or looks so to Arrow."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type):
        return cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if not pa.types.is_string(cells.type):
        return None
    try:
        if style.plain:
            return cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        pass
    cells = compute.utf8_trim_whitespace(cells)
    blank = compute.is_in(cells, value_set=pa.array(sorted(form.missing)))
    cells = compute.if_else(blank, pa.scalar(None, pa.string()), cells)
    if not style.plain:
        if not compute.all(compute.match_substring_regex(cells, style.pattern)).as_py():
            return None
        cells = compute.replace_substring_regex(cells, style.noise, "")
        cells = compute.replace_substring(compute.replace_substring(cells, style.decimal, "."), "−", "-")
    try:
        return cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None


def _numbered(cells: pa.ChunkedArray, form: Format) -> tuple[np.ndarray, list[str]]:
    """(n,) places of the cells among the different texts, stripped, in the order of their rows; -1 where missing."""
    import pyarrow as pa

    if not pa.types.is_dictionary(cells.type):
        cells = cells.cast(pa.string()).dictionary_encode()
    cells = cells.unify_dictionaries()
    raw = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in cells.chunks]
    raw = np.concatenate(raw).astype(np.int64) if raw else np.empty(0, dtype=np.int64)
    written = cells.chunk(0).dictionary.to_pylist() if cells.num_chunks else []
    index: dict[str, int] = {}
    place = [-1] * (len(written) + 1)
    for i in np.flatnonzero(np.bincount(raw + 1, minlength=len(written) + 1)[1:]):  # a Parquet file may name more
        text = re.sub(r"\s*[\r\n]+\s*", " ", (written[i] or "").strip())  # a name fits on a line
        place[i] = -1 if text in form.missing else index.setdefault(text, len(index))
    return np.array(place)[raw], list(index)


def _ordered(name: str, code: np.ndarray, texts: list[str], worth: list[float | None]) -> Column:
    """The column of texts in natural order; 1 and 1.0 are one text where all are numbers."""
    values = [value for value in worth if value is not None and math.isfinite(value)]
    if not texts or len(values) < len(texts):
        order = sorted(texts, key=natural)
        rank = {text: i for i, text in enumerate(order)}
        return Column(name, None, np.array([*(rank[text] for text in texts), -1])[code], tuple(order))
    plain = [_plain(text, value) for text, value in zip(texts, values, strict=True)]
    of = dict(zip(plain, values, strict=True))
    order = sorted(of, key=lambda text: (of[text], text))
    rank = {text: i for i, text in enumerate(order)}
    code = np.array([*(rank[text] for text in plain), -1])[code]
    return Column(name, None, code, tuple(order), np.array([of[text] for text in order]))


def _plain(text: str, value: float) -> str:
    """1.0 as 1, 2.50 as 2.5; 007 and numbers of twenty digits as they are."""
    written = re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", text) and re.search("[.eE]", text)
    return f"{value:.15g}" if written else text


def _dated(column: Cells, code: np.ndarray, texts: list[str], form: Format) -> Column:
    unit, said = form.option("dates", column.name) or "", form.option("date_format", column.name)
    days = [date(text, said) for text in texts]
    if None in days:
        odd = days.index(None)
        like = "like 2026-01-31" if said is None else f"of the format {said}"
        message = f"{texts[odd][:NAME]!r} is not a date {like}"
        _, ways = hints.other_format([texts[odd]], Style()) or ("", [])
        lines = {way.options["date_format"]: way for way in ways if "date_format" in way.options}
        hint = " or ".join(hints.yaml_lines({column.name: way}, form) for way in lines.values())
        hint = f"write {hint}" if hint else "correct it, or write the right date_format"
        raise Problem(message, column.place(int((code == odd).argmax())), hint, DATA)
    numbers = np.array([*(day for day in days if day is not None), math.nan])[code]
    return Column(column.name, numbers * (24 if unit == "hours" else 1), np.empty(0, dtype=np.int64), (), date=unit)
