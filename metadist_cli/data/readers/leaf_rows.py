"""Rows and labels of a LEAF file, checked and packed as they are read: numbers, characters, names of images."""

from __future__ import annotations

import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, natural, unfit
from metadist_cli.data.readers.characters import Alphabet, lay
from metadist_cli.data.readers.images import EACH, pixels
from metadist_cli.data.types import Rows, Windows

_VALUES = 2_000_000_000  # 8 GB
_CLASSES = 10_000
_WHOLE = 1 << 53  # whole numbers that a double holds exactly
_IMAGE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,200}\.(jpe?g|png)", re.ASCII | re.IGNORECASE)  # no path
_PIXELS = 2 << 30  # bytes of all images


class Numbers:
    """Rows of numbers, all of one shape."""

    def __init__(self, shape: list[int] | None):
        self._wanted, self._shape, self._values = shape, (), array("f")

    def add(self, x: list[Any], where: str) -> None:
        """Raises Problem(DATA) for anything that is not a finite number, and for rows of another length."""
        found = _array(x)
        if found.dtype.kind not in "iuf" or not 2 <= found.ndim <= 4 or not found.size:
            message = "x is not a list of equally long lists of numbers"
            raise Problem(message, where, "correct the rows, or leave out the user", DATA)
        with np.errstate(over="ignore"):
            rows = found.astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(1))
        if len(wrong):
            message = f"row {wrong[0]} holds a number that is too large for single precision"
            raise Problem(message, where, "correct the row, or leave it out", DATA)
        shape = rows.shape[1:]
        if self._wanted is not None:
            if rows[0].size != np.prod(self._wanted):
                message = f"a row has {rows[0].size:,} numbers, data.shape says {'x'.join(map(str, self._wanted))}"
                raise Problem(message, where, "change data.shape, or leave it out", CONFIG)
            shape = tuple(self._wanted)
        self._shape = self._shape or shape
        if shape != self._shape:
            message = f"the rows have the shape {shape}, those before {self._shape}"
            raise Problem(message, where, "give all users rows of the same shape", DATA)
        self._values.frombytes(rows.data.cast("B"))
        if len(self._values) > _VALUES:
            raise Problem(f"there are more than {_VALUES:,} numbers", where, "read fewer files", DATA)

    def rows(self) -> Rows:
        return np.frombuffer(self._values, dtype=np.float32).reshape(-1, *self._shape)


class Texts:
    """Rows of characters, all of one length; the overlap of consecutive windows is stored once."""

    def __init__(self, alphabet: Alphabet, length: int | None, column: int | None):
        self._alphabet, self._length, self._column, self._free = alphabet, length, column, length is not None
        self._source, self._start = array("B"), array("q")

    def add(self, x: list[Any], where: str) -> None:
        """Raises Problem(DATA) for anything that is not text, and for a text of another length."""
        texts = self._chosen(x, where)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise Problem(f"row {i} is not text, others are", where, "give all rows the same type", DATA)
        if self._free:
            length = self._length or 0
            texts = [self._alphabet.known(text)[:length].rjust(length) for text in texts]
        self._length = length = self._length or len(texts[0])
        for i, text in enumerate(texts):
            if len(text) != length or not length:
                message = f"row {i} has {len(text):,} characters, others have {length:,}"
                raise Problem(message, where, "correct it, or write length: 80 for texts of any length", DATA)
        numbers = self._alphabet.encode("".join(texts), lambda _: where)
        source, start = lay(numbers.reshape(len(texts), length))
        self._start.frombytes((start + len(self._source)).data.cast("B"))
        self._source.frombytes(source.data)

    def _chosen(self, x: list[Any], where: str) -> list[Any]:
        """The texts of the column, where rows are lists."""
        if self._column is None and isinstance(x[0], str):
            return x
        column = -1 if self._column is None else self._column
        if column < 0 or any(not isinstance(row, list) or len(row) <= column for row in x):
            message = f"not every row has a text {column}" if column >= 0 else "the rows are lists of texts"
            hint = "write column: 4 for Sent140, and length: 80" if column < 0 else "change or remove data.column"
            raise Problem(message, where, hint, DATA)
        return [row[column] for row in x]

    def rows(self) -> Rows:
        _, order = self._alphabet.order()
        source = order[np.frombuffer(self._source, dtype=np.uint8)]
        return Windows(source, np.frombuffer(self._start, dtype=np.int64), self._length or 0)


