"""LEAF's JSON, one user at a time: {"users": [...], "num_samples": [...], "user_data": {user: {"x": [], "y": []}}}.

Half a gigabyte of JSON would be about ten as Python objects, so the users are parsed one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, unfit

_BLANKS = re.compile(r"[ \t\n\r]*")
_AGAIN = "the file is damaged or was edited: create it or download it again"
_KEYS = "a LEAF file has the keys users, num_samples and user_data"


def read_users(data: bytes, where: str, take: Callable[[str, list[Any], list[Any]], None]) -> dict[str, str | None]:
    """Read a file, one user at a time.

    Args:
        data: the bytes of the file.
        where: its path, for messages.
        take: called as take(user, x, y) for every user with rows, in the order of user_data; x and y are equally long.

    Returns:
        All users in the order of the key `users`, each with its hierarchy, if any.

    Raises:
        Problem(DATA), with file:line:column or the user: the file is not JSON, not LEAF's, or contradicts itself.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(f"this is not UTF-8 text (byte {error.start})", where, "save it as UTF-8", DATA) from error
    del data
    cursor, counts, lists = _Cursor(text, where), dict[str, int](), dict[str, Any]()
    for key in cursor.members():
        if key != "user_data":
            lists[key] = cursor.value()
            continue
        for user in cursor.members():
            at = f"{where}: user {user[:NAME]!r}"
            if reason := unfit(user, 255):
                raise Problem(f"the name of a user {reason}", at, "rename the user", DATA)
            x, y = _rows(cursor.value(at), at)
            counts[user] = len(y)
            if y:
                take(user, x, y)
        lists[key] = counts
    cursor.end()
    return _agree(lists, counts, where)


def _rows(value: Any, where: str) -> tuple[list[Any], list[Any]]:
    if not isinstance(value, dict) or not isinstance(value.get("x"), list) or not isinstance(value.get("y"), list):
        raise Problem("a user must have a list x of rows and a list y of labels", where, _AGAIN, DATA)
    x, y = value["x"], value["y"]
    if len(x) != len(y):
        raise Problem(f"x has {len(x):,} rows, y has {len(y):,}", where, _AGAIN, DATA)
    return x, y


def _agree(lists: dict[str, Any], counts: dict[str, int], where: str) -> dict[str, str | None]:
    """Checks users, num_samples and hierarchies against user_data; a user without rows need not be listed."""
    for key in ("users", "num_samples", "user_data"):
        if key not in lists:
            raise Problem(f"the key {key!r} is missing", where, _KEYS, DATA)
    users, numbers = lists["users"], lists["num_samples"]
    above = lists.get("hierarchies")
    for key, items, kind in (("users", users, str), ("num_samples", numbers, int), ("hierarchies", above, str)):
        if key == "hierarchies" and items is None:
            continue
        if not isinstance(items, list) or any(type(item) is not kind for item in items):
            raise Problem(f"{key} is not a list of {'names' if kind is str else 'whole numbers'}", where, _KEYS, DATA)
        if len(items) != len(users):
            raise Problem(f"{key} has {len(items):,} entries for {len(users):,} users", where, _AGAIN, DATA)
    said = dict(zip(users, numbers, strict=True))
    if len(said) < len(users):
        twice = next(user for i, user in enumerate(users) if user in users[:i])
        raise Problem(f"the user {twice[:NAME]!r} is listed twice", where, "give each user a different name", DATA)
    for user, count in counts.items():
        if user not in said and count:
            raise Problem(f"the user {user[:NAME]!r} of user_data is not in users", where, _AGAIN, DATA)
    for user, count in said.items():
        if user not in counts:
            raise Problem(f"the user {user[:NAME]!r} has no user_data", where, _AGAIN, DATA)
        if counts[user] != count:
            message = f"num_samples is {count:,}, but the user has {counts[user]:,} rows"
            raise Problem(message, f"{where}: user {user[:NAME]!r}", _AGAIN, DATA)
    return dict(zip(users, above or [None] * len(users), strict=True))


class _Unfit(ValueError):
    """Text that Python's parser accepts, but that is not JSON or is ambiguous."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Unfit("a key occurs twice")
    return found


def _constant(word: str) -> NoReturn:
    raise _Unfit(f"{word} is not a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


class _Cursor:
    """A place in a JSON text."""

    def __init__(self, text: str, where: str):
        self._text, self._where, self._at = text, where, 0

    def value(self, whose: str = "") -> Any:
        """The value at this place. whose: what messages call it where the JSON is valid but unfit."""
        self._peek()
        try:
            value, self._at = _DECODER.raw_decode(self._text, self._at)
            return value
        except json.JSONDecodeError as error:
            self._bad(f"this is not valid JSON: {error.msg}", error.pos)
        except RecursionError:
            message = "the JSON is nested too deep"
        except _Unfit as error:
            message = str(error)
        except ValueError:  # Python's limit of digits
            message = "a number has thousands of digits"
        raise Problem(message, whose or self._place(self._at), _AGAIN, DATA) from None

    def members(self) -> Iterator[str]:
        """The keys of the object at this place; the value of each must be taken before the next key."""
        self._expect("{")
        seen: set[str] = set()
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            start = self._at
            key = self.value() if self._peek() == '"' else None
            if key is None:
                self._bad("this is not valid JSON: expected a key in quotation marks", self._at)
            if key in seen:
                self._bad(f"the key {key[:NAME]!r} occurs twice", start)
            seen.add(key)
            self._expect(":")
            yield key
            if self._peek() == "}":
                self._at += 1
                return
            self._expect(",")

    def end(self) -> None:
        if self._peek():
            self._bad("this is not valid JSON: there is text after its end", self._at)

    def _peek(self) -> str:
        blanks = _BLANKS.match(self._text, self._at)
        self._at = blanks.end() if blanks else self._at
        return self._text[self._at : self._at + 1]

    def _expect(self, char: str) -> None:
        found = self._peek()
        if found != char:
            message = f"expected {char!r}, not {repr(found) if found else 'the end of the file'}"
            self._bad(f"this is not valid JSON: {message}", self._at)
        self._at += 1

    def _place(self, at: int) -> str:
        line, column = self._text.count("\n", 0, at) + 1, at - self._text.rfind("\n", 0, at)
        return f"{self._where}:{line}:{column}"

    def _bad(self, message: str, at: int) -> NoReturn:
        raise Problem(message, self._place(at), _AGAIN, DATA) from None
