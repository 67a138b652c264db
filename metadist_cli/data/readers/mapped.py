"""Files mapped into memory: their rows are read from disk when they are used."""

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
    """A regular file, opened for reading; never follows a link or waits for a pipe. Raises Problem(DATA or SYSTEM)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            message = "this is a link or not a regular file"
            raise Problem(message, str(path), "put the file itself there", DATA) from error
        message = f"cannot read this file: {error.strerror}"
        raise Problem(message, str(path), "check that it exists, and its permissions", SYSTEM) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Problem("this is not a regular file", str(path), "put the file itself there", DATA)
    return open(fd, "rb")


def mapped(file: IO[bytes], found: Head) -> np.ndarray:
    """The array behind its head in an open file, read-only. The file may be closed afterwards."""
    order = "F" if found.fortran else "C"
    return np.memmap(file, found.dtype, "r", found.start, found.shape, order)  # pyright: ignore[reportCallIssue]
