"""Where data are on disk, and how to read a zip archive without trusting it."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from metadist_cli.core.errors import DATA, Problem

# What zipfile lets through from broken archives: found by a million random damages.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, IndexError, RuntimeError)


def cache() -> Path | None:
    """The program's cache folder, which may not exist yet; None for a user without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "metadist" if os.path.isabs(base) else None  # the XDG rule: a relative path is ignored


def find(name: str, path: str | None, needs: list[tuple[str, ...]], source: str) -> Path:
    """The folder of a published data set.

    Args:
        name: of the data set, and of its folder in $METADIST_DATA or in the cache folder.
        path: the folder itself; None to look for it in these two.
        needs: the files it must hold, a tuple of alternatives for each.
        source: where to download it, for the message.

    Returns:
        The first folder that holds all files.

    Raises:
        Problem(DATA): names the missing files and the places where they can be put.
    """
    home, own = os.environ.get("METADIST_DATA"), cache()
    if path is not None:
        places = [Path(path).expanduser()]
    else:
        places = ([Path(home).expanduser() / name] if home else []) + ([own / "data" / name] if own else [])
    for place in places:
        if all(any((place / one).exists() for one in several) for several in needs):
            return place
    first = places[0] if places else None
    lacking = [several for several in needs if not first or not any((first / one).exists() for one in several)]
    missing = ", ".join(several[0] for several in lacking)
    ways = ["into a folder and set data.path to it", f"into {name}/ in a folder and set METADIST_DATA to that one"]
    ways += [f"into {own / 'data' / name}"] if own else []
    raise Problem(
        f"cannot find the data set {name}: {missing} missing",
        str(first or "data.path"),
        f"download it from {source} and put it {'; or '.join(ways)}",
        DATA,
    )


def place(path: str) -> Path:
    """The user's own file or folder: an absolute path, or one relative to the current folder or to $METADIST_DATA.

    Raises Problem(DATA) with the places where it was looked for.
    """
    given, home = Path(os.path.expanduser(path)), os.environ.get("METADIST_DATA")
    places = [given] if given.is_absolute() or not home else [given, Path(os.path.expanduser(home), given)]
    for one in places:
        if os.path.exists(one):  # Path.exists raises for a name too long or with a zero byte
            return one
    hint = "check the path" if given.is_absolute() or home else "check the path, or set METADIST_DATA to its folder"
    raise Problem("no such file or folder", " or ".join(str(one) for one in places), hint, DATA)


def unzip(data: bytes, where: str, *, members: int, each: int, total: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a zip archive, in memory: nothing is extracted to disk.

    Args:
        data: the bytes of the archive.
        where: its path, for messages.
        members: the most entries it may have.
        each, total: the most bytes that one file, and all files, may unpack to. Checked before unpacking.

    Raises:
        Problem(DATA): the archive is broken, encrypted or oversized.
    """
    for name, read in zipped(data, where, members=members, each=each, total=total):
        yield name, read()


def zipped(data: bytes, where: str, *, members: int, each: int, total: int) -> list[tuple[str, Callable[[], bytes]]]:
    """Like `unzip`, but each file is unpacked by calling its function, so that one at a time is in memory."""

    def bad(message: str) -> Problem:
        return Problem(message, where, "download or pack the archive again", DATA)

    def unpacked(info: zipfile.ZipInfo) -> bytes:
        with _sound(bad):
            return archive.read(info)

    if data.count(b"PK\x01\x02") > members:  # each entry has this signature; zipfile makes an object of every one
        raise bad(f"the archive has more than {members:,} entries")
    with _sound(bad):
        archive = zipfile.ZipFile(io.BytesIO(data))
        infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos:
        if info.file_size > each:
            raise bad(f"{info.filename!r} has {info.file_size:,} bytes unpacked, more than {each:,}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise bad(f"{info.filename!r} is packed in an unusual way (only plain zip can be read)")
    if sum(info.file_size for info in infos) > total:
        raise bad(f"the archive has more than {total:,} bytes unpacked")
    return [(info.filename, partial(unpacked, info)) for info in infos]


@contextmanager
def _sound(bad: Callable[[str], Problem]) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise bad(f"the zip archive is broken: {str(error) or type(error).__name__}") from error
