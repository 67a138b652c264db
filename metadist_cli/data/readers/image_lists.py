"""Lists that say of pictures or of classes what trains and what is kept for testing, as few-shot benchmarks have them.

A folder with train, test and perhaps val: .csv, `filename,label` a picture (mini-ImageNet: S. Ravi, H. Larochelle
(2017), Optimization as a Model for Few-Shot Learning, ICLR); .json, a list of classes [above, class] or of names above
(CIFAR-FS: L. Bertinetto et al. (2019), Meta-learning with differentiable closed-form solvers, ICLR; FC100:
B. Oreshkin et al. (2018), TADAM, NeurIPS; as in tristandeleu/pytorch-meta); or .txt, one class a line. Or one .csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, nearest, unfit
from metadist_cli.data.readers.members import Member
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_open import sheet

_BYTES = 256 << 20
_PARTS = ("train", "val", "test")
_SUFFIXES = (".csv", ".json", ".txt")
_COLUMNS = 20
Class = tuple[str, ...]  # its name after those above it: ("fish", "ray")


class Listed(NamedTuple):
    """n pictures, what is said of each, by column (class, perhaps split, else groups), and where it is said."""

    members: list[Member]
    columns: dict[str, list[str]]
    where: list[str]


def find_lists(path: Path) -> dict[str, Path]:
    """The lists by the part that they are of; one file alone is of the part "". Raises Problem(DATA)."""
    if not path.is_dir():
        if path.suffix.lower() != ".csv":
            hint = "name a .csv file, or a folder with train.csv and test.csv (or .json, .txt)"
            raise Problem("this is no list of pictures", str(path), hint, DATA)
        return {"": path}
    for suffix in _SUFFIXES:
        found = {part: path / f"{part}{suffix}" for part in _PARTS if (path / f"{part}{suffix}").exists()}
        if missing := [part for part in ("train", "test") if found and part not in found]:
            raise Problem(f"{missing[0]}{suffix} is missing", str(path), "put it beside the others", DATA)
        if found:
            return found
    hint = "name the folder that holds train.csv and test.csv (or .json, .txt)"
    raise Problem("there are no lists here", str(path), hint, DATA)


def by_pictures(lists: dict[str, Path], there: list[Member], root: Path) -> Listed:
    """The pictures that .csv lists name: columns filename and label, others are groups (or split, in a single list).

    Pictures that no list names are left out. Raises Problem(DATA) with file:line for one that is not there, named
    twice, or outside the folder.
    """
    index = {member.name: member for member in there}
    if len({name.partition("/")[0] for name in index}) == 1:  # an archive often holds one folder that holds it all
        index |= {member.name.partition("/")[2]: member for member in there}
    out, seen, groups = Listed([], {"class": []}, []), {}, None
    for part, path in lists.items():
        for name, cells, where in _rows(path, bool(part)):
            fields = {"class": cells.pop("label")} | cells | ({"split": part} if part else {})
            if groups is not None and groups != fields.keys():
                message = f"this list has other columns: {', '.join(fields)}"
                raise Problem(message, where, f"the first one has {', '.join(groups)}", DATA)
            groups = fields.keys()
            member = index.get(name.removeprefix("./"))
            if member is None:
                raise _absent(name, where, root)
            if member.name in seen:
                raise Problem(f"{name[:NAME]!r} is listed twice", where, f"it is in {seen[member.name]} too", DATA)
            seen[member.name] = where
            out.members.append(member)
            out.where.append(where)
            for column, value in fields.items():
                out.columns.setdefault(column, []).append(value)
    return out


def _rows(path: Path, parted: bool) -> Iterator[tuple[str, dict[str, str], str]]:
    """(file name, the other cells, file:line) of each row."""
    file = Member(path.name, str(path), partial(files.read, path.resolve(), _BYTES, "list of pictures"))
    table = sheet(file, Format())
    for wanted in ("filename", "label"):
        if wanted not in table.names:
            hint = f"the first line must name the columns; {nearest(wanted, table.names)}"
            raise Problem(f"the column {wanted!r} is missing", f"{path}:1", hint, DATA)
    taken = {"class", "split"} if parted else {"class"}
    for name in table.names:
        if name in taken or unfit(name) or len(table.names) > _COLUMNS:
            message = f"a list of pictures cannot have a column {name[:NAME]!r}"
            raise Problem(message, f"{path}:1", "filename and label, and a few others that are groups", DATA)
    columns = [cells.to_pylist() for cells in table.cells(table.names).values()]
    for line, *cells in zip(table.lines(), *columns, strict=True):
        where = f"{path}:{line}"
        row = {name: cell.strip() for name, cell in zip(table.names, cells, strict=True)}
        picture = row.pop("filename")
        for name, cell in row.items():
            if reason := unfit(cell):
                raise Problem(f"the {name} {reason}", where, f"use 1 to {NAME} characters", DATA)
        yield picture, row, where


def _absent(name: str, where: str, root: Path) -> Problem:
    if name.startswith(("/", "\\")) or ":" in name or ".." in name.replace("\\", "/").split("/"):
        hint = "write file names as they are within the folder of the pictures"
        return Problem(f"{name[:NAME]!r} leads out of the folder of the pictures", where, hint, DATA)
    return Problem(f"there is no picture {name[:NAME]!r}", where, f"is {root} the folder of the pictures?", DATA)


def by_classes(lists: dict[str, Path], classes: set[Class]) -> dict[Class, tuple[str, str]]:
    """(part, what stands above it in the list but not in the folder, or "") of each class.

    A list may name what stands above a class for all classes of it; and where folders have one level, [above, class].
    Raises Problem(DATA) for a name that the folders do not have, and unless each class is in one list.
    """
    flat = all(len(name) == 1 for name in classes)
    below: dict[Class, list[Class]] = {}
    for name in sorted(classes):
        for length in range(1, len(name) + 1):
            below.setdefault(name[:length], []).append(name)
    out: dict[Class, tuple[str, str]] = {}
    seen: dict[Class, str] = {}
    for part, path in lists.items():
        for name, where in _names(path):
            above = name[:-1] if flat and len(name) > 1 else ()
            for found in below.get(name[len(above) :], []) or [None]:
                if found is None:
                    hint = f"the folders are like {'/'.join(min(classes))}"
                    raise Problem(f"the list names {'/'.join(name)[:NAME]!r}, which is no class", where, hint, DATA)
                if found in out:
                    hint = f"it is in {seen[found]} too"
                    raise Problem(f"the class {'/'.join(found)!r} is listed twice", where, hint, DATA)
                out[found], seen[found] = (part, "/".join(above)), where
    if left := sorted(classes - out.keys()):
        message = f"{len(left):,} classes are in none of the lists, the first is {'/'.join(left[0])!r}"
        raise Problem(message, str(next(iter(lists.values())).parent), "add them to a list, or move them away", DATA)
    return out


def _names(path: Path) -> Iterator[tuple[Class, str]]:
    data = files.read(path.resolve(), _BYTES, "list of classes")
    if path.suffix == ".txt":
        try:
            lines = enumerate(data.decode().splitlines(), 1)
        except UnicodeDecodeError as error:
            raise Problem("the list of classes is not UTF-8 text", str(path), "save it as UTF-8", DATA) from error
        yield from ((tuple(line.strip().split("/")), f"{path}:{number}") for number, line in lines if line.strip())
        return
    told = files.from_json(data, str(path))
    for i, name in enumerate(told if isinstance(told, list) else [told]):
        parts = name if isinstance(name, list) else [name]
        if not parts or not all(isinstance(one, str) for one in parts):
            hint = 'write ["class", "class"] or [["above", "class"]]'
            raise Problem("this is no class", f"{path}[{i}]", hint, DATA)
        yield tuple(parts), f"{path}[{i}]"
