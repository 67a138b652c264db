"""What the tests of texts and of LEAF's files share: rows as text again, and a process's peak of memory."""

from __future__ import annotations

import re

import numpy as np
from runner import MEMORY

from metadist_cli.data.readers.characters import LEAF
from metadist_cli.data.types import Dataset

PEAK = f"""
import sys
from metadist_cli.cli import main
sys.argv = ["metadist", *sys.argv[1:]]
try:
    main()
finally:
    print("peak", {MEMORY})
"""


def samples(raw: str, window: int = 80) -> list[tuple[str, str]]:
    """LEAF's rule, one window at a time."""
    clean = re.sub(r"   *", " ", raw.replace("\n", " "))
    return [(clean[i : i + window], clean[i + window]) for i in range(len(clean) - window)]


def spelt(d: Dataset, rows: np.ndarray | slice = slice(None)) -> list[tuple[str, str]]:
    """Rows of LEAF's characters as text again."""
    x, labels = d.x[rows], d.label[rows]
    return [
        ("".join(LEAF[c] for c in row), LEAF[label]) for row, label in zip(x.tolist(), labels.tolist(), strict=True)
    ]


def members(d: Dataset, group: str, name: str) -> np.ndarray:
    return np.flatnonzero(d.groups[group].code == d.groups[group].names.index(name))
