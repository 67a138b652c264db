"""Texts by their writers or speakers: each window of characters is a row, the next character its class.

The cleaning, the windows and the 80 characters are those of Shakespeare in S. Caldas et al. (2018), LEAF: A Benchmark
for Federated Settings, https://arxiv.org/abs/1812.01097 (code: TalwalkarLab/leaf), after H. B. McMahan et al. (2017),
AISTATS: a line break becomes a space, several spaces become one, the label of 80 characters is the next one; a speaker
with less text than one window is left out. The split, too, is LEAF's `-k`, `-t` and `--by_sample` for Shakespeare.
Where we differ: a text is stored once, and its windows are views of it; LEAF's code takes an unknown character for the
last known one, here it is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import unfit
from metadist_cli.data.readers.characters import Alphabet
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.members import Member, members
from metadist_cli.data.types import Dataset, Group, Windows, build

_ROWS = 50_000_000  # 1.6 GB of starts, labels, groups and places
_PLAYS = """A_MIDSUMMER_NIGHT_S_DREAM ALLS_WELL_THAT_ENDS_WELL AS_YOU_LIKE_IT CYMBELINE KING_HENRY_THE_EIGHTH KING_JOHN
KING_RICHARD_III KING_RICHARD_THE_SECOND LOVE_S_LABOUR_S_LOST MEASURE_FOR_MEASURE MUCH_ADO_ABOUT_NOTHING
SECOND_PART_OF_KING_HENRY_IV THE_COMEDY_OF_ERRORS THE_FIRST_PART_OF_HENRY_THE_SIXTH
THE_FIRST_PART_OF_KING_HENRY_THE_FOURTH THE_HISTORY_OF_TROILUS_AND_CRESSIDA THE_LIFE_OF_KING_HENRY_THE_FIFTH
THE_LIFE_OF_TIMON_OF_ATHENS THE_MERCHANT_OF_VENICE THE_MERRY_WIVES_OF_WINDSOR THE_SECOND_PART_OF_KING_HENRY_THE_SIXTH
THE_TAMING_OF_THE_SHREW THE_TEMPEST THE_THIRD_PART_OF_KING_HENRY_THE_SIXTH THE_TRAGEDY_OF_ANTONY_AND_CLEOPATRA
THE_TRAGEDY_OF_CORIOLANUS THE_TRAGEDY_OF_HAMLET__PRINCE_OF_DENMARK THE_TRAGEDY_OF_JULIUS_CAESAR
THE_TRAGEDY_OF_KING_LEAR THE_TRAGEDY_OF_MACBETH THE_TRAGEDY_OF_OTHELLO__MOOR_OF_VENICE THE_TRAGEDY_OF_ROMEO_AND_JULIET
THE_TRAGEDY_OF_TITUS_ANDRONICUS THE_TWO_GENTLEMEN_OF_VERONA THE_WINTER_S_TALE TWELFTH_NIGHT__OR__WHAT_YOU_WILL"""
_PLAY_ROLE = re.compile(f"({'|'.join(_PLAYS.split())})_(.+)")


def text(
    seed: int,
    *,
    path: Annotated[str, Field(description="UTF-8 .txt file, or a folder or .zip archive of them; a file per writer")],
    groups: Annotated[
        list[Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,30}$")]],
        Field(
            min_length=1,
            max_length=4,
            description="what a file's name is made of, from the left: [author, book]",
        ),
    ] = ["file"],  # noqa: B006 (a default of the config, never changed)
    separator: Annotated[
        str,
        Field(min_length=1, max_length=8, description="what separates these; leaf: PLAY_ROLE, by Shakespeare's titles"),
    ] = "/",
    window: Annotated[int, Field(ge=1, le=10_000, description="characters in a row")] = 80,
    stride: Annotated[int, Field(ge=1, le=10_000, description="characters from one row to the next")] = 1,
    vocabulary: Annotated[
        Literal["leaf", "data"], Field(description="LEAF's 80 characters, or those of the texts, at most 256")
    ] = "leaf",
    keep: Annotated[int, Field(ge=1, description="leave out files with fewer rows than this")] = 1,
    split: Annotated[
        Literal["random"] | Annotated[float, Field(gt=0, lt=1)],
        Field(
            description="fraction of each file, its beginning, to train on; the rest, without overlap, is for testing"
        ),
    ] = "random",
) -> Dataset:
    """Windows of texts, each labelled with the character that follows.

    Windows overlap, so that test rows drawn at random (task.new: {from: rows} with split: random) share almost all of
    their text with training rows: use a fraction as split.

    Args:
        seed: unused, the rows are fixed.

    Returns:
        x (n, window) uint8 numbers of characters; classes are the characters. Each group is nested in the one before:
        the same role in two plays is two roles.

    Raises:
        Problem(CONFIG or DATA), with file:line:column: a text cannot be read, has an unknown character, or is named
            like another; or nothing is long enough.
    """
    alphabet = Alphabet(vocabulary == "leaf")
    sources, starts, roles, names = [], [], [], []
    taken: dict[tuple[str, ...], str] = {}
    offset = rows = 0
    for member in members(place(path), ".txt", "text"):
        name = _named(member, groups, separator)
        if name in taken:
            message = f"the name {name[-1]!r} is the same as that of {taken[name]}"
            raise Problem(message, member.where, "use more of its path: groups: [folder, file]", DATA)
        taken[name] = member.where
        raw = _read(member)
        clean = re.sub("  +", " ", raw.replace("\n", " "))
        start, role = _windows(len(clean), window, stride, keep, split)
        if not len(start):
            continue
        rows += len(start)
        if rows > _ROWS:
            message = f"there are more than {_ROWS:,} windows"
            raise Problem(message, member.where, "use a larger data.stride, or fewer files", CONFIG)
        sources.append(alphabet.encode(clean, lambda letter, raw=raw, where=member.where: _place(raw, letter, where)))
        starts.append(start + offset)
        roles.append(role)
        names.append(name)
        offset += len(clean)
    if not sources:
        least = f"{window + 1} characters" + (f", and windows for {keep} rows" if keep > 1 else "")
        message = f"none of the {len(taken):,} files has {least}" + ("" if split == "random" else " in either part")
        raise Problem(message, path, "use a smaller data.window or data.keep, or longer texts", DATA)
    classes, order = alphabet.order()
    source, start = order[np.concatenate(sources)], np.concatenate(starts)
    owner = np.repeat(np.arange(len(names)), [len(s) for s in starts])
    return build(
        "classification",
        Windows(source, start, window),
        source[start + window].astype(np.int64),
        classes,
        groups=_groups(names, groups, owner),
        row_role=None if split == "random" else np.concatenate(roles),
        raw={"letters": alphabet.letters},
    )


def _named(member: Member, groups: list[str], separator: str) -> tuple[str, ...]:
    """The name of a file in each of the groups, from the widest to the narrowest."""
    path = member.name[: -len(".txt")]
    stem = path.rsplit("/", 1)[-1]
    joint = "_" if separator == "leaf" else separator
    if separator == "leaf":
        match = _PLAY_ROLE.fullmatch(stem)
        parts = [] if match is None else list(match.groups())
    elif separator == "/":
        parts = path.split("/")[-len(groups) :]
    else:
        parts = stem.split(separator) if len(groups) > 1 else [stem]
    if len(parts) != len(groups):
        message = f"the file's name does not give {' and '.join(groups)} (data.separator: {separator})"
        raise Problem(message, member.where, "change data.groups or data.separator, or rename the file", DATA)
    names = tuple(joint.join(parts[: i + 1]) for i in range(len(parts)))
    if reason := unfit(names[-1], 255):
        raise Problem(f"the name of this file {reason}", member.where, "rename it", DATA)
    return names


def _read(member: Member) -> str:
    """The text with plain line ends."""
    data = member.read()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Problem("this is not UTF-8 text", f"{member.where}:{line}", "save it as UTF-8", DATA) from error


def _place(raw: str, letter: str, where: str) -> str:
    at = raw.find(letter)
    return f"{where}:{raw.count(chr(10), 0, at) + 1}:{at - raw.rfind(chr(10), 0, at)}"


def _windows(size: int, window: int, stride: int, keep: int, split: str | float) -> tuple[np.ndarray, np.ndarray]:
    """(where the windows of a text begin, their roles); none where it is too short."""
    start = np.arange(0, max(size - window, 0), stride)
    none = start[:0], np.zeros(0, dtype=np.int8)
    if len(start) < keep:
        return none
    if not isinstance(split, float):
        return start, np.zeros(len(start), dtype=np.int8)
    train = max(1, int(split * len(start)))
    test = train - 1 + -(-window // stride)  # the first that has no character in common with the last window before
    if test >= len(start):
        return none
    return np.concatenate([start[:train], start[test:]]), np.repeat(
        np.array([0, 2], dtype=np.int8), [train, len(start) - test]
    )


def _groups(names: list[tuple[str, ...]], groups: list[str], owner: np.ndarray) -> dict[str, Group]:
    """owner: (n,) the file of each row."""
    found = {}
    for level, group in enumerate(groups):
        distinct = sorted({name[level] for name in names})
        code = {name: i for i, name in enumerate(distinct)}
        found[group] = Group(np.array([code[name[level]] for name in names])[owner], tuple(distinct))
    return found
