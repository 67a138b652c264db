"""Your own images in folders by class, or in one folder with lists that name the class of each.

Few-shot benchmarks come in this form: mini-ImageNet (O. Vinyals et al. 2016, Matching Networks for One Shot Learning,
NeurIPS), CIFAR-FS and FC100, whose lists image_lists.py reads. Images are decoded once: see image_cache.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core import files
from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import unfit
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.groups import cluster, group, split_roles
from metadist_cli.data.readers.image_cache import DecodePlan, cached
from metadist_cli.data.readers.image_lists import Class, Listed, by_classes, by_images, find_lists
from metadist_cli.data.readers.images import list_images, pixels
from metadist_cli.data.readers.members import Member
from metadist_cli.data.types import Dataset, build

_RULE = "image folder 1: PIL, nearest, box or bicubic"  # another rule needs another name, or old caches would be taken
_OTHERS = (".csv", ".html", ".json", ".md", ".txt", "")  # lists, licences and the like may be among the images


def image_folder(
    seed: int,
    *,
    path: Annotated[str, Field(description="folder or .zip archive of PNG and JPEG images")],
    folders: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=6,
            description="what the levels of folders are, from the top: class, split, else a group",
        ),
    ] = ["class"],  # noqa: B006 (a default of the config, never changed)
    shared: Annotated[
        bool,
        Field(description="folders of one name in several groups are one class; false: each is a class of its own"),
    ] = False,
    lists: Annotated[
        str | None,
        Field(
            description="folder with train, test and perhaps val: .csv (filename,label) of images in one folder, or "
            ".json or .txt lists of classes; or one .csv"
        ),
    ] = None,
    size: Annotated[
        int | None,
        Field(ge=1, le=1024, description="width and height, pixels; null: as they are, if all are equal"),
    ] = None,
    colour: Annotated[Literal["rgb", "grey"], Field(description="three channels, or one")] = "rgb",
    invert: Annotated[bool, Field(description="dark becomes bright, so that ink is bright")] = False,
) -> Dataset:
    """Images in folders by class.

    Args:
        seed: unused, the rows are fixed.

    Returns:
        x (n, 3, size, size), or grey (n, size, size), uint8 from 0 to 255; classes and groups by folder or list. A
        split that keeps every class on one side is one of classes, any other is one of rows.

    Raises:
        Problem(CONFIG or DATA): a file is missing, broken, a link or in the wrong folder, or lists and folders do not
            match.
    """
    root, found = place(path), None if lists is None else find_lists(place(lists))
    there = list_images(root, _OTHERS)
    if not there:
        raise Problem("the folder holds no images", str(root), "is this the right folder?", DATA)
    if found and next(iter(found.values())).suffix.lower() == ".csv":
        if folders != ["class"]:
            hint = "remove data.folders; further columns of the lists are groups"
            raise Problem("the lists already name the class of each image", "data.folders", hint, CONFIG)
        labelled = by_images(found, there, root)
    else:
        labelled = _by_folders(there, folders, shared, found, root)
    columns = {name: np.array(values) for name, values in labelled.columns.items()}
    classes = group(columns.pop("class"), labelled.where.__getitem__)
    split = columns.pop("split", None)
    groups = {name: group(values, labelled.where.__getitem__) for name, values in columns.items()}
    role, row_role = (None, None)
    if split is not None:
        role, row_role = split_roles(split, classes.code, len(classes.names), labelled.where.__getitem__)
    for number in np.flatnonzero(np.bincount(classes.code) < 2)[:1]:
        where = labelled.where[int(np.flatnonzero(classes.code == number)[0])]
        hint = "a task adapts to one image and is scored on others: add some, or remove the class"
        raise Problem(f"the class {classes.names[number]!r} has a single image", where, hint, DATA)
    return build(
        "classification",
        _decoded(labelled.members, size, colour == "rgb", invert),
        classes.code,
        classes.names,
        divide=255.0,
        raw={"invert": invert},
        groups=groups,
        cluster=cluster(groups, classes.code, len(classes.names)),
        role=role,
        row_role=row_role,
    )


def _by_folders(
    there: list[Member], levels: Sequence[str], shared: bool, lists: dict[str, Path] | None, root: Path
) -> Listed:
    """The class and groups of each image by its folders, and its part of a split by lists of classes, if any."""
    if levels.count("class") != 1 or len(set(levels)) < len(levels) or any(map(unfit, levels)):
        message = f"one level must be `class`, and each name may be used once; given: {', '.join(levels)}"
        raise Problem(message, "data.folders", "for example [alphabet, class]", CONFIG)
    above = [member.name.split("/")[:-1] for member in there]
    if {len(names) for names in above} == {len(levels) + 1} and len({names[0] for names in above}) == 1:
        above = [names[1:] for names in above]  # an archive often holds one folder that holds it all
    columns: dict[str, list[str]] = {level: [] for level in levels}
    classes: list[Class] = []
    for member, names in zip(there, above, strict=True):
        if len(names) != len(levels):
            message = f"the image is {len(names)} folders deep, data.folders says {len(levels)}: {'/'.join(levels)}"
            raise Problem(message, member.where, "move it, or change data.folders", DATA)
        for level, name in zip(levels, names, strict=True):
            columns[level].append(name)
        upper = zip(levels[: levels.index("class")], names, strict=False)
        classes.append((*(name for level, name in upper if level != "split" and not shared), columns["class"][-1]))
    if lists:
        if "split" in columns:
            hint = "remove data.lists, or `split` from data.folders"
            raise Problem("both the folders and the lists name the split", "data.lists", hint, CONFIG)
        listed = by_classes(lists, set(classes))
        columns["split"] = [listed[name][0] for name in classes]
        if any(upper for _, upper in listed.values()):
            columns["above"] = [listed[name][1] for name in classes]
    columns["class"] = ["/".join(name) for name in classes]
    return Listed(there, columns, [member.where for member in there])


def _decoded(images: list[Member], size: int | None, colour: bool, invert: bool) -> np.ndarray:
    """(n, 3, height, width) or (n, height, width) uint8."""
    key = [_RULE, f"{size} {colour} {invert}", *(files.sha256(member.read()) for member in images)]
    wanted = None if size is None else (size, size)

    def decoded(member: Member) -> np.ndarray:
        return pixels(member.read(), colour, wanted, member.where, invert)

    def plan() -> DecodePlan:
        shape = decoded(images[0]).shape

        def fill(out: np.ndarray) -> None:
            for i, member in enumerate(images):
                image = decoded(member)
                if image.shape != shape:
                    one, first = ("x".join(map(str, found[:-3:-1])) for found in (image.shape, shape))
                    message = f"the image is {one} pixels, {images[0].where} is {first}"
                    raise Problem(message, member.where, f"set data.size, for example to {min(shape[-2:])}", DATA)
                out[i] = image

        return DecodePlan(None, (len(images), *shape), fill)

    return cached(files.sha256("\n".join(key).encode()), plan)[0]
