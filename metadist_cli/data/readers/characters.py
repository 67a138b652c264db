"""Text as numbers: the number of each character, and windows of consecutive characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from metadist_cli.core.errors import DATA, Problem

# S. Caldas et al. (2018), LEAF, https://arxiv.org/abs/1812.01097; TalwalkarLab/leaf, models/utils/language_utils.py
LEAF = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
_MOST = 256  # what a byte can hold
_NAMES = {" ": "space", "\n": "newline"}


class Alphabet:
    """Numbers of characters: LEAF's 80 in LEAF's order, or numbered as they first occur."""

    def __init__(self, leaf: bool):
        self._fixed = leaf
        self._letters = list(LEAF) if leaf else []
        self._number = np.full(0x110000, -1, dtype=np.int16)
        self._number[[ord(letter) for letter in self._letters]] = np.arange(len(self._letters))

    def encode(self, text: str, place: Callable[[str], str]) -> np.ndarray:
        """(len(text),) uint8. place: where a character is, for messages.

        Raises Problem(DATA) for a character that is not among LEAF's, or for more than 256 different ones.
        """
        try:
            points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise Problem("the text has half a surrogate pair", place(half), "save it as UTF-8 again", DATA) from error
        numbers = self._number[points]
        if (numbers < 0).any():
            self._meet(np.unique(points[numbers < 0]), place)
            numbers = self._number[points]
        return numbers.astype(np.uint8)

    def _meet(self, points: np.ndarray, place: Callable[[str], str]) -> None:
        new = [chr(point) for point in points]
        if self._fixed:
            message, hint = f"{new[0]!r} is not one of LEAF's 80 characters", "write vocabulary: data, or replace it"
            raise Problem(message, place(new[0]), hint, DATA)
        if len(self._letters) + len(new) > _MOST:
            message = f"{new[-1]!r} makes more than {_MOST} different characters"
            raise Problem(message, place(new[-1]), "replace or remove rare characters", DATA)
        self._number[points] = np.arange(len(new)) + len(self._letters)
        self._letters += new

    def known(self, text: str) -> str:
        """The text without characters that have no number."""
        return "".join(letter for letter in text if self._number[ord(letter)] >= 0)

    @property
    def letters(self) -> str:
        """The characters in their order: LEAF's are in LEAF's, others sorted."""
        return "".join(self._letters if self._fixed else sorted(self._letters))

    def order(self) -> tuple[tuple[str, ...], np.ndarray]:
        """(names of the characters in their order, (C,) uint8 place among them of each number so far)."""
        letters = self.letters
        at = {letter: i for i, letter in enumerate(letters)}
        names = tuple(_NAMES.get(c) or (c if c.isprintable() else repr(c)[1:-1]) for c in letters)
        return names, np.array([at[letter] for letter in self._letters], dtype=np.uint8)


def numbers(texts: Sequence[object], letters: str, length: int, free: bool) -> np.ndarray:
    """(n, length) uint8 numbers of the characters of new texts.

    Args:
        texts: n of them.
        letters: the characters by their numbers.
        length: of a row.
        free: whether texts of other lengths are cut or padded, and characters without a number left out.

    Raises:
        Problem(DATA): a text has another length, or an unknown character.
    """
    place = {letter: i for i, letter in enumerate(letters)}
    rows = [str(text) for text in texts]
    if free:
        rows = ["".join(letter for letter in row if letter in place)[:length].rjust(length) for row in rows]
    for i, row in enumerate(rows):
        if len(row) != length:
            message = f"the text has {len(row):,} characters, a row of this data set has {length:,}"
            raise Problem(message, f"x[{i}]", f"pass the last {length:,} characters of a text", DATA)
        if odd := next((letter for letter in row if letter not in place), None):
            raise Problem(f"{odd!r} is not one of the data set's characters", f"x[{i}]", "replace or remove it", DATA)
    return np.array([[place[letter] for letter in row] for row in rows], dtype=np.uint8).reshape(-1, length)


def lay(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows as `types.Windows` stores them: one that continues the one before adds a single byte.

    Args:
        rows: (n, length) uint8.

    Returns:
        (source (m,) uint8, start (n,) int64); row i is source[start[i] : start[i] + length].
    """
    length = rows.shape[1]
    first = np.ones(len(rows), dtype=bool)  # of a run of windows
    first[1:] = (rows[1:, :-1] != rows[:-1, 1:]).any(1)
    fresh = np.repeat(first[:, None], length, axis=1)
    fresh[:, -1] = True
    return rows[fresh], np.cumsum(np.where(first, length, 1)) - length
