"""From cells to typed columns: numbers, dates, or texts that are numbered as they come."""

# pyright: reportAttributeAccessIssue=false
# Arrow makes the functions of pyarrow.compute when it is imported

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, natural
from metadist_cli.data.readers import table_hints as hints
from metadist_cli.data.readers.table_format import Format, Style, date, number

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = 100  # different texts of a column that nobody named as one of texts
_LARGEST = float(np.finfo(np.float32).max)
_CODE = 4  # digits of numbers with zeros in front that are rather codes, such as 01234
Kind = Literal["number", "text"] | None


class Column(NamedTuple):
    """n cells, either numbers (code and texts are then empty) or texts."""

    name: str
    number: np.ndarray | None  # (n,) float64, NaN where missing
    code: np.ndarray  # (n,) int64 places in texts, -1 where missing
    texts: tuple[str, ...]  # in natural order, each somewhere in the column
    worth: np.ndarray | None = None  # (len(texts),) float64 where all texts are numbers
    date: str = ""  # days or hours where the numbers are these, or parts where they are days to be taken apart
    symbols: tuple[str, ...] = ()  # that stood beside its numbers

    @property
    def missing(self) -> np.ndarray:
        """(n,) bool."""
        return np.isnan(self.number) if self.number is not None else self.code < 0

    def take(self, rows: np.ndarray) -> Column:
        """The cells of some rows, without texts that are in none of them; a row -1 is one that is missing."""
        if self.number is not None:
            return self._replace(number=np.where(rows < 0, np.nan, self.number[rows]))
        code = np.where(rows < 0, -1, self.code[rows])
        there = np.isin(np.arange(len(self.texts)), code)
        renumbered = np.append(np.cumsum(there) - 1, -1)
        texts = tuple(np.array(self.texts, dtype=object)[there])
        worth = None if self.worth is None or not texts else self.worth[there]
        return self._replace(code=renumbered[code], texts=texts, worth=worth)

    def numbers(self) -> np.ndarray | None:
        """(n,) float64, NaN where missing; None where a text is not a number."""
        if self.number is not None or self.worth is None:
            return self.number
        return np.append(self.worth, math.nan)[self.code]


class Cells(NamedTuple):
    """The cells of one column, of all files."""

    name: str
    cells: pa.ChunkedArray  # text, or numbers as a file stores them
    kind: Kind
    numeric: bool  # whether a header says that they are numbers
    place: Callable[[int], str]  # file:line:column of a row


class Odd(NamedTuple):
    """A column that looks like numbers or dates of another format."""

    where: str  # of a cell
    text: str  # in it
    what: str
    ways: list[hints.Way]
    marks: list[str]  # texts beside them that rather mean a missing cell


def typed(column: Cells, form: Format) -> Column | Odd:
    """The numbers or texts in the cells of a column.

    Raises:
        Problem: DATA with file:line:column for a cell that does not fit the others, is not finite in float32, or not of
            the kind asked for; for more than 100 different texts in a column of unknown kind.
    """
    name, style = column.name, form.style(column.name)
    unit = form.option("dates", name)
    if column.kind != "text" and unit is None and (numbers := _numbers(column.cells, style, form)) is not None:
        _check(numbers, column, form)
        return Column(name, numbers, np.empty(0, dtype=np.int64), (), symbols=style.symbols)
    code, texts = _numbered(column.cells, form)
    if unit is not None:
        return _dated(column, code, texts, form)
    worth = [number(text, style) for text in texts]
    if column.kind != "text" and texts:
        if odd := _mixed(column, code, texts, worth, form):
            return odd
        if None not in worth:  # in digits of other scripts, say
            numbers = np.array([*worth, math.nan], dtype=np.float64)[code]
            _check(numbers, column, form)
            return Column(name, numbers, np.empty(0, dtype=np.int64), (), symbols=style.symbols)
        _check_texts(column, code, texts)
    if column.kind != "text" and not texts:
        return Column(name, np.full(len(code), math.nan), np.empty(0, dtype=np.int64), ())
    return _ordered(name, code, texts, worth)


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


