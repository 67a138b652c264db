"""Files that are mapped into memory: their rows are read from the disk when they are asked for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

import numpy as np

from metadist_cli.core.errors import DATA, SYSTEM, Problem
from metadist_cli.data.readers.npy import Head


def opened(path: Path) -> IO[bytes]:
    """A regular file, open for reading: no link is followed, no pipe waited for. Raises Problem(DATA or SYSTEM)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Problem("this is a link or no plain file", str(path), "put the file itself there", DATA) from error
        message = f"cannot read this file: {error.strerror}"
        raise Problem(message, str(path), "check that it is there and who may read it", SYSTEM) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Problem("this is no plain file", str(path), "put the file itself there", DATA)
    return open(fd, "rb")


def mapped(file: IO[bytes], found: Head) -> np.ndarray:
    """The array that lies in an open file behind its head, read-only. The file may be closed afterwards."""
    order = "F" if found.fortran else "C"
    return np.memmap(file, found.dtype, "r", found.start, found.shape, order)  # pyright: ignore[reportCallIssue]
