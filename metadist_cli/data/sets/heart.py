"""Heart disease: 740 patients of four hospitals, sick or healthy. A natural federation, with published results.

A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano (1988), Heart Disease, UCI Machine Learning Repository,
https://doi.org/10.24432/C52P4X. Columns, rows and the split "flamby" are those of Fed-Heart-Disease in J. Ogier du
Terrail et al. (2022), FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic Healthcare
Settings, NeurIPS Datasets and Benchmarks, https://arxiv.org/abs/2210.04620 (code: owkin/FLamby). As there, the split
is stratified, except in hospitals where a class has two rows or fewer (Switzerland has one healthy patient).
Where we differ: features are not scaled here; the partition does that.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.readers.folder import find
from metadist_cli.data.types import Dataset, Group, build

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_SOURCE = "https://archive.ics.uci.edu/dataset/45/heart+disease"
_BYTES = 1 << 20  # of one file; the largest has 18,461
_DROPPED = ("slope", "ca", "thal")  # missing for most patients outside Cleveland
_NAMES = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", *_DROPPED, "num")
_KEPT = [i for i, name in enumerate(_NAMES) if name not in _DROPPED]
_CODES = {"sex": 1, "cp": 4, "fbs": 1, "restecg": 2, "exang": 1, "num": 4}  # whole numbers up to ...; cp from 1
_NUMBER = re.compile(r"[+-]?([0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9})", re.ASCII)
_TRAIN = 0.66


def heart(
    seed: int,
    *,
    path: Annotated[
        str | None, Field(description="folder with processed.cleveland.data, .hungarian, .switzerland and .va")
    ] = None,
    split: Annotated[
        Literal["random", "flamby"],
        Field(description="random: by task.new; flamby: the published test rows, 34% of each hospital"),
    ] = "random",
) -> Dataset:
    """Patients by hospital, without those that have a missing value.

    Args:
        seed: unused, the rows are fixed.

    Returns:
        x (740, 13) float32, not scaled: age (years), sex, trestbps (mm Hg), chol (mg/dl), fbs, thalach (beats per
        minute), exang, oldpeak (mm), chest pain of type 2, 3 and 4, restecg 1 and 2. Classes "healthy" and "sick",
        group "hospital".

    Raises:
        Problem(DATA): a file is missing or damaged, with file:line.
    """
    folder = find("heart_disease", path, [(_file(name),) for name in HOSPITALS], _SOURCE)
    tables = [_read(folder / _file(name)) for name in HOSPITALS]
    table = np.concatenate(tables)
    column = dict(zip((_NAMES[i] for i in _KEPT), table.T, strict=True))
    plain = [values for name, values in column.items() if name not in ("cp", "restecg", "num")]
    kinds = [column["cp"] == kind for kind in (2, 3, 4)] + [column["restecg"] == kind for kind in (1, 2)]
    return build(
        "classification",
        np.stack([*plain, *kinds], axis=1).astype(np.float32),
        (column["num"] > 0).astype(np.int64),
        ("healthy", "sick"),
        groups={"hospital": Group(np.repeat(np.arange(len(tables)), [len(t) for t in tables]), HOSPITALS)},
        row_role=np.concatenate([_flamby(t[:, -1] > 0) for t in tables]) if split == "flamby" else None,
    )


def _file(hospital: str) -> str:
    return f"processed.{hospital}.data"


def _flamby(sick: np.ndarray) -> np.ndarray:
    """(n,) int8, 0 train and 2 test, for the patients of one hospital in the order of its file."""
    from sklearn.model_selection import train_test_split  # slow to import

    enough = min(sick.sum(), (~sick).sum()) > 2
    test = train_test_split(
        np.arange(len(sick)),
        test_size=1.0 - _TRAIN,
        train_size=_TRAIN,
        random_state=43,
        shuffle=True,
        stratify=sick.astype(np.int64) if enough else None,
    )[1]
    role = np.zeros(len(sick), dtype=np.int8)
    role[test] = 2
    return role


def _read(path: Path) -> np.ndarray:
    """(n, 11) float64: the complete rows of a hospital, without the dropped columns."""
    data = files.read(path.resolve(), _BYTES, "table of a hospital")
    try:
        lines = data.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise Problem("this is not ASCII text", f"{path}:{number}", "download the file again", DATA) from error
    rows = [_row(line.removesuffix("\r"), f"{path}:{number}") for number, line in enumerate(lines, 1)]
    table = np.array(rows)[:, _KEPT]
    table = table[~np.isnan(table).any(axis=1)]
    if len(table) < 2:
        raise Problem(f"only {len(table)} of {len(rows)} rows are complete", str(path), "download the file again", DATA)
    return table


def _row(line: str, where: str) -> list[float]:
    """14 numbers, NaN where one is missing."""
    if line.count(",") != len(_NAMES) - 1:
        message = f"this line has {line.count(',') + 1:,} columns, not {len(_NAMES)}"
        raise Problem(message, where, "download the file again", DATA)
    cells = [cell.strip() for cell in line.split(",")]
    return [_number(cell, name, where) for cell, name in zip(cells, _NAMES, strict=True)]


def _number(cell: str, name: str, where: str) -> float:
    if cell == "?":
        return math.nan
    value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    low, high = int(name == "cp"), _CODES.get(name)
    if math.isnan(value) or (high is not None and not (value.is_integer() and low <= value <= high)):
        wanted = "a number" if high is None else f"a whole number from {low} to {high}"
        raise Problem(f"{cell[:40]!r} is not {wanted}, as {name} must be", where, "write ? if it is missing", DATA)
    return value
