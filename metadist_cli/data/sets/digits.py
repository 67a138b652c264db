"""Handwritten digits, 1,797 images of 8x8 that come with scikit-learn: the data set that needs no download.

E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49 (the test part of it, as shipped by sklearn.datasets.load_digits).
Pixels are the counts 0..16, unchanged; the model sees them divided by 16.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from metadist_cli.core.errors import SYSTEM, Problem
from metadist_cli.data.types import Dataset, build


def digits(seed: int) -> Dataset:
    """Handwritten digits 0 to 9.

    Args:
        seed: unused, the rows are fixed.

    Returns:
        x (1797, 8, 8) uint8 from 0 to 16, in classes "0" to "9".

    Raises:
        Problem(SYSTEM): scikit-learn is not installed.
    """
    found = find_spec("sklearn")  # the package is not imported: that alone takes 0.7 s
    if found is None or found.origin is None:
        message = "scikit-learn, which ships the digits, is not installed"
        raise Problem(message, "data.name", "pip install scikit-learn", SYSTEM)
    packed = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(gzip.decompress(packed.read_bytes()).decode().splitlines(), delimiter=",", dtype=np.uint8)
    names = tuple(str(digit) for digit in range(10))
    images = np.ascontiguousarray(rows[:, :-1]).reshape(-1, 8, 8)
    return build("classification", images, rows[:, -1].astype(np.int64), names, divide=16.0)
