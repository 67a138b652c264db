"""Pictures of one's own in folders by class, or in one folder with lists that say what they show.

Few-shot benchmarks come so: mini-ImageNet (O. Vinyals et al. 2016, Matching Networks for One Shot Learning, NeurIPS),
CIFAR-FS and FC100, whose lists image_lists.py reads. Pictures are decoded once: see picture_cache.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core import files
from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import natural, unfit
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.groups import cluster, group, split_roles
from metadist_cli.data.readers.image_lists import Class, Listed, by_classes, by_pictures, find_lists
from metadist_cli.data.readers.members import Member, members
from metadist_cli.data.readers.picture_cache import Plan, cached
from metadist_cli.data.readers.pictures import EACH, check_name, entries, litter, pixels
from metadist_cli.data.types import Dataset, build

_RULE = "image folder 1: PIL, nearest, box or bicubic"  # another rule needs another name, or old caches would be taken
_FILES = 1_000_000
_OTHERS = (".csv", ".html", ".json", ".md", ".txt", "")  # lists, licences and the like may lie among the pictures


def image_folder(
    seed: int,
    *,
    path: Annotated[str, Field(description="folder or .zip archive of PNG and JPEG pictures")],
    folders: Annotated[
        list[str],
        Field(min_length=1, max_length=6, description="what the folders say, from the top: class, split, else a group"),
    ] = ["class"],  # noqa: B006 (a default of the config, never changed)
    shared: Annotated[
        bool, Field(description="folders of one name in several groups are one class; false: Greek/1 is not Latin/1")
    ] = False,
    lists: Annotated[
        str | None,
        Field(
            description="folder with train, test and perhaps val: .csv (filename,label) of pictures that lie together, "
            "or .json or .txt lists of classes; or one .csv"
        ),
    ] = None,
    size: Annotated[
        int | None, Field(ge=1, le=1024, description="width and height, pixels; null: as they are, if all are alike")
    ] = None,
    colour: Annotated[Literal["rgb", "grey"], Field(description="three channels, or one")] = "rgb",
    invert: Annotated[bool, Field(description="dark becomes bright, so that ink is bright")] = False,
) -> Dataset:
    """Pictures: x (n, 3, size, size) or grey (n, size, size) uint8, classes and groups by folder or list.

    A split in which no class is on two sides is one of classes, else one of rows. Fixed, so the seed changes nothing.
    Raises Problem where files are missing, broken, links, or not where they should be.
    """
    root, found = place(path), None if lists is None else find_lists(place(lists))
    there = _pictures(root)
    if found and next(iter(found.values())).suffix.lower() == ".csv":
        if folders != ["class"]:
            hint = "leave data.folders out; further columns of the list are groups"
            raise Problem("the lists name the class of each picture", "data.folders", hint, CONFIG)
        told = by_pictures(found, there, root)
    else:
        told = _by_folders(there, folders, shared, found, root)
    columns = {name: np.array(values) for name, values in told.columns.items()}
    classes = group(columns.pop("class"), told.where.__getitem__)
    split = columns.pop("split", None)
    groups = {name: group(values, told.where.__getitem__) for name, values in columns.items()}
    role, row_role = (None, None)
    if split is not None:
        role, row_role = split_roles(split, classes.code, len(classes.names), told.where.__getitem__)
    for number in np.flatnonzero(np.bincount(classes.code) < 2)[:1]:
        where = told.where[int(np.flatnonzero(classes.code == number)[0])]
        hint = "a task learns from one and is judged by others: add some, or take the class away"
        raise Problem(f"the class {classes.names[number]!r} has one picture", where, hint, DATA)
    return build(
        "classification",
        _decoded(told.members, size, colour == "rgb", invert),
        classes.code,
        classes.names,
        divide=255.0,
        groups=groups,
        cluster=cluster(groups, classes.code, len(classes.names)),
        role=role,
        row_role=row_role,
    )


def _pictures(root: Path) -> list[Member]:
    """All pictures below the root, in natural order of their names. Raises Problem(DATA)."""
    out: list[Member] = []
    if root.is_dir():
        todo = [""]
        while todo and len(out) <= _FILES:
            within = todo.pop()
            deeper, images = entries(root, within, _FILES, _OTHERS)
            if not deeper and not images:
                hint = "add pictures, or remove the folder" if within else "is this the right folder?"
                raise Problem("the folder holds no pictures", str(root / within), hint, DATA)
            todo += deeper
            out += [Member(one, str(root / one), partial(files.read, root / one, EACH, "picture")) for one in images]
    elif root.suffix.lower() != ".zip":
        raise Problem("this is no folder and no .zip archive", str(root), "name one that holds pictures", DATA)
    else:
        for member in members(root, "", "picture"):
            *above, name = member.name.split("/")
            if not litter(name) and not name.lower().endswith(_OTHERS[:-1]) and "." in name:
                for one in above:
                    check_name(one, member.where, True)
                check_name(name, member.where, False)
                out.append(member)
    if len(out) > _FILES:
        raise Problem(f"there are more than {_FILES:,} pictures", str(root), "use fewer", DATA)
    return sorted(out, key=lambda member: natural(member.name))


def _by_folders(
    there: list[Member], levels: Sequence[str], shared: bool, lists: dict[str, Path] | None, root: Path
) -> Listed:
    """What the folders say of each picture, and lists of classes, if there are any."""
    if levels.count("class") != 1 or len(set(levels)) < len(levels) or any(map(unfit, levels)):
        message = f"one of the levels must be the class, and none twice, not {', '.join(levels)}"
        raise Problem(message, "data.folders", "for example [alphabet, class]", CONFIG)
    above = [member.name.split("/")[:-1] for member in there]
    if {len(names) for names in above} == {len(levels) + 1} and len({names[0] for names in above}) == 1:
        above = [names[1:] for names in above]  # an archive often holds one folder that holds it all
    columns: dict[str, list[str]] = {level: [] for level in levels}
    classes: list[Class] = []
    for member, names in zip(there, above, strict=True):
        if len(names) != len(levels):
            message = f"the picture lies {len(names)} folders deep, data.folders says {len(levels)}: {'/'.join(levels)}"
            raise Problem(message, member.where, "move it, or change data.folders", DATA)
        for level, name in zip(levels, names, strict=True):
            columns[level].append(name)
        upper = zip(levels[: levels.index("class")], names, strict=False)
        classes.append((*(name for level, name in upper if level != "split" and not shared), columns["class"][-1]))
    if lists:
        if "split" in columns:
            raise Problem("the folders say the split already", "data.lists", "leave one of the two out", CONFIG)
        told = by_classes(lists, set(classes))
        columns["split"] = [told[name][0] for name in classes]
        if any(upper for _, upper in told.values()):
            columns["above"] = [told[name][1] for name in classes]
    columns["class"] = ["/".join(name) for name in classes]
    return Listed(there, columns, [member.where for member in there])


def _decoded(pictures: list[Member], size: int | None, colour: bool, invert: bool) -> np.ndarray:
    """(n, 3, height, width) or (n, height, width) uint8."""
    said = [_RULE, f"{size} {colour} {invert}", *(files.sha256(member.read()) for member in pictures)]
    wanted = None if size is None else (size, size)

    def decoded(member: Member) -> np.ndarray:
        return pixels(member.read(), colour, wanted, member.where)

    def plan() -> Plan:
        shape = decoded(pictures[0]).shape

        def fill(images: np.ndarray) -> None:
            for i, member in enumerate(pictures):
                picture = decoded(member)
                if picture.shape != shape:
                    one, first = ("x".join(map(str, found[:-3:-1])) for found in (picture.shape, shape))
                    message = f"the picture is {one} pixels, {pictures[0].where} is {first}"
                    raise Problem(message, member.where, f"write data.size: {min(shape[-2:])}, for example", DATA)
                images[i] = 255 - picture if invert else picture

        return Plan(None, (len(pictures), *shape), fill)

    return cached(files.sha256("\n".join(said).encode()), plan)[0]
