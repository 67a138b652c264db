"""Handwritten digits, 1,797 images of 8x8 that come with scikit-learn: the data set that needs no download.

E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49 (the test part of it, as shipped by sklearn.datasets.load_digits).
We differ in nothing: the pixels are the counts 0..16 as they are, the model sees them divided by 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from metadist_cli.datasets.types import Dataset, build


def digits(seed: int) -> Dataset:
    """Digits 0 to 9: x (1797, 8, 8) uint8 in 0..16. Fixed, so the seed changes nothing."""
    from sklearn.datasets import load_digits  # half a second, and only this data set needs it

    bunch: Any = load_digits()
    return build(
        "classification",
        bunch["images"].astype(np.uint8),
        bunch["target"].astype(np.int64),
        tuple(str(name) for name in bunch["target_names"]),
        divide=16.0,
    )
