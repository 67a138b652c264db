"""Decoded images in the program's cache folder: keyed by what they were made from, so never stale, and sealed.

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


class DecodePlan(NamedTuple):
    """How to decode n images."""

    note: Any  # what else to keep about them, as JSON
    shape: tuple[int, ...]  # (n, ...)
    fill: Callable[[np.ndarray], None]  # writes all of a uint8 array of this shape


def cached(key: str, plan: Callable[[], DecodePlan]) -> tuple[np.ndarray, Any]:
    """Images from the cache folder, or else decoded and put there.

    Args:
        key: hex digits that cover everything the pixels depend on.
        plan: called where the cache does not hold the images, or holds a damaged file. A cache that cannot be written
            costs time, nothing else.

    Returns:
        ((n, ...) uint8, their note).

    Raises:
        Problem(DATA): the images would take more than 2 GiB; and what the plan raises.
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
    """The images in a cache file; None where it is missing or damaged."""
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
