"""Lists of images or classes for training, validation and testing, as few-shot benchmarks publish them.

A folder with train, test and perhaps val: .csv, `filename,label` per image (mini-ImageNet: S. Ravi, H. Larochelle
(2017), Optimization as a Model for Few-Shot Learning, ICLR); .json, a list of classes [above, class] or of names above
(CIFAR-FS: L. Bertinetto et al. (2019), Meta-learning with differentiable closed-form solvers, ICLR; FC100:
B. Oreshkin et al. (2018), TADAM, NeurIPS; as in tristandeleu/pytorch-meta); or .txt, one class per line. Or one .csv.
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
    """n images, with the class of each, perhaps its part of a split, and its groups.

    columns: by name, n values each. where: n places, for messages.
    """

    members: list[Member]
    columns: dict[str, list[str]]
    where: list[str]


def find_lists(path: Path) -> dict[str, Path]:
    """The lists by their part of the split; a single file has the part "". Raises Problem(DATA)."""
    if not path.is_dir():
        if path.suffix.lower() != ".csv":
            hint = "use a .csv file, or a folder with train.csv and test.csv (or .json, .txt)"
            raise Problem("a single list of images must be a .csv file", str(path), hint, DATA)
        return {"": path}
    for suffix in _SUFFIXES:
        found = {part: path / f"{part}{suffix}" for part in _PARTS if (path / f"{part}{suffix}").exists()}
        if missing := [part for part in ("train", "test") if found and part not in found]:
            raise Problem(f"{missing[0]}{suffix} is missing", str(path), "put it into the same folder", DATA)
        if found:
            return found
    hint = "use the folder that holds train.csv and test.csv (or .json, .txt)"
    raise Problem("the folder holds no lists", str(path), hint, DATA)


def by_images(lists: dict[str, Path], there: list[Member], root: Path) -> Listed:
    """The images that .csv lists name, by their columns filename and label; other columns are groups.

    Args:
        lists: as `find_lists` returns them; a single list may have a column `split`.
        there: the images in the folder; those that no list names are left out.
        root: the folder, for messages.

    Returns:
        The listed images, in the order of the lists.

    Raises:
        Problem(DATA), with file:line: an image is missing, listed twice, or outside the folder; columns differ.
    """
    index = {member.name: member for member in there}
    if len({name.partition("/")[0] for name in index}) == 1:  # an archive often holds one folder that holds it all
        index |= {member.name.partition("/")[2]: member for member in there}
    out, seen, groups = Listed([], {"class": []}, []), {}, None
    for part, path in lists.items():
        for name, cells, where in _rows(path, bool(part)):
            fields = {"class": cells.pop("label")} | cells | ({"split": part} if part else {})
            if groups is not None and groups != fields.keys():
                message = f"the columns of this list are {', '.join(fields)}, those of the first {', '.join(groups)}"
                raise Problem(message, where, "give all lists the same columns", DATA)
            groups = fields.keys()
            member = index.get(name.removeprefix("./"))
            if member is None:
                raise _absent(name, where, root)
            if member.name in seen:
                hint = f"remove it here or in {seen[member.name]}"
                raise Problem(f"{name[:NAME]!r} is listed twice", where, hint, DATA)
            seen[member.name] = where
            out.members.append(member)
            out.where.append(where)
            for column, value in fields.items():
                out.columns.setdefault(column, []).append(value)
    return out


def _rows(path: Path, parted: bool) -> Iterator[tuple[str, dict[str, str], str]]:
    """(file name, the other cells, file:line) of each row."""
    file = Member(path.name, str(path), partial(files.read, path.resolve(), _BYTES, "list of images"))
    table = sheet(file, Format())
    for wanted in ("filename", "label"):
        if wanted not in table.names:
            hint = f"the first line must name the columns; {nearest(wanted, table.names)}"
            raise Problem(f"the column {wanted!r} is missing", f"{path}:1", hint, DATA)
    taken = {"class", "split"} if parted else {"class"}
    for name in table.names:
        if name in taken or unfit(name) or len(table.names) > _COLUMNS:
            message = f"a list of images cannot have a column {name[:NAME]!r}"
            raise Problem(message, f"{path}:1", "use filename, label, and up to 18 groups", DATA)
    columns = [cells.to_pylist() for cells in table.cells(table.names).values()]
    for line, *cells in zip(table.lines(), *columns, strict=True):
        where = f"{path}:{line}"
        row = {name: cell.strip() for name, cell in zip(table.names, cells, strict=True)}
        image = row.pop("filename")
        for name, cell in row.items():
            if reason := unfit(cell):
                raise Problem(f"the {name} {reason}", where, f"use 1 to {NAME} characters", DATA)
        yield image, row, where


def _absent(name: str, where: str, root: Path) -> Problem:
    if name.startswith(("/", "\\")) or ":" in name or ".." in name.replace("\\", "/").split("/"):
        hint = "write file names relative to the folder of the images"
        return Problem(f"{name[:NAME]!r} leads out of the folder of the images", where, hint, DATA)
    return Problem(f"the image {name[:NAME]!r} is missing", where, f"is {root} the folder of the images?", DATA)


def by_classes(lists: dict[str, Path], classes: set[Class]) -> dict[Class, tuple[str, str]]:
    """The part of the split of each class, and its superclass where the list names one and the folders do not.

    Args:
        lists: as `find_lists` returns them. A list may name a superclass for all its classes; and where folders have a
            single level, [superclass, class].
        classes: those of the folders.

    Returns:
        (part, superclass or "") of each class.

    Raises:
        Problem(DATA): a listed name has no folder, or a class is in no list, or in two.
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
                    message = f"the list names {'/'.join(name)[:NAME]!r}, but no folder has this name"
                    raise Problem(message, where, hint, DATA)
                if found in out:
                    hint = f"remove it here or in {seen[found]}"
                    raise Problem(f"the class {'/'.join(found)!r} is listed twice", where, hint, DATA)
                out[found], seen[found] = (part, "/".join(above)), where
    if left := sorted(classes - out.keys()):
        others = f", nor are {len(left) - 1:,} others" if len(left) > 1 else ""
        message = f"the class {'/'.join(left[0])!r} is in none of the lists{others}"
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
    names = files.from_json(data, str(path))
    for i, name in enumerate(names if isinstance(names, list) else [names]):
        parts = name if isinstance(name, list) else [name]
        if not parts or not all(isinstance(one, str) for one in parts):
            hint = 'write ["class", "class"] or [["above", "class"]]'
            raise Problem("this is not the name of a class", f"{path}[{i}]", hint, DATA)
        yield tuple(parts), f"{path}[{i}]"