class Images:
    """Rows that name an image in a folder, as CelebA's do: in colour, size x size pixels."""

    def __init__(self, folder: Path | None, size: int):
        self._folder, self._size, self._pixels = folder, size, bytearray()

    @staticmethod
    def named(row: Any) -> bool:
        return isinstance(row, str) and _IMAGE.fullmatch(row) is not None

    def add(self, x: list[Any], where: str) -> None:
        """Raises Problem(DATA) for a row that does not name an image, and for a missing or broken image."""
        if self._folder is None:
            message = f"the rows are names of images such as {x[0][:NAME]!r}, as in LEAF's CelebA"
            raise Problem(message, where, "set data.images to the folder that holds them", DATA)
        for i, name in enumerate(x):
            if not self.named(name):
                raise Problem(f"row {i} names no image, others do", where, "give all rows the same type", DATA)
            place = self._folder / name
            data = files.read(place, EACH, f"image of row {i}, {where},")
            self._pixels += pixels(data, True, (self._size, self._size), str(place)).tobytes()
            if len(self._pixels) > _PIXELS:
                hint = "use a smaller data.size, or fewer files"
                raise Problem("the images have more than 2 GiB of pixels", where, hint, CONFIG)

    def rows(self) -> Rows:
        return np.frombuffer(self._pixels, dtype=np.uint8).reshape(-1, 3, self._size, self._size)


class Labels:
    """Labels that are all numbers, all characters (the next one after a row of characters) or all names."""

    def __init__(self, classes: int | None, alphabet: Alphabet | None):
        self._classes, self._alphabet = classes, alphabet
        self._kind, self._values, self._names = "", array("q"), dict[str, int]()

    def add(self, y: list[Any], where: str) -> None:
        """Raises Problem(DATA) for a label of another type than those before, or outside data.classes."""
        if not self._kind:
            letters = self._alphabet is not None and isinstance(y[0], str) and len(y[0]) == 1
            self._kind = "character" if letters else "name" if isinstance(y[0], str) else "number"
        if self._kind == "number":
            self._values.frombytes(self._numbers(y, where).data.cast("B"))
            return
        for i, label in enumerate(y):
            reason = unfit(label) if isinstance(label, str) else "is not text, others are"
            if self._kind == "character":
                reason = "" if isinstance(label, str) and len(label) == 1 else "is not a single character, others are"
            if reason:
                raise Problem(f"the label of row {i} {reason}", where, "correct the row, or leave it out", DATA)
        if self._classes is not None:
            raise Problem("the labels are text", "data.classes", "remove it: it is for numbered labels", CONFIG)
        if self._kind == "character" and self._alphabet is not None:
            self._values.extend(self._alphabet.encode("".join(y), lambda _: where).tolist())
        else:
            self._values.extend(self._names.setdefault(label, len(self._names)) for label in y)

    def _numbers(self, y: list[Any], where: str) -> np.ndarray:
        found = _array(y)
        whole = found.dtype.kind in "iuf" and found.ndim == 1 and bool((abs(found) < _WHOLE).all())
        if not whole or (found % 1).any():
            message = "y is not a list of whole numbers"
            raise Problem(message, where, "write the number, or the name, of a class as label", DATA)
        labels, most = found.astype(np.int64), self._classes
        wrong = np.flatnonzero((labels < 0) | (labels >= (most or _WHOLE)))
        if most is not None and len(wrong):
            message = f"the label of row {wrong[0]} is {labels[wrong[0]]}, not 0 to {most - 1}"
            raise Problem(message, where, "change data.classes, or correct the row", DATA)
        return labels

    def labels(self, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """((n,) int64 class of each row, of all users in turn, names of the classes)."""
        numbers = np.frombuffer(self._values, dtype=np.int64)
        if self._kind == "character" and self._alphabet is not None:
            names, order = self._alphabet.order()
            return order[numbers].astype(np.int64), names
        if self._classes is not None:
            return numbers, tuple(map(str, range(self._classes)))
        present, labels = np.unique(numbers, return_inverse=True)
        if len(present) > _CLASSES:
            message = f"there are {len(present):,} different labels, more than {_CLASSES:,}"
            raise Problem(message, where, "is y the class of a row?", DATA)
        if self._kind == "number":
            return labels, tuple(map(str, present))
        names = tuple(sorted(self._names, key=natural))
        at = {name: i for i, name in enumerate(names)}
        return np.array([at[name] for name in self._names])[labels], names


def _array(values: list[Any]) -> np.ndarray:
    """The values as an array, of Python objects if nothing else holds them."""
    try:
        return np.array(values)
    except ValueError:  # lists of unequal length
        return np.array(values, dtype=object)
