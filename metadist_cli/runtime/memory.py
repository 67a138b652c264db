"""This process's memory: what it keeps between steps, and how much it took."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep() -> None:
    """Keep freed memory: glibc would return every array of more than 128 KiB to the system.

    The system clears pages before they are used again: 15 to 40% of the time of a round of 1,000 small nodes, 10 to 30%
    of a step of convolutions, a quarter of one with arrays above 32 MiB. The price: up to a third more memory is held.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries have no mallopt
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20)):
            ctypes.CDLL(None).mallopt(option, value)


def peak() -> dict[str, int]:
    """Peak bytes so far: "host" of this process, if the system reports it, and "gpu" of torch's memory on GPUs."""
    found = {}
    status = Path("/proc/self/status")  # getrusage begins with what the parent had, and has other units elsewhere
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM"):
            found["host"] = 1024 * int(line.split()[1])
    if torch.cuda.is_initialized():
        found["gpu"] = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    return found
