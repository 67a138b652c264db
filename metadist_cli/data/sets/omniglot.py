"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum (2015), Human-level concept learning through probabilistic program
induction, Science 350(6266), https://doi.org/10.1126/science.aab3050; data: https://github.com/brendenlake/omniglot.
Quarter turns as further classes: A. Santoro et al. (2016), Meta-Learning with Memory-Augmented Neural Networks, ICML.
Split "vinyals": O. Vinyals et al. (2016), Matching Networks for One Shot Learning, NeurIPS, as listed by M. Ren et al.
(2018), Meta-Learning for Semi-Supervised Few-Shot Classification, ICLR.
Images are 28x28 by nearest neighbour on the 1-bit PNG, as in effect in the code of MAML and Reptile: PIL uses that
filter for 1-bit images whatever filter is asked for. Ink is 1 as in MAML; `invert: false` gives 0 as in Reptile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core import files
from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.readers.folder import find
from metadist_cli.data.readers.omniglot_files import PARTS, Drawings, load
from metadist_cli.data.types import Dataset, Group, build

_SOURCE = "https://github.com/brendenlake/omniglot (folder python)"
_ROLES = {"train.txt": 0, "val.txt": 1, "test.txt": 2}


def omniglot(
    seed: int,
    *,
    path: Annotated[
        str | None, Field(description="folder with images_background.zip and images_evaluation.zip (or extracted)")
    ] = None,
    split: Annotated[
        str,
        Field(
            description="random: by task.new; lake: train on the background set, test on the evaluation set;"
            " vinyals: the lists in omniglot_split/; or a file of test characters, an Alphabet/characterNN per line, or"
            " a folder with train.txt, test.txt and perhaps val.txt"
        ),
    ] = "random",
    validation: Annotated[
        Literal["apart", "train"],
        Field(
            description="the split's validation characters: apart, to choose settings with, or train, to train"
            " on them too (other splits have none)"
        ),
    ] = "apart",
    turns: Annotated[
        Literal["all", "train", "none"],
        Field(description="characters whose quarter turns are additional classes: all, those to train on, or none"),
    ] = "all",
    invert: Annotated[bool, Field(description="ink is 1 and paper 0 (MAML); false: ink is 0 (Reptile)")] = True,
    size: Annotated[int, Field(ge=4, le=105, description="width and height of an image, pixels")] = 28,
) -> Dataset:
    """Drawings of characters.

    Args:
        seed: unused, the rows are fixed.

    Returns:
        x (n, size, size) uint8, 0 or 255. Classes "Alphabet/characterNN" sorted by name, then all of them turned by 90,
        180 and 270 degrees counterclockwise, "...@90" and so on. Groups "alphabet" (also the cluster) and "drawer".

    Raises:
        Problem(CONFIG or DATA): a file is missing or broken, or does not match the split.
    """
    needs = [(f"{part}.zip", part) for part in PARTS] + ([("omniglot_split",)] if split == "vinyals" else [])
    folder = find("omniglot", path, needs, _SOURCE)
    drawings = load(folder, size)
    names = tuple("/".join(name) for name in drawings.names)
    role = _role(split, folder, drawings, names)
    if role is not None and validation == "train":
        role = np.where(role == 1, np.int8(0), role)
    images = 255 - drawings.images if invert else drawings.images
    copies = 1 if turns == "none" else 4
    count = len(names)
    return build(
        "classification",
        np.concatenate([np.rot90(images, turn, axes=(1, 2)) for turn in range(copies)]),
        np.concatenate([drawings.character + turn * count for turn in range(copies)]),
        tuple(name if turn == 0 else f"{name}@{90 * turn}" for turn in range(copies) for name in names),
        divide=255.0,
        raw={"invert": invert},
        base=np.tile(np.arange(count), copies),
        groups={name: Group(np.tile(g.code, copies), g.names) for name, g in _groups(drawings).items()},
        cluster="alphabet",
        role=None if role is None else np.tile(role, copies),
        rotated=np.arange(copies * count) >= count,
        rotate_held_out=turns != "train",
    )


def _groups(drawings: Drawings) -> dict[str, Group]:
    """A drawer is an alphabet and a number: number 01 of two alphabets may be two people."""
    alphabets = sorted({alphabet for alphabet, _ in drawings.names})
    number = {alphabet: i for i, alphabet in enumerate(alphabets)}
    alphabet = np.array([number[name] for name, _ in drawings.names], dtype=np.int64)[drawings.character]
    pairs, drawer = np.unique(np.stack([alphabet, drawings.drawer], axis=1), axis=0, return_inverse=True)
    names = tuple(f"{alphabets[a]}/{d:02d}" for a, d in pairs.tolist())
    return {"alphabet": Group(alphabet, tuple(alphabets)), "drawer": Group(drawer.reshape(-1).astype(np.int64), names)}


def _role(split: str, folder: Path, drawings: Drawings, names: tuple[str, ...]) -> np.ndarray | None:
    """(C,) int8 role of each character, or None where task.new splits them."""
    if split == "random":
        return None
    if split == "lake":
        role = np.where(drawings.part == 0, 0, 2).astype(np.int8)
    else:
        role = _listed(folder / "omniglot_split" if split == "vinyals" else Path(split).expanduser(), names)
    for number, what in ((0, "training"), (2, "test")):
        if not (role == number).any():
            hint = "choose another split, or add characters"
            raise Problem(f"the split {split!r} leaves no {what} characters", "data.split", hint, DATA)
    return role


def _listed(lists: Path, names: tuple[str, ...]) -> np.ndarray:
    """Roles by lists of names: those in a folder must name every character, a file names the test characters."""
    if lists.is_dir():
        role = np.full(len(names), -1, dtype=np.int8)
        found = {
            lists / name: number for name, number in _ROLES.items() if name != "val.txt" or (lists / name).exists()
        }
    elif lists.exists():
        role = np.zeros(len(names), dtype=np.int8)
        found = {lists: 2}
    else:
        hint = "use random, lake, vinyals, or the path of a file or folder of lists"
        raise Problem(f"no split, file or folder is called {str(lists)!r}", "data.split", hint, CONFIG)
    index = {name: i for i, name in enumerate(names)}
    seen: dict[str, Path] = {}
    for path, number in found.items():
        for line, name in enumerate(_lines(path), 1):
            if not name:
                continue
            if name not in index:
                hint = "names look like Greek/character01; is a part of Omniglot missing?"
                raise Problem(f"the split names {name!r}, which has no images", f"{path}:{line}", hint, DATA)
            if name in seen:
                hint = f"remove it here or in {seen[name].name}" if seen[name] != path else "remove one of the lines"
                raise Problem(f"the split names {name!r} twice", f"{path}:{line}", hint, DATA)
            seen[name] = path
            role[index[name]] = number
    left = np.flatnonzero(role < 0)
    if len(left):
        others = f", nor are {len(left) - 1:,} others" if len(left) > 1 else ""
        message = f"the character {names[left[0]]!r} is in none of the lists{others}"
        raise Problem(message, str(lists), "add it to a list, for example to train.txt", DATA)
    return role


def _lines(path: Path) -> list[str]:
    try:
        return [
            line.strip() for line in files.read(path.resolve(), 1 << 20, "list of characters").decode().splitlines()
        ]
    except UnicodeDecodeError as error:
        raise Problem("the list of characters is not UTF-8 text", str(path), "save it as UTF-8", DATA) from error
