"""Parallel work on several cores: Python threads, each limited to one torch thread.

A second torch thread inside an operation changes the last bits. It also made a round 18 times slower when other work
shared the cores, because OpenMP spins while it waits (16.3 s with 4 threads, 0.9 s with 1). Here one thread computes an
item from start to end, so results do not depend on the number of threads. Torch kernels release Python's lock.
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
    """Map a function over items in parallel threads, in order.

    Args:
        work: Function of one item; several threads call it at once unless `threads` is 1.
        items: Items, consumed lazily.
        threads: Number of threads. At most this many results are ahead of the consumer, which bounds memory.

    Yields:
        work(item) for each item, in the order of the items.

    Raises:
        Exception: Whatever `work` raises first; items that have not started are cancelled.
    """
    if threads == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    ahead: deque[Future[Result]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BaseException as error:  # start nothing new; after Ctrl-C, do not wait for running blocks either
        pool.shutdown(wait=isinstance(error, Exception | GeneratorExit), cancel_futures=True)
        raise
    pool.shutdown()
