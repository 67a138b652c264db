"""ARFF: a header of attributes, then rows as of CSV, but for sparse rows and relations.

https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/
"""

from __future__ import annotations

import csv
import io
import re
from functools import partial

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_sheet import Sheet, named, own_header
from metadist_cli.data.readers.table_text import Text, by_csv, lines_of_rows

_ATTRIBUTE = re.compile(r"""\s*@attribute\s+("[^"]*"|'(?:[^'\\]|\\.)*'|[^\s{"']+)\s*(.*)""", re.I | re.S)
_NUMERIC = ("numeric", "real", "integer")


def arff(data: bytes, where: str, form: Format) -> Sheet:
    """The table in the UTF-8 text of an ARFF file, which names its columns and says what they hold. Raises Problem."""
    own_header(form.columns, where, "an ARFF file")
    names: list[str] = []
    nominal: dict[str, frozenset[str]] = {}
    numeric: set[str] = set()
    number, start, quote = 0, 0, "'"
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""), 1):
        start += len(line.encode())
        keyword = line.strip().partition(" ")[0].lower()
        if keyword == "@data":
            break
        match = _ATTRIBUTE.match(line)
        if not match:
            if keyword and not keyword.startswith(("%", "@relation")):
                message = f"{line.strip()[:NAME]!r} does not belong in an ARFF header"
                raise Problem(message, f"{where}:{number}", "write @attribute NAME TYPE, or @data", DATA)
            continue
        name, kind = re.sub(r"""^(["'])(.*)\1$""", r"\2", match[1]), match[2].strip()
        names.append(name)
        if kind.startswith("{") and kind.endswith("}"):
            quote = '"' if '"' in kind else quote
            nominal[name] = _values(kind, f"{where}:{number}")
        elif kind.partition(" ")[0].lower() in _NUMERIC:
            numeric.add(name)
        elif kind.partition(" ")[0].lower() not in ("string", "date"):
            message = f"columns of type {kind[:NAME]!r} cannot be read"
            raise Problem(message, f"{where}:{number}", "use numeric, string, date or {a, b}", DATA)
    known, nameless = named(names, f"{where}:{number}", "rename one of them")
    if (sparse := data.find(b"\n{", max(start - 1, 0))) >= 0:
        line = data.count(b"\n", 0, sparse) + 2
        raise Problem(
            "sparse ARFF rows cannot be read", f"{where}:{line}", "write every value, or save it as CSV", DATA
        )
    dialect = {"delimiter": ",", "quotechar": quote, "skipinitialspace": True, "escapechar": "\\"}
    text = Text(data, where, start, number, known, dialect, comment="%")
    return Sheet(known, nameless, partial(by_csv, text), partial(lines_of_rows, text), nominal, frozenset(numeric))


def _values(kind: str, where: str) -> frozenset[str]:
    """The values in {a, b}."""
    try:
        values = next(csv.reader([kind[1:-1]], quotechar='"' if '"' in kind else "'", skipinitialspace=True))
    except csv.Error as error:
        raise Problem(f"the values in braces cannot be read: {error}", where, "write {a, b}", DATA) from error
    return frozenset(value.strip() for value in values)
