"""What a column is refused for: cells unlike the rest, numbers of other formats, codes, too many texts."""

# pyright: reportAttributeAccessIssue=false
# Arrow makes the functions of pyarrow.compute when it is imported

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME
from metadist_cli.data.readers import table_hints as hints
from metadist_cli.data.readers.table_cells import Cells, Odd
from metadist_cli.data.readers.table_format import Format

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = 100  # different texts of a column that nobody named as one of texts
_LARGEST = float(np.finfo(np.float32).max)
_FEW = 10  # of as many rows, one is odd; more are a format
_CODE = 4  # digits of numbers with zeros in front that are rather codes, such as 01234
_LOOK = 1000  # rows that show whether a column has fractions
_GROUPS = r"^[-+]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+$"


def mixed(column: Cells, code: np.ndarray, texts: list[str], worth: list[float | None], form: Format) -> Odd | None:
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
    rows = np.bincount(code[code >= 0], minlength=len(texts))
    many = dict(zip(texts, rows.tolist(), strict=True))
    of_words = sum(many[text] for text in words)
    name, hint = column.name[:NAME], f"or, if each text is a value, write one_hot: {hints.yaml_list([column.name])}"
    if column.numeric:
        message = f"{words[0][:NAME]!r} is not a number, as the header says"
        raise Problem(message, place(words[0]), "write ? where it is missing", DATA)
    if 2 * of_words > rows.sum() and (found := hints.misfit({text: many[text] for text in rest})):
        message = f"{found[0][:NAME]!r} is unlike the rest of this column, which looks like {found[1]}"
        hint = f"{_correct(found[0])}, {hint}" if form.options else "write numbers like 0.5 or 1e-3"
        raise Problem(message, place(found[0]), hint, DATA)
    if len(marks) < len(words) and _FEW * of_words > rows.sum() and (seen := hints.formats(rest)):
        odd = next(text for text in words if text not in marks)
        return Odd(place(odd), odd, seen[0], [], marks, seen[1])
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
    raise Problem(message, place(words[0]), f"{_correct(words[0])}, {hint}", DATA)


def _correct(text: str) -> str:
    """What to do about one odd cell."""
    start = "if this row is a total, remove it; if not, " if hints.TOTAL.fullmatch(text) else ""
    return f"{start}correct it, drop the column"


def check_numbers(numbers: np.ndarray, column: Cells, form: Format) -> None:
    """Raises Problem for a number that is not finite in float32, and for codes with zeros in front."""
    wrong = np.flatnonzero(np.abs(numbers) > _LARGEST)
    if len(wrong):
        text = str(column.cells[int(wrong[0])].as_py()).strip()
        message = f"{text[:NAME]!r} is not a finite number, or too large"
        hint = "correct it, or leave it empty if it is missing"
        raise Problem(message, column.place(int(wrong[0])), hint, DATA)
    if column.kind is None and (first := _code(numbers, column, form)) is not None:
        text = str(column.cells[first].as_py()).strip()
        name = hints.yaml_list([column.name])
        message = f"{text[:NAME]!r} has zeros in front, so this column looks like codes"
        hint = f"write drop: {name}, or one_hot: {name} to make each code a feature"
        raise Problem(message, column.place(first), hint, DATA)


def _code(numbers: np.ndarray, column: Cells, form: Format) -> int | None:
    """The first row of a number such as 01234, in a column of digits alone; None where there is none.

    A zero alone is a number, however long, and so is what has a sign, a fraction or an exponent anywhere.
    """
    from pyarrow import compute

    if (numbers[:_LOOK] % 1 > 0).any() or (cells := _texts(column.cells, form)) is None:
        return None
    begins = compute.and_(compute.starts_with(cells, "0"), compute.greater_equal(compute.binary_length(cells), _CODE))
    if not compute.any(begins).as_py() or not compute.all(compute.match_substring_regex(cells, "^[0-9]+$")).as_py():
        return None
    codes = begins.fill_null(False).to_numpy() & (numbers > 0)
    return int(codes.argmax()) if codes.any() else None


def _texts(cells: pa.ChunkedArray, form: Format) -> pa.ChunkedArray | None:
    """Cells that a file stores as text, stripped, null where one is missing; None where it stores numbers."""
    import pyarrow as pa
    from pyarrow import compute

    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if not pa.types.is_string(kind):
        return None
    cells = compute.utf8_trim_whitespace(cells.cast(pa.string()))
    blank = compute.is_in(cells, value_set=pa.array(sorted(form.missing)))
    return compute.if_else(blank, pa.scalar(None, pa.string()), cells)


def grouped(column: Cells, form: Format) -> Odd | None:
    """A column of plain numbers, in a table with decimal commas, whose points all may be between thousands."""
    from pyarrow import compute

    plain = form.style(column.name).plain and form.option("decimal", column.name) is None
    if not plain or "," not in form.decimal.values() or (cells := _texts(column.cells, form)) is None:
        return None
    pointed = compute.match_substring(cells, ".").fill_null(False)
    cells = cells.filter(pointed)
    if not len(cells) or not compute.all(compute.match_substring_regex(cells, _GROUPS)).as_py():
        return None
    text = cells[0].as_py()
    ways = [
        hints.Way({"decimal": ",", "thousands": "."}, f"{text[:NAME]} is {float(text.replace('.', '')):.15g}"),
        hints.Way({"decimal": "."}, f"{text[:NAME]} is {float(text):.15g}"),
    ]
    what = "numbers with '.' between thousands, beside a column with decimal commas"
    return Odd(column.place(int(pointed.to_numpy().argmax())), text, what, ways, [])


def check_texts(column: Cells, code: np.ndarray, texts: list[str], form: Format) -> None:
    """Raises Problem for more different texts than categories have, and for those that differ in case alone."""
    if len(texts) > TEXTS and column.kind is None:
        message = f"the column {column.name[:NAME]!r} has more than {TEXTS} different texts"
        name = hints.yaml_list([column.name])
        hint = f"write drop: {name}, or one_hot: {name} to make each text a feature"
        raise Problem(message, column.place(int((code == TEXTS).argmax())), hint, DATA)
    alike: dict[str, str] = {}
    for text in texts if column.kind is None else ():
        if (first := alike.setdefault(text.casefold(), text)) != text:
            message = f"{text[:NAME]!r} and {first[:NAME]!r} in this column differ in case alone"
            hint = f"write them alike, or, if each is a value, write one_hot: {hints.yaml_list([column.name])}"
            where = column.place(int((code == texts.index(text)).argmax()))
            raise Problem(message, where, hint if form.options else "write them alike", DATA)
