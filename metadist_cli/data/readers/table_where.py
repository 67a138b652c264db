"""Which rows of a table are used: a simple expression over its columns, which is parsed here and never executed.

    age >= 18 and ward in ["A", "B"] and not (`body mass` is missing or low < high < 20)

A comparison with a missing cell is neither true nor false, and neither is its negation: such rows are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, NoReturn

import numpy as np

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.table_cells import Column
from metadist_cli.data.readers.table_format import date

_TOKEN = re.compile(
    r"(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.]))"
    r"""|(?P<text>"[^"]*"|'[^']*')|(?P<column>`[^`]+`|[^\W\d][\w.]*)|(?P<mark>[=!<>]=|[<>=()\[\],])"""
)
_WORDS = {"and", "or", "not", "in", "is", "missing"}
_COMPARE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_DEEPEST = 50  # parentheses and negations in each other


class Truth(NamedTuple):
    """Of each row, whether something is true, and whether it is false; where it hangs on a missing cell, neither."""

    yes: np.ndarray
    no: np.ndarray


class Token(NamedTuple):
    kind: str  # number, text, column, word (a key word), mark or end
    text: str
    at: int  # place in the expression, from 0


class Where(NamedTuple):
    """A parsed expression. columns: the first token of each column that it names; truth: (columns) -> of each row."""

    columns: dict[str, Token]
    truth: Callable[[Mapping[str, Column]], Truth]


def parse(text: str, known: Collection[str]) -> Where:
    """Parse an expression.

    Args:
        text: the expression; "" is true for every row.
        known: the names of the columns.

    Raises:
        Problem: CONFIG, with a snippet that points to what is wrong.
    """
    if not text:
        return Where({}, lambda columns: Truth(np.array(True), np.array(False)))
    where = _Parser(text).parsed()
    for name, token in where.columns.items():
        if name not in known:
            hint = nearest(name[:NAME], [one[:NAME] for one in known])
            raise _problem(
                text, token.at, f"the table has no column {name[:NAME]!r}", f"{hint}  (a text has marks: '{name}')"
            )
    return where


def _problem(text: str, at: int, message: str, hint: str, code: int = CONFIG) -> Problem:
    begin = max(0, at - 60)
    snippet = f"  {text[begin : begin + 100]}\n  {' ' * (at - begin)}^"
    return Problem(message, f"data.where:{at + 1}", hint, code, snippet)


