"""Atomic file access: apart from the data sets, the only module that touches the disk.

A file appears complete or not at all: temporary file, fsync, rename (or link), fsync of the folder.
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

__all__ = [
    "check",
    "from_json",
    "lock",
    "os_problem",
    "pack",
    "publish",
    "read",
    "sha256",
    "to_json",
    "unpack",
    "write",
]

_REMEDY = {
    errno.ENOSPC: "the disk is full: free some space, then run the command again",
    errno.EDQUOT: "your disk quota is used up: free some space, then run the command again",
    errno.EFBIG: "the file exceeds the size limit of this shell: raise it (ulimit -f)",
    errno.EACCES: "check the permissions of the file and its folder",
    errno.EPERM: "check the permissions of this folder and that its file system supports hard links",
    errno.EROFS: "the file system is read-only: choose a folder on another one",
    errno.ENOTDIR: "part of this path is a file, not a folder: rename that file or choose another path",
    errno.EEXIST: "part of this path is a file, not a folder: rename that file or choose another path",
    errno.EISDIR: "a folder has this name: move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}


def write(path: str | Path, data: bytes | str) -> None:
    """Write or replace a file atomically: after a crash it holds either the old or the new content.

    Args:
        path: File to write; missing folders are created.
        data: Content; text is encoded as UTF-8.

    Raises:
        Problem: SYSTEM if the operating system refuses.
    """
    _commit(Path(path), data, lambda temp, target, _: os.replace(temp, target))


def publish(path: str | Path, data: bytes | str) -> None:
    """Write a file once: the first writer wins, and writing the same bytes again succeeds.

    Args:
        path: File to create; missing folders are created.
        data: Content; text is encoded as UTF-8.

    Raises:
        Problem: DATA if the file exists with different content, SYSTEM if the operating system refuses.
    """
    _commit(Path(path), data, _link)


def _link(temp: Path, target: Path, data: bytes) -> None:
    try:
        os.link(temp, target)
    except FileExistsError:  # NFS may also report this for a link that it made and then retried: the bytes are equal
        if os.lstat(target).st_size != len(data) or read(target, len(data), "published file") != data:
            hint = "two runs with different settings or versions share this folder: rename one of them with --name"
            raise Problem("a different result already exists here", str(target), hint, DATA) from None


def _commit(path: Path, data: bytes | str, install: Callable[[Path, Path, bytes], None]) -> None:
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
            install(temp, path, data)
            _stage("renamed")
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temp)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte or a lone surrogate
        raise os_problem("write", path, error) from error


def _stage(name: str) -> None:
    """Do nothing: tests replace this function to kill the process in the middle of a write.

    Called after the bytes are written ("temp"), after their fsync ("synced") and after the rename or link ("renamed").
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


def os_problem(action: str, path: str | Path, error: OSError | ValueError) -> Problem:
    """The Problem for an error of the operating system, with its remedy: `action` is "read", "write", ..."""
    reason, number = (error.strerror, error.errno) if isinstance(error, OSError) else (str(error), None)
    hint = _REMEDY.get(number or 0, "check the path and the disk, then run the command again")
    return Problem(f"cannot {action} this file: {reason}", str(path), hint, SYSTEM)


def read(path: str | Path, limit: int, what: str) -> bytes:
    """Read a regular file; symbolic links are not followed and pipes are not waited for.

    Args:
        path: File to read.
        limit: Largest size accepted, in bytes.
        what: What the file is, for messages: "checkpoint of node 3".

    Returns:
        The content of the file.

    Raises:
        Problem: DATA if the file is missing, irregular, too large or changes meanwhile; SYSTEM if it cannot be read.
    """

    def bad(message: str, hint: str) -> NoReturn:
        raise Problem(f"the {what} {message}", str(path), hint, DATA) from None

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                bad("is not a regular file", "replace it with a regular file")
            size = status.st_size
            if size > limit:
                bad(f"has {size:,} bytes, more than the {limit:,} allowed", "check that this is the right file")
            chunks, left = [], size + 1
            while left and (chunk := os.read(fd, left)):
                chunks.append(chunk)
                left -= len(chunk)
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        bad("is missing", "check the path, or run the step that writes this file")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENXIO):
            bad("is not a regular file (a symbolic link?)", "replace it with a regular file")
        raise os_problem("read", path, error) from error
    if left != 1:
        bad("changed while it was read", "stop the program that writes to it, then run the command again")
    return b"".join(chunks)


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold an exclusive lock on a file inside a `with` block; the kernel releases it even if the process is killed.

    The lock only avoids duplicate work: correctness rests on atomic writes. On a file system without locks every
    process passes. The file itself is never removed.

    Args:
        path: Lock file, created if missing.

    Raises:
        Problem: RETRY if another process holds the lock, SYSTEM if the file cannot be opened or locked.
    """
    try:
        _make_folder(Path(path).parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        raise os_problem("open", path, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait until it ends, then run the command again (the lock is released even if it crashes)"
            raise Problem("another metadist process is using this folder", str(path), hint, RETRY) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise os_problem("lock", path, error) from error
        yield
    finally:
        with contextlib.suppress(OSError):  # closing alone would leave the lock to a child process that is starting
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
