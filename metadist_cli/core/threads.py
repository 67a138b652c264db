"""Work side by side on several cores: Python threads, each with one torch thread.

A second torch thread inside an operation changes the last bits, and where other work shares the cores it made a round
18 times slower (OpenMP waits by spinning: 4 threads took 16.3 s, 1 thread 0.9 s). Here every item is computed by one
thread from start to end, so the number of threads changes no bit; torch lets go of Python's lock inside its kernels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """work(item) for every item, in order; at most `threads` are ahead of the consumer, so that memory is bounded."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # an error or Ctrl-C: nothing new is begun
            for waiting in ahead:
                waiting.cancel()
