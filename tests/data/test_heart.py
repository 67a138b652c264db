"""Heart disease of four hospitals: counts and results that FLamby published, and files that are broken."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Dataset
from metadist_cli.partition.held_out import HoldOut
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import PartitionSpec, Shard, TaskSize, make_shards

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
GOOD = [
    "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0",
    "41,0,2,130,204,0,0,172,0,1.4,?,?,?,3",
    "50,1,4,?,0,0,1,120,1,.5,?,?,?,1",
]
FIRST = [63, 1, 145, 233, 1, 150, 0, 2.3, 0, 0, 0, 0, 1]  # by hand: chest pain 1 and restecg 0 have no column
SECOND = [41, 0, 130, 204, 0, 172, 0, 1.4, 1, 0, 0, 0, 0]


def folder(tmp_path: Path, lines: list[str] = GOOD, end: str = "\n") -> str:
    """Four hospitals with the same patients."""
    for name in HOSPITALS:
        (tmp_path / f"processed.{name}.data").write_bytes((end.join(lines) + end).encode())
    return str(tmp_path)


def heart(path: str, split: str = "random") -> Dataset:
    return DATASETS["heart"](0, path=path, split=split)


# ------------------------------------------------------------------------------------------------- tables by hand


def test_a_table_by_hand(tmp_path: Path) -> None:
    data = heart(folder(tmp_path))
    np.testing.assert_array_equal(data.x, np.array([FIRST, SECOND] * 4, dtype=np.float32))
    assert data.x.dtype == np.float32
    assert data.label.tolist() == [0, 1] * 4
    assert data.classes == ("healthy", "sick")
    assert data.row_role is None
    assert data.groups["hospital"].names == HOSPITALS
    assert data.groups["hospital"].code.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert heart(folder(tmp_path, end="\r\n")).sha256 == data.sha256


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("63,1,1,145,233,1,2,150,0,2.3,3,0,6", "13 columns, not 14"),
        ("63,1,1,145,233,1,2,150,0,2.3,3,0,6,0,0", "15 columns, not 14"),
        ("", "1 columns, not 14"),
        ("old,1,1,145,233,1,2,150,0,2.3,3,0,6,0", "'old' is not a number, as age"),
        (",1,1,145,233,1,2,150,0,2.3,3,0,6,0", "'' is not a number, as age"),
        ("6_3,1,1,145,233,1,2,150,0,2.3,3,0,6,0", "'6_3' is not a number"),
        ("nan,1,1,145,233,1,2,150,0,2.3,3,0,6,0", "'nan' is not a number"),
        ("inf,1,1,145,233,1,2,150,0,2.3,3,0,6,0", "'inf' is not a number"),
        ("63,1,1,1e400,233,1,2,150,0,2.3,3,0,6,0", "'1e400' is not a number, as trestbps"),
        ("63,1,1,145,233,1,2,150,0,2.3,slope,0,6,0", "'slope' is not a number, as slope"),
        ("63,2,1,145,233,1,2,150,0,2.3,3,0,6,0", "'2' is not a whole number from 0 to 1, as sex"),
        ("63,1,0,145,233,1,2,150,0,2.3,3,0,6,0", "'0' is not a whole number from 1 to 4, as cp"),
        ("63,1,1,145,233,1,3,150,0,2.3,3,0,6,0", "'3' is not a whole number from 0 to 2, as restecg"),
        ("63,1,1,145,233,1,2,150,0,2.3,3,0,6,.5", "'.5' is not a whole number from 0 to 4, as num"),
        ("٦٣,1,1,145,233,1,2,150,0,2.3,3,0,6,0", "not ASCII text"),
        ("63,1,1,145,233,1,2,150,0,2.3,3,0,6,\0", "is not a whole number"),
    ],
)
def test_every_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = folder(tmp_path)
    file = tmp_path / "processed.switzerland.data"
    file.write_text("\n".join([*GOOD, line, *GOOD]) + "\n", encoding="utf-8")
    with pytest.raises(Problem, match=message) as caught:
        heart(path)
    assert caught.value.where == f"{file}:4"
    assert caught.value.code == DATA
    assert caught.value.hint


def test_files_that_are_missing_too_large_or_empty(tmp_path: Path) -> None:
    path = folder(tmp_path)
    file = tmp_path / "processed.va.data"
    file.write_text("")
    with pytest.raises(Problem, match="1 columns"):
        heart(path)
    file.write_text("?" + GOOD[0][4:] + "\n" + GOOD[1] + "\n")
    with pytest.raises(Problem, match="only 1 of 2 rows are complete"):
        heart(path)
    file.write_text((GOOD[0] + "\n") * 20_000)
    with pytest.raises(Problem, match="more than the 1,048,576 allowed"):
        heart(path)
    file.unlink()
    with pytest.raises(Problem, match=r"processed\.va\.data missing"):
        heart(path)


@settings(max_examples=300, deadline=None)
@given(line=st.text(alphabet="0123456789.,?-+eE_ \r\tnaif\"'", max_size=60), at=st.integers(0, 60))
def test_any_damage_is_a_problem_or_numbers(line: str, at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("heart")
    text = folder(path) and (GOOD[0][:at] + line + GOOD[0][at:])
    (path / "processed.va.data").write_bytes("\n".join([*GOOD, text]).encode())
    try:
        data = heart(str(path))
    except Problem as problem:
        assert problem.where.endswith(".va.data:4")  # noqa: PT017
    else:
        assert np.isfinite(data.x).all()


def test_the_split_of_a_hospital_with_hardly_a_healthy_patient_is_not_stratified(tmp_path: Path) -> None:
    """As FLamby's code: stratified where both classes have more than two rows."""
    sick = GOOD[1]
    for healthy, stratify in ((2, False), (3, True)):
        lines = [GOOD[0]] * healthy + [sick] * 17
        data = heart(folder(tmp_path, lines), "flamby")
        label = np.array([0] * healthy + [1] * 17)
        test = train_test_split(
            np.arange(len(label)), test_size=0.34, random_state=43, stratify=label if stratify else None
        )[1]
        for k in range(4):
            mine = data.row_role[data.groups["hospital"].code == k]
            assert np.flatnonzero(mine == 2).tolist() == sorted(test)


