"""Which files a table is made of: one file, or those of a folder or zip archive that a pattern names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, natural, unfit
from metadist_cli.data.readers.members import Member, members

_PLAIN = (".csv", ".tsv", ".tab", ".data", ".arff", ".parquet", ".xlsx")
TABLES = (*_PLAIN, *(f"{ending}.gz" for ending in _PLAIN))
_STARS = 3  # of a pattern: what more would match takes minutes to find out


class Files(NamedTuple):
    """What there is to choose from: the files below a path; only: the name of the one that the path itself is."""

    path: Path
    found: list[Member]
    only: str | None


def list_files(path: Path, file: str | None, joined: Iterable[str]) -> Files:
    """The files of a folder or zip archive, or one file and those to be joined to it, which lie beside it.

    Raises Problem where there is none, an archive is broken or too large, or `file` is given beside a file.
    """
    if path.is_dir() or path.suffix.lower() == ".zip":
        return Files(path, members(path, "", "table"), None)
    if file is not None:
        hint = "leave data.file out, or let data.path name the folder"
        raise Problem("data.path is a file already", "data.file", hint, CONFIG)
    beside = [path.with_name(name) for name in joined if os.path.basename(name) == name]
    found = [member for one in (path, *beside) if one.is_file() for member in members(one, "", "table")]
    return Files(path, found, path.name)


def choose(there: Files, pattern: str | None) -> list[Member]:
    """The files of a table in natural order, each named by what the pattern's * stands for, or else by its stem.

    A pattern means the last parts of a path: `*/data.csv` or `rating.csv`. Raises Problem where it means none, or two
    of one name, or, without a pattern, more or less than one table.
    """
    if pattern is None:
        tables = [one for one in there.found if there.only in (one.name, None)]
        tables = tables if there.only else [one for one in tables if one.name.lower().endswith(TABLES)]
        if len(tables) != 1:
            many = f"there are {len(tables):,} tables here: {_some(tables)}"
            hint = 'name one in data.file, or several: with file: "*.csv" each file is a group of rows'
            found = f"none of the files here is a table: {_some(there.found)}"
            raise Problem(many if tables else found, str(there.path), hint, DATA)
        return [_called(tables[0], "")]
    chosen = [(one, stars) for one in there.found if (stars := _stands_for(pattern, one.name)) is not None]
    if not chosen:
        message = f"no file is called {pattern[:NAME]!r}"
        raise Problem(message, str(there.path), f"there are: {_some(there.found)}", DATA)
    named: dict[str, Member] = {}
    for file in sorted((_called(*pair) for pair in chosen), key=lambda file: natural(file.name)):
        if file.name in named:
            message = f"two files are called {file.name!r}, the other is {named[file.name].where}"
            raise Problem(message, file.where, "write more of their path", DATA)
        named[file.name] = file
    return list(named.values())


def _stands_for(pattern: str, name: str) -> str | None:
    """What the stars of a pattern stand for in a path that it means, such as site/part; None where it does not."""
    if pattern.count("*") > _STARS:
        raise Problem(f"the pattern has more than {_STARS} *", "data.file", "use fewer", CONFIG)
    parts = pattern.split("/")
    expression = "/".join("([^/]*)".join(map(re.escape, part.split("*"))) for part in parts)
    match = re.fullmatch(expression, "/".join(name.split("/")[-len(parts) :]))
    return "/".join(filter(None, match.groups())) if match else None


def _called(file: Member, stars: str) -> Member:
    name = stars or Path(file.name.removesuffix(".gz")).stem
    if reason := unfit(name):
        raise Problem(f"the name {reason}", file.where, "rename the file", DATA)
    return file._replace(name=name)


def _some(found: Iterable[Member]) -> str:
    names = sorted((file.name for file in found), key=natural)
    return (", ".join(name[:NAME] for name in names[:8]) or "nothing") + " ..." * (len(names) > 8)
