"""Handwritten digits, 1,797 images of 8x8 that come with scikit-learn: the data set that needs no download.

E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49 (the test part of it, as shipped by sklearn.datasets.load_digits).
We differ in nothing: the pixels are the counts 0..16 as they are, the model sees them divided by 16.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from metadist_cli.core.errors import SYSTEM, Problem
from metadist_cli.data.types import Dataset, build


def digits(seed: int) -> Dataset:
    """Digits 0 to 9: x (1797, 8, 8) uint8 in 0..16. Fixed, so the seed changes nothing."""
    found = find_spec("sklearn")  # the package is not imported: that alone takes 0.7 s
    if found is None or found.origin is None:
        raise Problem("the digits come with scikit-learn, which is not here", "data.name", "install it", SYSTEM)
    packed = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(gzip.decompress(packed.read_bytes()).decode().splitlines(), delimiter=",", dtype=np.uint8)
    names = tuple(str(digit) for digit in range(10))
    images = np.ascontiguousarray(rows[:, :-1]).reshape(-1, 8, 8)
    return build("classification", images, rows[:, -1].astype(np.int64), names, divide=16.0)
