"""Decoded pictures in the program's cache folder: keyed by what they were made from, so never stale, and sealed.

A file is the SHA-256 of its rest, the length of a note, the note as JSON, and the pixels, which are memory-mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.readers.folder import cache
from metadist_cli.data.readers.mapped import mapped, opened
from metadist_cli.data.readers.npy import Head

_BYTES = 2 << 30
_SEAL, _LENGTH = 32, 8  # bytes


class Plan(NamedTuple):
    """Pictures that are to be decoded: what is to be known of them beside the pixels, their shape, and how."""

    note: Any  # of what JSON knows
    shape: tuple[int, ...]  # (n, ...)
    fill: Callable[[np.ndarray], None]  # writes all of an array of this shape


def cached(key: str, plan: Callable[[], Plan]) -> tuple[np.ndarray, Any]:
    """(pictures (n, ...) uint8, their note): from the cache folder, or else as planned, and put there.

    key: hex digits that say all that the pixels depend on. A damaged file is made again; a cache that cannot be written
    costs the time, not the run. Raises Problem(DATA) where they would take more than 2 GiB, and what `fill` does.
    """
    home = cache()
    place = home / f"pictures-{key}.bin" if home else None
    if place and (found := _read(place)):
        return found
    note, shape, fill = plan()
    size = math.prod(shape)
    if size > _BYTES:
        message = f"{shape[0]:,} images of the shape {shape[1:]} take {size:,} bytes, more than {_BYTES:,}"
        raise Problem(message, "data.size", "make them smaller, or grey, or use fewer", DATA)
    text = files.to_json({"shape": shape, "note": note}).encode()
    start = _SEAL + _LENGTH + len(text)
    data = bytearray(start + size)
    data[_SEAL:start] = len(text).to_bytes(_LENGTH, "little") + text
    images = np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
    fill(images)
    if place:
        data[:_SEAL] = hashlib.sha256(memoryview(data)[_SEAL:]).digest()
        with contextlib.suppress(Problem):
            files.write(place, data)  # pyright: ignore[reportArgumentType] (a copy as bytes would double the memory)
    return images, note


def _read(place: Path) -> tuple[np.ndarray, Any] | None:
    """What lies in the cache, if it is there and whole."""
    with contextlib.suppress(Problem), opened(place) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SEAL + _LENGTH:
            return None
        data = mapped(file, Head(np.dtype(np.uint8), (size,), False, 0))
        if hashlib.sha256(data[_SEAL:].data).digest() == data[:_SEAL].tobytes():
            start = _SEAL + _LENGTH + int.from_bytes(data[_SEAL : _SEAL + _LENGTH].tobytes(), "little")
            text = files.from_json(data[_SEAL + _LENGTH : start].tobytes(), str(place))
            return data[start:].reshape(text["shape"]), text["note"]
    return None
