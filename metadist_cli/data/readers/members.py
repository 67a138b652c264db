"""The files that a data set is made of: those of a folder as deep as it goes, of a zip archive, or one file alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.readers.folder import zipped

_FILES = 100_000
EACH, _ARCHIVE = 512 << 20, 1 << 30  # bytes
SMALL, RATIO = 64 << 20, 200  # an archive that unpacks to more than 200 times its size is refused above 64 MiB


class Member(NamedTuple):
    """One file; it is read when it is asked for, so that one of many need be in memory."""

    name: str  # relative, its parts joined by /
    where: str  # what messages call it
    read: Callable[[], bytes]


def members(path: Path, suffix: str, what: str) -> list[Member]:
    """The files that end in `suffix`, sorted by name; hidden ones are not seen. what: what messages call such a file.

    Raises Problem(DATA) where there is none, for an archive that is broken, has names that lead out of it or unpacks to
    far too much, and in `read` for a link and for more than 512 MiB.
    """
    if path.is_dir():
        found = [Member(name, str(path / name), partial(files.read, path / name, EACH, what)) for name in _walk(path)]
    elif path.suffix.lower() == ".zip":
        found = _inside(path)
    else:
        found = [Member(path.name, str(path), partial(files.read, path.resolve(), EACH, what))]
    chosen = [member for member in found if _plain(member.name) and member.name.lower().endswith(suffix)]
    if not chosen:
        hint = "let data.path name a file, or a folder or .zip archive of them"
        raise Problem(f"no {what} ({suffix}) found here", str(path), hint, DATA)
    return sorted(chosen, key=lambda member: member.name)


def _inside(path: Path) -> list[Member]:
    data = files.read(path.resolve(), _ARCHIVE, "archive")
    total = max(SMALL, RATIO * len(data))
    found = zipped(data, str(path), members=_FILES, each=EACH, total=total)
    for name, _ in found:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            hint = "make the archive again, from within the folder of the data"
            raise Problem(f"the name {name!r} leads out of the archive", str(path), hint, DATA)
    return [Member(name, f"{path}/{name}", read) for name, read in found]


def _walk(folder: Path) -> list[str]:
    found: list[str] = []
    for parent, below, names in os.walk(folder):
        below[:] = [name for name in below if _plain(name)]
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names]
        if len(found) > _FILES:
            hint = "let data.path name a folder that holds the data alone"
            raise Problem(f"there are more than {_FILES:,} files", str(folder), hint, DATA)
    return found


def _plain(name: str) -> bool:
    """False for hidden files, and for what macOS adds to archives."""
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