class _Parser:
    """A recursive descent: `or` of `and` of `not` of comparisons."""

    def __init__(self, text: str):
        self._text, self._tokens, self._next, self._deep = text, [*_tokens(text)], 0, 0
        self._columns: dict[str, Token] = {}

    def parsed(self) -> Where:
        truth = self._any()
        if self._token.kind != "end":
            self._bad(f"expected `and`, `or` or the end, not {self._token.text!r}")
        return Where(self._columns, truth)

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> Token | None:
        """The next token, if it is one of these marks or key words."""
        token = self._token
        if token.kind not in ("mark", "word") or token.text not in texts:
            return None
        self._next += 1
        return token

    def _bad(self, message: str, hint: str = "for example: age >= 18 and ward in ['A', 'B']") -> NoReturn:
        raise _problem(self._text, self._token.at, message, hint)

    def _any(self) -> Callable[[Mapping[str, Column]], Truth]:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return lambda columns: _any_of([part(columns) for part in parts])

    def _all(self) -> Callable[[Mapping[str, Column]], Truth]:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return lambda columns: _not(_any_of([_not(part(columns)) for part in parts]))

    def _not(self) -> Callable[[Mapping[str, Column]], Truth]:
        self._deep += 1
        if self._deep > _DEEPEST:
            self._bad(f"more than {_DEEPEST} parentheses in each other", "write it simpler")
        if self._take("not"):
            inner = self._not()
            self._deep -= 1
            return lambda columns: _not(inner(columns))
        if self._take("("):
            inner = self._any()
            if not self._take(")"):
                self._bad("a parenthesis is not closed", "add )")
            self._deep -= 1
            return inner
        self._deep -= 1
        return self._test()

    def _test(self) -> Callable[[Mapping[str, Column]], Truth]:
        first = self._operand()
        if self._take("is"):
            return self._missing(first)
        if negated := self._take("not"):
            if not self._take("in"):
                self._bad("expected `in` after `not`")
            inner = self._in(first)
            return (lambda columns: _not(inner(columns))) if negated else inner
        if self._take("in"):
            return self._in(first)
        tests = []
        while sign := self._take(*_COMPARE, "="):
            if sign.text == "=":
                raise _problem(self._text, sign.at, "`=` compares nothing", "write ==")
            second = self._operand()
            if "column" not in (first.kind, second.kind):
                raise _problem(
                    self._text, first.at, "neither side is a column", "write a column's name without quotation marks"
                )
            tests.append((sign.text, first, second))
            first = second
        if not tests:
            self._bad(f"expected a comparison, `in` or `is missing` after {first.text!r}")
        return lambda columns: _not(_any_of([_not(self._compared(columns, *test)) for test in tests]))

    def _operand(self) -> Token:
        token = self._token
        if token.kind not in ("number", "text", "column"):
            self._bad(f"expected a column, a number or a text, not {token.text or 'the end'!r}")
        self._next += 1
        if token.kind == "column":
            self._columns.setdefault(token.text, token)
        return token

    def _missing(self, token: Token) -> Callable[[Mapping[str, Column]], Truth]:
        negated = self._take("not")
        if not self._take("missing") or token.kind != "column":
            self._bad("expected COLUMN is missing, or COLUMN is not missing")

        def test(columns: Mapping[str, Column]) -> Truth:
            gone = columns[token.text].missing
            return Truth(~gone, gone) if negated else Truth(gone, ~gone)

        return test

    def _in(self, token: Token) -> Callable[[Mapping[str, Column]], Truth]:
        if token.kind != "column" or not self._take("["):
            self._bad("expected COLUMN in [VALUE, VALUE]", "for example: ward in ['A', 'B']")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        if not self._take("]"):
            self._bad("a list is not closed", "add ]")
        return lambda columns: _any_of([self._compared(columns, "==", token, value) for value in values])

    def _value(self) -> Token:
        token = self._operand()
        if token.kind == "column":
            raise _problem(self._text, token.at, "a list holds values, not columns", f"write '{token.text}'")
        return token

    def _compared(self, columns: Mapping[str, Column], sign: str, first: Token, second: Token) -> Truth:
        one, other = (columns[token.text] if token.kind == "column" else None for token in (first, second))
        left, right = self._numbers(first, one, second, other), self._numbers(second, other, first, one)
        if left is not None and right is not None:
            known = ~(np.isnan(left) | np.isnan(right))
            yes = _COMPARE[sign](left, right)
            return Truth(yes & known, ~yes & known)
        if (left is None) != (right is None):
            message = f"{first.text[:NAME]!r} and {second.text[:NAME]!r}: one holds numbers, the other texts"
            raise _problem(self._text, second.at, message, "compare columns of one kind", DATA)
        if sign not in ("==", "!="):
            hint = "use == or !=; dates and numbers of other formats need data.dates or data.decimal"
            raise _problem(self._text, second.at, f"{sign} compares numbers, but these are texts", hint)
        if one is not None and other is not None:
            known = ~(one.missing | other.missing)
            same = (_texts(one) == _texts(other)) == (sign == "==")
            return Truth(same & known, ~same & known)
        column, token = (one, second) if one is not None else (other, first)
        assert column is not None, "one side is a column"
        if token.text not in column.texts:
            hint = nearest(token.text[:NAME], [text[:NAME] for text in column.texts])
            message = f"no row has {token.text[:NAME]!r} in {column.name[:NAME]!r}"
            raise _problem(self._text, token.at, message, hint, DATA)
        same = (column.code == column.texts.index(token.text)) == (sign == "==")
        return Truth(same & ~column.missing, ~same & ~column.missing)

    def _numbers(self, token: Token, column: Column | None, beside: Token, other: Column | None) -> np.ndarray | None:
        """The numbers of one side; None where both sides are texts. Raises Problem where just one is."""
        if token.kind == "number":
            if other is not None and other.numbers() is None:
                raise _problem(self._text, token.at, f"{beside.text[:NAME]!r} holds texts", f"write '{token.text}'")
            return np.array(float(token.text))
        if column is not None:
            texts = beside.kind == "text" or (other is not None and other.numbers() is None)
            return column.number if texts else column.numbers()
        if other is None or other.number is None:
            return None
        if other.date:
            day = date(token.text, None)
            if day is None:
                message = f"{token.text[:NAME]!r} is not a date like 2026-01-31"
                raise _problem(self._text, token.at, message, "write year, month and day like this")
            return np.array(day * (24 if other.date == "hours" else 1))
        plain = re.fullmatch(r"[-+]?[0-9.]+", token.text)
        hint = f"write {token.text}, without quotation marks" if plain else "compare it with a number"
        raise _problem(self._text, token.at, f"{other.name[:NAME]!r} holds numbers", hint, DATA)


def _tokens(text: str) -> list[Token]:
    found, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            quote = text[at] in "\"'`"
            message = (
                f"{text[at]!r} opens a name or text that is not closed" if quote else f"{text[at]!r} means nothing here"
            )
            hint = (
                f"add {text[at]}"
                if quote
                else "columns, numbers, 'texts', == != < <= > >=, and, or, not, in, is missing"
            )
            raise _problem(text, at, message, hint)
        kind, word = str(match.lastgroup), match.group()
        if kind in ("text", "column") and word[0] in "\"'`":
            word = word[1:-1]
        elif kind == "column" and word.lower() in _WORDS:
            kind, word = "word", word.lower()
        found.append(Token(kind, word, at))
        at = match.end()
    return [*found, Token("end", "", len(text))]


def _texts(column: Column) -> np.ndarray:
    """(n,) the texts, None where one is missing."""
    return np.array([*column.texts, None], dtype=object)[column.code]


def _not(truth: Truth) -> Truth:
    return Truth(truth.no, truth.yes)


def _any_of(parts: list[Truth]) -> Truth:
    return Truth(np.any([part.yes for part in parts], axis=0), np.all([part.no for part in parts], axis=0))
