"""What to say of a column of text that looks like numbers or dates of another format, or has marks for missing cells.

Such a column is never made into categories in silence. The hint names the lines of YAML that read it right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from metadist_cli.data.names import NAME
from metadist_cli.data.readers.table_format import Format, Style, date, number

TOTAL = re.compile(r"(?i)(grand |sub)?totals?|sum|summe|gesamt|insgesamt|average|mean|mittelwert|durchschnitt")
_WORDS = "- -- --- – — . .. ... * ** none None NONE na n/a n.a. N.A. nil Null <NA> NaT missing Missing MISSING unknown"
MARKS = frozenset(f"{_WORDS} Unknown UNKNOWN k.A. #N/A #VALUE! #DIV/0! #REF! #NAME? #NUM! #NULL!".split())
_CURRENCY = (
    r"[$€£¥₹₩₽₺₴₫₪฿₦¢]|[A-Z]{1,2}\$"
    r"|(?:USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK|BRL|KRW|Rs\.?|R\$)"
)
_UNIT = (
    r"%|‰|°|°?[CFK]|[kmcµn]?m[²³23]?|[kmµn]?g|t|lbs?|oz|ft|in|mi|[mc]?[lL]|gal"
    r"|[mµn]?s|sec|min|h|hrs?|days?|d|weeks?|months?|years?|yrs?"
    r"|[kMG]?[WJ]h?|[kMG]?Hz|[kMG]?[bB]|[km]?V|[mk]?A|mm ?Hg|[kmM]?Pa|bar|bpm|rpm|cal|kcal"
    r"|[kKMGTP]i?[bB]?|bn|[mM]io|[mM]rd"
    r"|[µmkn]?(?:g|mol|m|l|L)/(?:h|s|min|[dmµ]?[lL]|kg|m²|m³|day)"
)
_PARTS = re.compile(
    rf"(?P<sign>[-+−]?)\s*(?P<front>{_CURRENCY})?\s*(?P<second>[-+−]?)\s*"
    rf"(?P<number>[0-9](?:[0-9.,'’ \u00a0\u2009\u202f]*[0-9])?|[.,][0-9]+)(?P<exponent>[eE][-+]?[0-9]+)?"
    rf"(?P<back>\s*(?:{_CURRENCY}|{_UNIT})|[\s\u00a0\u202f]+[^\W\d_][^\s\d]{{0,11}}|(?P<letters>[^\W\d_]{{1,12}}))?",
    re.ASCII,
)
_SPANS = re.compile(r"[-+−]?\s*(?:[0-9]+ days?,? )?[-+]?[0-9]+:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?", re.ASCII)
_STYLES = [Style(mark, group) for group, mark in product((None, ",", ".", " ", "'"), ".,") if group != mark]
_DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y"),
)
_MONTHS = ("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%d-%b-%y", "%d. %B %Y", "%b %Y", "%B %Y")
_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
_DATES = (None, "%Y-%m-%d", "%Y-%m", *_DAYS, *_MONTHS, *_TIMES)
_MOST, _SAMPLE = 0.9, 100  # share of a column that shows its format, and texts that decide which
_WITH_TIMES = [*map("".join, product(("%Y-%m-%d", *_DAYS, *_MONTHS), (" ", "T", ", "), _TIMES))]


class Way(NamedTuple):
    """One reading of a column: options of `data:` with what they say of it, and what its first cell then means."""

    options: Mapping[str, object]  # decimal, thousands, symbols, dates, date_format
    meaning: str


def other_format(texts: Sequence[str], style: Style) -> tuple[str, list[Way]] | None:
    """(what the texts look like, ways to read them: several where they could mean several things); None for words.

    Args:
        texts: Different texts of a column, at least one of which is not a number of `style`.
        style: How the column is read now.
    """
    return _numbers(texts, style) or _dates(texts)


def misfit(rows: Mapping[str, int]) -> tuple[str, str] | None:
    """(first text that does not fit, what the others look like), where nine tenths of the rows have one format.

    Args:
        rows: In how many rows each text is.
    """
    sample = list(rows)[:_SAMPLE]
    forms = dict.fromkeys(form for text in sorted(sample, key=lambda text: -rows[text])[:3] for form in _readings(text))
    if not forms:
        return None
    best = max(forms, key=lambda form: sum(rows[text] for text in sample if _reads(form, text)))
    odd = [text for text in rows if not _reads(best, text)]
    if not odd or sum(rows[text] for text in odd) > (1 - _MOST) * sum(rows.values()):
        return None
    return odd[0], "numbers" if isinstance(best, Style) else "dates or times"


def formats(texts: Sequence[str]) -> tuple[str, str] | None:
    """(what the texts look like, what to do) where each is a number, date or duration, if not all of one format."""
    negative = spans = False
    for text in texts[:_SAMPLE]:
        if not any(True for _ in _readings(text)):
            bare = re.sub(r"^([^\w()]*)\((.+)\)$", r"\1\2", text)  # ($500) or $(500)
            this = bare != text and any(True for _ in _readings(bare))
            if not this and not _SPANS.fullmatch(text):
                return None
            negative, spans = negative or this, spans or not this
    if negative:
        return "numbers, some in parentheses", "write negative numbers with a minus sign, such as -500"
    if spans:
        return "durations", "write each as one number, such as 26.25 hours in place of 26:15:00"
    return "numbers or dates of several formats", "write them all in one format"


def _readings(text: str) -> Iterator[Style | str | None]:
    """The formats that read a text."""
    match = _PARTS.fullmatch(text)
    if match and match["letters"]:  # such as 3A, which is rather a code
        return iter(())
    symbols = tuple(part.strip() for part in (match["front"], match["back"]) if part) if match else ()
    forms = (*(one._replace(symbols=symbols) for one in _STYLES), *_DATES, *_WITH_TIMES)
    return (form for form in forms if _reads(form, text))


def _reads(form: Style | str | None, text: str) -> bool:
    return (number(text, form) if isinstance(form, Style) else date(text, form)) is not None


def _numbers(texts: Sequence[str], style: Style) -> tuple[str, list[Way]] | None:
    matches = [_PARTS.fullmatch(text) for text in texts]
    if not all(matches):
        return None
    found = [match for match in matches if match]
    symbols = sorted({part.strip() for match in found for part in (match["front"], match["back"]) if part})
    if symbols and not all(match["front"] or match["back"] for match in found):
        return None
    if any(match["letters"] for match in found) and (len(symbols) > 1 or len(found) < 2):  # such as 3A and 3B
        return None
    bare = [f"{m['sign']}{m['second']}{m['number']}{m['exponent'] or ''}" for m in found]
    readings: dict[tuple[float | None, ...], Style] = {}
    for one in sorted(_STYLES, key=lambda one: one != style._replace(symbols=())):
        values = tuple(number(text, one) for text in bare)
        if None not in values:
            readings.setdefault(values, one)
    ways = []
    for values, one in readings.items():
        options: dict[str, object] = {"decimal": one.decimal} if one.decimal != style.decimal else {}
        options |= {"thousands": one.thousands} if one.thousands != style.thousands else {}
        options |= {"symbols": symbols[0]} if symbols else {}
        first = next((i for i, text in enumerate(texts) if number(text, style) is None), 0)
        ways.append(Way(options, f"{texts[first][:NAME]} is {values[first]:.15g}"))
    if len(symbols) > 1:  # of different units
        return f"numbers with {', '.join(map(repr, symbols[:4]))}", []
    return (_numbers_with(ways), ways) if ways else None


def _numbers_with(ways: Sequence[Way]) -> str:
    names = {"decimal": "{!r} as decimal mark", "thousands": "{!r} between thousands", "symbols": "{!r}"}
    if len(ways) > 1:
        return "numbers with a mark that may be of decimals or of thousands"
    found = [text.format(ways[0].options[key]) for key, text in names.items() if key in ways[0].options]
    return f"numbers with {' and '.join(found)}"


def _dates(texts: Sequence[str]) -> tuple[str, list[Way]] | None:
    ways: dict[tuple[float | None, ...], Way] = {}
    for form in _forms(texts):
        values = tuple(date(text, form) for text in texts)
        if None not in values and values not in ways:
            unit = "hours" if form in _TIMES else "days"
            options = {"dates": unit, "date_format": form} if form else {"dates": unit}
            ways[values] = Way(options, f"{texts[0][:NAME]} is {_said(values[0] or 0.0, unit)}")
    return ("dates or times", list(ways.values())) if ways else None


def _forms(texts: Sequence[str]) -> Iterator[str | None]:
    """The formats that read the first and the last text, those with both date and time only where they are needed."""
    for forms in (_DATES, _WITH_TIMES):
        yield from (form for form in forms if None not in (date(texts[0], form), date(texts[-1], form)))


def _said(days: float, unit: str) -> str:
    import numpy as np

    if unit == "hours":
        return f"{24 * days:.4g} hours"
    return str(np.datetime64(round(days * 86_400), "s")).removesuffix("T00:00:00").replace("T", " ")


def yaml_lines(ways: Mapping[str, Way], form: Format) -> str:
    """The options that read some columns in this way, as YAML to be put below `data:`, with what is there already."""
    lines = []
    for option in ("decimal", "thousands", "symbols", "dates", "date_format"):
        said: dict[str, object] = {name: way.options[option] for name, way in ways.items() if option in way.options}
        if said:
            given = {name: value for name, value in getattr(form, option).items() if name not in said}
            both = ", ".join(f"{_key(name)}: {_value(value)}" for name, value in (given | said).items())
            lines.append(f"{option}: {{{both}}}")
    return " and ".join(lines)


def yaml_list(names: Sequence[str]) -> str:
    """[a, "b c"]."""
    return f"[{', '.join(map(_key, names))}]"


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _key(str(value)) if str(value).isalpha() else json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    """A name as YAML has it, in quotation marks where it would be something else without."""
    words = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    bare = re.fullmatch(r"[^\W\d][\w.-]*", name) and name.lower() not in words
    return name if bare else json.dumps(name, ensure_ascii=False)
