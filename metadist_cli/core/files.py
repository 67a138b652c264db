"""Files: the only place, beside the data sets, that touches the disk.

A file appears whole or not at all: temporary file, fsync, rename (or link), fsync of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from metadist_cli.core.errors import DATA, RETRY, SYSTEM, Problem
from metadist_cli.core.formats import check, from_json, pack, sha256, to_json, unpack

__all__ = ["check", "failed", "from_json", "lock", "pack", "publish", "read", "sha256", "to_json", "unpack", "write"]

_REMEDY = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space, then run the same command again",
    errno.EFBIG: "a limit on the size of files is set (ulimit -f): raise it",
    errno.EACCES: "check who may read and write this folder",
    errno.EPERM: "check who may read and write this folder, and that its file system knows hard links",
    errno.EROFS: "the file system is read-only: choose a folder elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "a part of this path is a file, not a folder",
    errno.EISDIR: "there is a folder of this name: move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "too many files are open (ulimit -n): raise the limit",
}


def write(path: str | Path, data: bytes | str) -> None:
    """Write or replace a file: after a crash at any moment it holds either the old or the new content.

    Creates the folder. Raises Problem(SYSTEM).
    """
    _commit(Path(path), data, lambda temp, target, _: os.replace(temp, target))


def publish(path: str | Path, data: bytes | str) -> None:
    """Write a file that must not exist yet: the first writer wins, a second one with equal bytes is welcome.

    Raises Problem(DATA) where the file exists with other content, Problem(SYSTEM).
    """
    _commit(Path(path), data, _link)


def _link(temp: Path, target: Path, data: bytes) -> None:
    try:
        os.link(temp, target)
    except FileExistsError:  # also a LINK that NFS retried although it was done: then the bytes are equal
        if os.lstat(target).st_size != len(data) or read(target, len(data), "published file") != data:
            hint = "two runs with different settings or versions share this folder: give one of them another name"
            raise Problem("another, different result was published here first", str(target), hint, DATA) from None


def _commit(path: Path, data: bytes | str, place: Callable[[Path, Path, bytes], None]) -> None:
    data = data.encode() if isinstance(data, str) else data
    temp = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        _make_folder(path.parent)
        try:
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                _stage("temp")
                os.fsync(fd)
            finally:
                os.close(fd)
            _stage("synced")
            place(temp, path, data)
            _stage("renamed")
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temp)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte or half a surrogate pair
        raise failed("write", path, error) from error


def _stage(name: str) -> None:
    """Called in every write after the bytes ("temp"), their fsync ("synced") and the rename or link ("renamed").

    Does nothing: tests replace it to kill the process at these places.
    """


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(fd)


def failed(doing: str, path: str | Path, error: OSError | ValueError) -> Problem:
    """What the system says of a file, with the remedy."""
    reason, number = (error.strerror, error.errno) if isinstance(error, OSError) else (str(error), None)
    hint = _REMEDY.get(number or 0, "look at the disk and the path, then run the same command again")
    return Problem(f"cannot {doing} this file: {reason}", str(path), hint, SYSTEM)


def read(path: str | Path, limit: int, what: str) -> bytes:
    """Bytes of a regular file of at most `limit` bytes; `what` names it in messages ("checkpoint of node 3").

    Follows no symbolic link, waits for no pipe. Raises Problem(DATA) if missing, irregular, too large or changing
    while it is read, Problem(SYSTEM) if it cannot be read.
    """

    def bad(message: str, hint: str) -> NoReturn:
        raise Problem(f"the {what} {message}", str(path), hint, DATA) from None

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                bad("is not a regular file", "put a plain file there")
            size = status.st_size
            if size > limit:
                bad(
                    f"has {size:,} bytes, more than the {limit:,} allowed", "put the right file there, or make it again"
                )
            chunks, left = [], size + 1
            while left and (chunk := os.read(fd, left)):
                chunks.append(chunk)
                left -= len(chunk)
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        bad("is missing", "check the path, or run the step that makes it")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENXIO):
            bad("is not a regular file (a symbolic link?)", "put a plain file there")
        raise failed("read", path, error) from error
    if left != 1:
        bad("changed while it was read", "another program writes to it: stop that, then run the same command again")
    return b"".join(chunks)


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold a lock file that is never removed; the kernel frees it when the process ends, however it ends.

    Raises Problem(RETRY) where another process holds it. A file system without locks lets everybody through: the lock
    saves double work, but what is right rests on atomic writes alone.
    """
    try:
        _make_folder(Path(path).parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        raise failed("open", path, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait until it has ended, then run the same command again (a crash frees the lock too)"
            raise Problem("another metadist process is at work here", str(path), hint, RETRY) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise failed("lock", path, error) from error
        yield
    finally:
        with contextlib.suppress(OSError):  # closing alone leaves it to a child that is just being started
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
