"""A task as images by class, in a folder or .zip archive -> rows as the data set stores them."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import natural
from metadist_cli.data.new_rows import check_images
from metadist_cli.data.new_rows import read_images as read_pixels
from metadist_cli.data.readers.images import list_images
from metadist_cli.data.readers.members import Member
from metadist_cli.data.user_task.types import BYTES, PARTS, Part, TaskFormat

_LAYOUT = "use support/CLASS/*.png and query/CLASS/*.png (or query/*.png), or just CLASS/*.png"

Labelled = list[tuple[Member, str | None]]  # images with their classes, None where one is not labelled


def read_images(root: Path, wanted: TaskFormat) -> tuple[Part, Part]:
    """(support, query) of a folder or archive; without support/ and query/, `shot` images of each class are support.

    Raises Problem(DATA) for whatever is not an image, is a link, is too large, or is in the wrong folder.
    """
    check_images(wanted.rows, 0, str(root), BYTES)
    found = _layout(root, wanted.shot)
    for part, some in zip(PARTS, found, strict=True):
        if not some:
            raise Problem(f"there are no {part} images", str(root), f"add some: {_LAYOUT}", DATA)
    check_images(wanted.rows, sum(map(len, found)), str(root), BYTES)
    x = read_pixels([member for some in found for member, _ in some], wanted.rows, str(root))
    count = len(found[0])
    return _part(found[0], x[:count]), _part(found[1], x[count:])


def _layout(root: Path, shot: int) -> tuple[Labelled, Labelled]:
    """(support, query), each sorted by class and then by name, in natural order."""
    found = [(member.name.split("/"), member) for member in list_images(root)]
    if root.is_file() and len({parts[0] for parts, _ in found}) == 1 and all(len(parts) > 2 for parts, _ in found):
        found = [(parts[1:], member) for parts, member in found]  # an archive often holds one folder that holds it all
    found.sort(key=lambda one: [natural(part) for part in one[0]])
    tops = dict.fromkeys(parts[0] for parts, _ in found if len(parts) > 1)
    if not tops.keys() & set(PARTS):
        by_class = [list(images) for _, images in groupby(_labelled(found, 2), itemgetter(1))]
        support = [image for images in by_class for image in images[:shot]]
        return support, [image for images in by_class for image in images[shot:]]
    for name in PARTS:
        if name not in tops:
            hint = f"{_LAYOUT} (then no class can be called support or query)"
            raise Problem(f"the folder {name} is missing", str(root), hint, DATA)
    if others := [name for name in tops if name not in PARTS]:
        hint = "if it is a class, move it into support and query; otherwise move it away"
        raise Problem("this folder is beside support and query", str(root / others[0]), hint, DATA)
    support = _labelled([one for one in found if one[0][0] != "query"], 3)
    query = [one for one in found if one[0][0] == "query"]
    bare = [member for parts, member in query if len(parts) == 2]
    if not bare:
        return support, _labelled(query, 3)
    if len(bare) < len(query):
        hint = "put all query images into the folders of their classes, or none"
        raise Problem("this image has no class, others have one", bare[0].where, hint, DATA)
    return support, [(member, None) for member in bare]


def _labelled(found: list[tuple[list[str], Member]], depth: int) -> Labelled:
    """The images by the class whose folder they are in. depth: how many parts a path should have."""
    for parts, member in found:
        if len(parts) != depth:
            message = f"this image is {'in no' if len(parts) < depth else 'too deep in the'} folder of a class"
            raise Problem(message, member.where, f"put it into the folder of its class: {_LAYOUT}", DATA)
    return [(member, parts[-2]) for parts, member in found]


def _part(images: Labelled, x: np.ndarray) -> Part:
    classes = [name for _, name in images if name is not None]
    names = [member.name for member, _ in images]
    return Part(x, classes or None, names, lambda i: images[i][0].where.rpartition("/")[0])