# ------------------------------------------------------------------------------------------------ the real files


@pytest.fixture(scope="module")
def real_folder() -> Path:
    path = Path(os.environ.get("METADIST_DATA") or "nowhere") / "heart_disease"
    if not (path / "processed.va.data").exists():
        pytest.skip("needs METADIST_DATA/heart_disease/processed.cleveland.data and the three others")
    return path


@pytest.fixture(scope="module")
def real(real_folder: Path) -> Dataset:
    return heart(str(real_folder), "flamby")


@pytest.fixture(scope="module")
def hospitals(real: Dataset) -> list[Shard]:
    natural = PARTITIONERS["natural"](by="hospital")
    return make_shards(
        real, PartitionSpec(natural, None, TaskSize(False, 0, 2), HoldOut("rows", None, 0), scale="node"), 0
    ).shards


def plain_table(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(x, sick) of a hospital, read without any of our code."""
    x, sick = [], []
    for row in csv.reader(file.read_text().splitlines()):
        kept = row[:10] + row[13:]
        if "?" not in kept:
            v = [float(cell) for cell in kept]
            kinds = [*(float(v[2] == k) for k in (2, 3, 4)), *(float(v[6] == k) for k in (1, 2))]
            x.append([v[i] for i in (0, 1, 3, 4, 5, 7, 8, 9)] + kinds)
            sick.append(v[10] > 0)
    return np.array(x), np.array(sick).astype(int)


def test_published_counts(real: Dataset, real_folder: Path) -> None:
    assert real.x.shape == (740, 13)
    code = real.groups["hospital"].code
    assert np.bincount(code).tolist() == [303, 261, 46, 130]
    assert np.bincount(code[real.row_role == 0]).tolist() == [199, 172, 30, 85]
    assert np.bincount(code[real.row_role == 2]).tolist() == [104, 89, 16, 45]
    assert round(real.label[code == 0].mean(), 3) == 0.459
    plain = heart(str(real_folder))
    assert plain.row_role is None
    np.testing.assert_array_equal(plain.x, real.x)
    assert plain.sha256 != real.sha256


def test_hospitals_are_scaled_as_in_flamby(real_folder: Path, hospitals: list[Shard]) -> None:
    """Their recipe again in plain NumPy, from the files to what the model sees."""
    names = [*HOSPITALS, *(f"{name} (test)" for name in HOSPITALS)]
    assert [s.name for s in hospitals] == names
    assert [s.home for s in hospitals] == [None] * 4 + [0, 1, 2, 3]
    for k, name in enumerate(HOSPITALS):
        x, sick = plain_table(real_folder / f"processed.{name}.data")
        stratify = sick if np.bincount(sick).min() > 2 else None
        train, test = train_test_split(np.arange(len(x)), test_size=0.34, random_state=43, stratify=stratify)
        z = (x - x[train].mean(0)) / (x[train].std(0, ddof=1) + 1e-9)
        for shard, rows in ((hospitals[k], np.sort(train)), (hospitals[k + 4], np.sort(test))):
            rows = rows[np.argsort(sick[rows], kind="stable")]
            np.testing.assert_array_equal(shard.label, sick[rows])
            np.testing.assert_allclose(shard.x, z[rows], atol=1e-5)
            assert shard.x.dtype == np.float32


def test_published_accuracy_of_fedavg(hospitals: list[Shard]) -> None:
    """Logistic regression in plain NumPy on our shards: FLamby's benchmark, five seeds, 15 rounds of 100 steps."""
    found = []
    for seed in range(42, 47):
        rng = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the model that they begin with
            first = torch.nn.Linear(13, 1)
        w = torch.cat([first.weight[0], first.bias]).detach().double().numpy()
        sizes = np.array([len(s.label) for s in hospitals[:4]])
        order = [np.empty(0, dtype=int)] * 4
        for _ in range(15):
            ends = []
            for k, shard in enumerate(hospitals[:4]):
                mine = w.copy()
                for _ in range(100):
                    if not len(order[k]):
                        order[k] = rng.permutation(sizes[k])
                    batch, order[k] = order[k][:4], order[k][4:]
                    x = np.c_[shard.x[batch], np.ones(len(batch))]
                    mine -= 1e-3 * x.T @ (1 / (1 + np.exp(-x @ mine)) - shard.label[batch]) / len(batch)
                ends.append(mine)
            w = np.average(ends, axis=0, weights=sizes)
        found.append([np.mean((s.x @ w[:13] + w[13] > 0) == s.label) for s in hospitals[4:]])
    np.testing.assert_allclose(np.mean(found, axis=0), [0.731, 0.719, 0.650, 0.640], atol=0.01)
