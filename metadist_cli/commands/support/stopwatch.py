"""Where the time of a round goes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Adds up seconds by kind of work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Count the body's time."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, time.monotonic() - began)

    def waiting(self, kind: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; counts the time in which the next one is waited for."""
        coming = iter(items)
        while True:
            with self(kind):
                try:
                    item = next(coming)
                except StopIteration:
                    return
            yield item

    def add(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
