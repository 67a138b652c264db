"""Data in the format of LEAF: JSON files of users with their rows, among them FEMNIST, Shakespeare and Synthetic.

S. Caldas et al. (2018), LEAF: A Benchmark for Federated Settings, https://arxiv.org/abs/1812.01097; code:
TalwalkarLab/leaf. Rows can be numbers (FEMNIST, Synthetic, FedProx's data), characters (Shakespeare), free text, read
as characters (Sent140, where LEAF takes words and their GloVe vectors), and names of images in a folder (CelebA). Not
Reddit, whose rows and labels are sequences of tokens.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, listed, unfit
from metadist_cli.data.readers.characters import Alphabet
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.leaf_files import read_users
from metadist_cli.data.readers.leaf_rows import Images, Labels, Numbers, Texts
from metadist_cli.data.readers.members import Member, members
from metadist_cli.data.types import Dataset, Group, build, take

_PARTS = {"train": 0, "validation": 1, "val": 1, "test": 2}


def leaf(
    seed: int,
    *,
    path: Annotated[str, Field(description=".json file, or a folder or .zip archive of them, perhaps in parts")],
    split: Annotated[
        Literal["parts", "random"],
        Field(description="parts: by LEAF's folders train/, test/ (and validation/), if any; random: merged"),
    ] = "parts",
    keep: Annotated[int, Field(ge=1, description="leave out users with fewer rows than this")] = 1,
    shape: Annotated[
        list[Annotated[int, Field(ge=1, le=100_000)]] | None,
        Field(min_length=1, max_length=3, description="shape of a row of numbers: [28, 28] for FEMNIST's 784"),
    ] = None,
    classes: Annotated[
        int | None, Field(ge=2, le=10_000, description="number of classes 0, 1, ...; null: the labels that occur")
    ] = None,
    vocabulary: Annotated[
        Literal["leaf", "data"], Field(description="LEAF's 80 characters, or those of the rows, at most 256")
    ] = "leaf",
    length: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="length of free text: cut to this many characters, or padded with spaces"),
    ] = None,
    column: Annotated[
        int | None,
        Field(ge=0, le=1000, description="which text to read where a row is a list of texts: 4 for Sent140"),
    ] = None,
    images: Annotated[
        str | None, Field(description="folder of the images that rows name, as in CelebA (img_align_celeba)")
    ] = None,
    size: Annotated[int, Field(ge=4, le=1024, description="width and height of an image, pixels")] = 84,
) -> Dataset:
    """Users and their rows: numbers, characters or images.

    Args:
        seed: unused, the rows are fixed.

    Returns:
        x (n, D) or (n, *shape) float32, (n, length) uint8 characters, or (n, 3, size, size) uint8 images. Group "user",
        and "hierarchy" where the files name hierarchies. After rows of characters, a label that is a character is the
        next one. Characters of free text that have no number are left out.

    Raises:
        Problem(CONFIG or DATA): names the file and the user.
    """
    found = members(place(path), ".json", "LEAF file")
    parts = _parts(found)
    alphabet = Alphabet(vocabulary == "leaf")
    named = Images(None if images is None else place(images), size)
    texts = Texts(alphabet, length, column)
    crowd = _Crowd(Numbers(shape), texts, named, classes, None if length else alphabet)
    for member in found:
        if member.name in parts or not parts:
            crowd.read(member, parts.get(member.name, 0))
    if not crowd.people:
        raise Problem("no user has rows", path, "is this the right file?", DATA)
    x, (label, names) = crowd.kept.rows(), crowd.labels.labels(path)
    code, role, rows = np.array([(crowd.users[user], role, rows) for user, role, rows in crowd.people]).T
    owner, row_role = np.repeat(code, rows), np.repeat(role.astype(np.int8), rows)
    notes: tuple[str, ...] = ()
    sizes = np.bincount(owner)
    if small := [user for user, code in crowd.users.items() if code < len(sizes) and 0 < sizes[code] < keep]:
        rich = np.flatnonzero((sizes >= keep)[owner])
        if not len(rich):
            hint = f"lower it: the largest user has {sizes.max():,}"
            raise Problem(f"no user has {keep:,} rows", "data.keep", hint, CONFIG)
        named = listed([f"{user[:NAME]} has {sizes[crowd.users[user]]:,}" for user in small])
        users = f"{len(small):,} of {np.count_nonzero(sizes):,} users"
        notes = (f"data.keep leaves out {users} with fewer than {keep:,} rows: {named}",)
        x, label, owner, row_role = take(x, rich), label[rich], owner[rich], row_role[rich]
    return build(
        "classification",
        x,
        label,
        names,
        divide=255.0 if crowd.kept is named else 1.0,
        groups=_groups(owner, tuple(crowd.users), crowd.above),
        row_role=row_role if parts and split == "parts" else None,
        raw={"letters": alphabet.letters, "free": length is not None} if crowd.kept is texts else None,
        notes=notes,
    )


def _parts(found: list[Member]) -> dict[str, int]:
    """The role of each file by LEAF's folders; empty unless there is one to train on and another.

    Files outside these folders are what LEAF made them from (all_data/, sampled_data/).
    """
    roles = {}
    for member in found:
        for folder in member.name.split("/")[:-1]:
            if folder in _PARTS:
                roles[member.name] = _PARTS[folder]
    return roles if 0 in roles.values() and len(set(roles.values())) > 1 else {}


class _Crowd:
    """Users as they are read, one file after another."""

    def __init__(self, numbers: Numbers, texts: Texts, images: Images, classes: int | None, alphabet: Alphabet | None):
        self._texts, self._images, self._classes, self._alphabet = texts, images, classes, alphabet
        self._started = False
        self._seen: dict[tuple[str, int], str] = {}
        self.kept: Numbers | Texts | Images = numbers
        self.labels = Labels(classes, None)
        self.users: dict[str, int] = {}  # in the order in which files list them
        self.above: dict[str, str] = {}  # their hierarchies
        self.people: list[tuple[str, int, int]] = []  # (user, role, rows), in the order of the rows

    def read(self, member: Member, role: int) -> None:
        listed = read_users(member.read(), member.where, lambda user, x, y: self._add(user, x, y, member.where, role))
        for user, name in listed.items():
            self.users.setdefault(user, len(self.users))
            if name is None:
                continue
            if reason := unfit(name, 255):
                raise Problem(f"a name in hierarchies {reason}", member.where, "rename it", DATA)
            if self.above.setdefault(user, name) != name:
                message = f"the hierarchy of user {user!r} is {name!r} here and {self.above[user]!r} elsewhere"
                raise Problem(message, member.where, "correct hierarchies in one of the files", DATA)

    def _add(self, user: str, x: list[Any], y: list[Any], file: str, role: int) -> None:
        where = f"{file}: user {user[:NAME]!r}"
        other = self._seen.setdefault((user, role), file)
        if other != file:
            hint = "rename one of them, or leave out a file"
            raise Problem(f"a user of the same name is in {other}", where, hint, DATA)
        if not self._started:
            self._started = True
            if self._images.named(x[0]):
                self.kept = self._images
            elif isinstance(x[0], str) or (isinstance(x[0], list) and x[0] and isinstance(x[0][0], str)):
                self.kept, self.labels = self._texts, Labels(self._classes, self._alphabet)
        self.kept.add(x, where)
        self.labels.add(y, where)
        self.people.append((user, role, len(y)))


def _groups(owner: np.ndarray, users: tuple[str, ...], above: dict[str, str]) -> dict[str, Group]:
    """owner: (n,) the user of each row. Raises Problem where some users with rows have a hierarchy and others none."""
    there, code = np.unique(owner, return_inverse=True)
    names = tuple(users[i] for i in there)
    groups = {"user": Group(code, names)}
    if above:
        lacking = next((name for name in names if name not in above), None)
        if lacking is not None:
            message = f"user {lacking!r} has no hierarchy, others have one"
            raise Problem(message, "hierarchies", "add hierarchies to all files, or remove them from all", DATA)
        higher = sorted({above[name] for name in names})
        at = {name: i for i, name in enumerate(higher)}
        groups["hierarchy"] = Group(np.array([at[above[name]] for name in names])[code], tuple(higher))
    return groups