def _mixed(column: Cells, code: np.ndarray, texts: list[str], worth: list[float | None], form: Format) -> Odd | None:
    """A column whose texts look like numbers or dates; None where they are all numbers, or all words.

    Raises:
        Problem: Where the column would hold both numbers and words: those in fewer rows are the odd ones.
    """
    words = [text for text, value in zip(texts, worth, strict=True) if value is None]
    if not words:
        return None

    def place(text: str) -> str:
        return column.place(int((code == texts.index(text)).argmax()))

    marks = [text for text in words if text in hints.MARKS]
    rest = [text for text in texts if text not in marks]
    if len(marks) < len(words) and (found := hints.other_format(rest, form.style(column.name))):
        odd = next(text for text in words if text not in marks)
        return Odd(place(odd), odd, *found, marks)
    name, hint = column.name[:NAME], f"or, if each text is a value, write one_hot: {hints.yaml_list([column.name])}"
    if column.numeric:
        message = f"{words[0][:NAME]!r} is not a number, as the header says"
        raise Problem(message, place(words[0]), "write ? where it is missing", DATA)
    rows = np.bincount(code[code >= 0], minlength=len(texts))
    many = dict(zip(texts, rows.tolist(), strict=True))
    of_words = sum(many[text] for text in words)
    if 2 * of_words > rows.sum() and (found := hints.misfit({text: many[text] for text in rest})):
        message = f"{found[0][:NAME]!r} is unlike the rest of this column, which looks like {found[1]}"
        hint = f"correct it, drop the column, {hint}" if form.options else "write numbers like 0.5 or 1e-3"
        raise Problem(message, place(found[0]), hint, DATA)
    if len(words) == len(texts):
        if column.kind == "number":
            message = f"the column {name!r} holds texts, but numbers are needed"
            hint = "name another column" if form.options else "write numbers like 0.5 or 1e-3"
            raise Problem(message, column.place(0), hint, DATA)
        return None
    if column.kind != "number" and 2 * of_words > rows.sum():
        odd = next(text for text, value in zip(texts, worth, strict=True) if value is not None)
        message = f"{odd[:NAME]!r} is a number, unlike the rest of this column"
        raise Problem(message, place(odd), f"correct it, drop the column, {hint}", DATA)
    message = f"{words[0][:NAME]!r} is not a number, unlike the rest of this column"
    if not form.options:
        raise Problem(f"{words[0][:NAME]!r} is not a number", place(words[0]), "write it like 0.5 or 1e-3", DATA)
    if marks:
        given = sorted(form.missing - Format().missing)
        hint = f"if it means that the cell is missing, write missing_marks: {hints.yaml_list([*given, *marks])}"
        raise Problem(message, place(words[0]), f"{hint} and missing: mean", DATA)
    raise Problem(message, place(words[0]), f"correct it, drop the column, {hint}", DATA)


def _check(numbers: np.ndarray, column: Cells, form: Format) -> None:
    """Raises Problem for a number that is not finite in float32, and for codes with zeros in front."""
    import pyarrow as pa
    from pyarrow import compute

    wrong = np.flatnonzero(np.abs(numbers) > _LARGEST)
    if len(wrong):
        text = str(column.cells[int(wrong[0])].as_py()).strip()
        message = f"{text[:NAME]!r} is not a finite number, or too large"
        hint = "correct it, or leave it empty if it is missing"
        raise Problem(message, column.place(int(wrong[0])), hint, DATA)
    kind = column.cells.type
    texts = pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))
    if column.kind is not None or not texts:
        return
    cells = compute.utf8_trim_whitespace(column.cells.cast(pa.string()))
    cells = cells.filter(compute.invert(compute.is_in(cells, value_set=pa.array([None, *sorted(form.missing)]))))
    length = compute.min_max(compute.binary_length(cells))
    if not len(cells) or length["min"].as_py() != length["max"].as_py() or length["max"].as_py() < _CODE:
        return
    zeros = compute.match_substring_regex(cells, "^0[0-9]+$")
    if compute.any(zeros).as_py() and compute.all(compute.match_substring_regex(cells, "^[0-9]+$")).as_py():
        first = int(np.argmax(zeros.to_numpy()))
        row = int(np.flatnonzero(~np.isnan(numbers))[first])
        name = hints.yaml_list([column.name])
        message = f"{cells[first].as_py()[:NAME]!r} has zeros in front, so this column looks like codes"
        hint = f"write drop: {name}, or one_hot: {name} to make each code a feature"
        raise Problem(message, column.place(row), hint, DATA)


def _check_texts(column: Cells, code: np.ndarray, texts: list[str]) -> None:
    """Raises Problem for more different texts than categories have."""
    if len(texts) > TEXTS and column.kind is None:
        message = f"the column {column.name[:NAME]!r} has more than {TEXTS} different texts"
        name = hints.yaml_list([column.name])
        hint = f"write drop: {name}, or one_hot: {name} to make each text a feature"
        raise Problem(message, column.place(int((code == TEXTS).argmax())), hint, DATA)
