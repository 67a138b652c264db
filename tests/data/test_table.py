"""The reader `table`: rows by hand, other people's readers, the counts of real data, and broken files."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_table import zipped
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from runner import MEMORY, ROOT, proc
from scipy.io import arff
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from metadist_cli import config as configs
from metadist_cli.core.errors import Problem
from metadist_cli.data.readers.table_target import cut
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Dataset
from metadist_cli.experiment import deal, load_data
from metadist_cli.partition.held_out import HoldOut
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import PartitionSpec, Shard, TaskSize, make_shards

LINES = ["age,sex,city,sick", "61,M,Ulm,yes", "35.5,F,Bonn,no", "-52,F,Ulm,yes", "4e1,M,Köln,no"]
ROWS = [[61, 0, 1, 0, 0, 1], [35.5, 1, 0, 1, 0, 0], [-52, 1, 0, 0, 0, 1], [40, 0, 1, 0, 1, 0]]  # F M, Bonn Köln Ulm
HEART = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope"),
    "ca",
    "thal",
    "num",
]


def write(path: Path, lines: list[str], end: str = "\n", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def table(path: Path | str, **options: Any) -> Dataset:
    return DATASETS["table"](0, path=str(path), **options)


def names(data: Dataset, group: str) -> list[str]:
    """The name of each row's group."""
    return [data.groups[group].names[code] for code in data.groups[group].code]


def split(data: Dataset, scale: str, test: float | int = 0.3, source: str = "rows", by: str = "who") -> list[Shard]:
    natural = PARTITIONERS["natural"](by=by)
    return make_shards(
        data, PartitionSpec(natural, None, TaskSize(False, 0, 2), HoldOut(source, test, 0), scale=scale), 0
    ).shards


# ------------------------------------------------------------------------------------------------------ tables by hand


def test_a_table_by_hand(tmp_path: Path) -> None:
    data = table(write(tmp_path / "own.csv", LINES), target="sick", groups=["city"], features=["age", "sex", "city"])
    np.testing.assert_array_equal(data.x, np.array(ROWS, dtype=np.float32))
    assert data.x.dtype == np.float32
    assert (data.kind, data.classes, data.label.tolist()) == ("classification", ("no", "yes"), [1, 0, 1, 0])
    assert list(data.groups) == ["city"]
    assert names(data, "city") == ["Ulm", "Bonn", "Ulm", "Köln"]
    assert (data.target, data.role, data.row_role, data.cluster) == (None, None, None, None)
    plain = table(tmp_path / "own.csv", target="sick", groups="city")
    np.testing.assert_array_equal(plain.x, data.x[:, :3]), "what says whose a row is, is no feature unless named"


FORMS = {
    "plain": ("own.csv", LINES, {}),
    "semicolons": ("own.csv", [line.replace(",", ";") for line in LINES], {}),
    "tabs": ("own.tsv", [line.replace(",", "\t") for line in LINES], {}),
    "bars": ("own.txt", [line.replace(",", " | ") for line in LINES], {}),
    "blanks": ("own.data", [line.replace(",", "  \t ") + "  " for line in LINES], {}),
    "quoted": ("own.csv", [",".join(f'"{cell}"' for cell in line.split(",")) for line in LINES], {}),
    "blanks around": ("own.csv", [line.replace(",", " , ") for line in LINES], {}),
    "blank lines": ("own.csv", ["", LINES[0], "", *LINES[1:3], "", "", *LINES[3:], ""], {}),
    "no header": ("own.csv", LINES[1:], {"columns": ["age", "sex", "city", "sick"]}),
    "blanks, no header": ("own.data", [x.replace(",", " ") for x in LINES[1:]], {"columns": LINES[0].split(",")}),
    "header after all": ("own.csv", LINES, {"columns": ["age", "sex", "city", "sick"]}),
    "an index without a name": ("own.csv", [f"{i or ''},{line}" for i, line in enumerate(LINES)], {}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_table_in_many_forms(form: str, end: str, tmp_path: Path) -> None:
    name, lines, options = FORMS[form]
    wanted = table(write(tmp_path / "plain.csv", LINES), target="sick", groups=["city"], above=None)
    found = table(write(tmp_path / name, lines, end), target="sick", groups=["city"], **options)
    assert found.sha256 == wanted.sha256


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", LINES, encoding=encoding)
    data = table(own, target="sick", groups=["city"], encoding=encoding.removesuffix("-sig"))
    assert data.groups["city"].names == ("Bonn", "Köln", "Ulm")


def test_numbered_columns_and_names_that_are_numbers(tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", LINES[1:])
    assert table(own, columns="numbers", target=4, groups=3).classes == ("no", "yes")
    years = write(tmp_path / "years.csv", ["2019,2020,y", "1,2,a", "3,4,b", "5,6,a", "7,8,b"])
    np.testing.assert_array_equal(table(years, target="y", drop=[2019]).x, [[2], [4], [6], [8]])


def test_patterns_choose_features(tmp_path: Path) -> None:
    own = write(
        tmp_path / "own.csv", ["ID,PAY_1,PAY_2,AGE,y", *[f"{i},{i + 1},{i + 2},{i + 3},{i % 2}" for i in range(4)]]
    )
    np.testing.assert_array_equal(table(own, target="y", features="PAY_*").x, [[i + 1, i + 2] for i in range(4)])
    np.testing.assert_array_equal(table(own, target="y", drop=["*D", "*_2"]).x, [[i + 1, i + 3] for i in range(4)])
    everything = table(own, target="y", features="*", groups="ID")
    assert everything.x.shape == (4, 3), "never the target, and what says whose a row is just by its name"
    assert table(own, target="y", features=["*", "ID"], groups="ID").x.shape == (4, 4)


def test_codes_and_equal_numbers_written_differently(tmp_path: Path) -> None:
    """heart_disease writes 1.0 in one file and 1 in another."""
    write(tmp_path / "d" / "a.csv", ["code,who,y", "1.0,007,2", "3.0,12345678901234567890,1", "10,007,1"])
    write(tmp_path / "d" / "b.csv", ["who,y,code", "12345678901234567891,1.0,1", "007,2.00,3"])
    data = table(tmp_path / "d", file="*.csv", target="y", groups=["who"], one_hot=["code"])
    np.testing.assert_array_equal(data.x, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert data.classes == ("1", "2")
    assert data.label.tolist() == [1, 0, 0, 0, 1]
    assert data.groups["who"].names == ("007", "12345678901234567890", "12345678901234567891")
    assert names(data, "file") == ["a", "a", "a", "b", "b"]


def test_targets(tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", ["x,grade,price", "1,0,1000", "2,3,2500.5", "3,10,4000", "4,0,1000", "5,3,0"])
    graded = table(own, target="grade", classes=["10", "3", "0"])
    assert (graded.classes, graded.label.tolist()) == (("10", "3", "0"), [2, 1, 0, 2, 1])
    sick = table(own, target="grade", above=0)
    assert (sick.classes, sick.label.tolist()) == (("at most 0", "above 0"), [0, 1, 1, 0, 1])
    named = table(own, target="grade", above=3, classes=["well", "sick"])
    assert (named.classes, named.label.tolist()) == (("well", "sick"), [0, 0, 1, 0, 0])
    price = table(own, target="price", kind="regression", unit=1000)
    assert price.target is not None
    np.testing.assert_array_equal(price.target, np.float32([[1], [2.5005], [4], [1], [0]]))
    assert (price.classes, price.label.tolist()) == (("price",), [0] * 5)
    edge = write(tmp_path / "edge.csv", ["x,y", "1,0.1", "2,0.2", "3,0.1"])
    assert table(edge, target="y", above=0.1).label.tolist() == [0, 1, 0], "compared in double precision"
    with pytest.raises(Problem, match="too large in this unit"):
        table(own, target="price", kind="regression", unit=1e-38)


def test_own_split(tmp_path: Path) -> None:
    lines = ["x,part,trains,digit,y", "1,Train,True,0,a", "2,train,true,0,b", "3,val,true,1,a", "4,test,False,2,b"]
    own = write(tmp_path / "own.csv", [*lines, "5,test,false,2,a"])
    for column, wanted in {"part": [0, 0, 1, 2, 2], "trains": [0, 0, 0, 2, 2], "digit": [0, 0, 1, 2, 2]}.items():
        data = table(own, target="y", split=column, features="x")
        assert data.row_role is not None
        assert data.row_role.tolist() == wanted
        assert data.groups == {}
    for part, first in (("train", 0), ("test", 1)):
        write(tmp_path / "d" / f"{part}.csv", ["x,y", f"{first},a", "2,b"])
    by_file = table(tmp_path / "d", file="*.csv", target="y", split="file", classes=["a", "b"])
    assert by_file.row_role is not None
    assert [names(by_file, "file")[i] for i in np.flatnonzero(by_file.row_role)] == ["test", "test"]


def test_which_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for site in ("site10", "site9"):
        write(tmp_path / "d" / site / "own.csv", LINES)
        write(tmp_path / "d" / site / "._own.csv", ["\0\0"])
    write(tmp_path / "d" / "notes.txt", ["nothing"])
    nested = table(tmp_path / "d", file="*/own.csv", target="sick", groups="city")
    assert nested.groups["file"].names == ("site9", "site10")
    archive = tmp_path / "own.zip"
    members = {f"deep/{p.relative_to(tmp_path / 'd')}": p.read_bytes() for p in (tmp_path / "d").rglob("*.*")}
    archive.write_bytes(zipped(members))
    assert table(archive, file="*/own.csv", target="sick", groups="city").sha256 == nested.sha256
    single = table(tmp_path / "d", file="site9/own.csv", target="sick", groups="city")
    monkeypatch.setenv("METADIST_DATA", str(tmp_path / "d"))
    assert table("site9/own.csv", target="sick", groups="city").sha256 == single.sha256
    monkeypatch.chdir(tmp_path / "d" / "site10")
    write(Path("site9/own.csv"), [*LINES, "1,M,Ulm,yes"])
    assert len(table("site9/own.csv", target="sick", groups="city").x) == 5, "the current folder comes first"


# ----------------------------------------------------------------------------------------------- what others make of it

CELLS = st.one_of(
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.integers(-(10**6), 10**6).map(float),
    st.just(float("nan")),
    st.just(0.1),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_numbers_and_texts_come_back_as_written(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Written by Python's csv module, in whatever dialect; texts against scikit-learn's one-hot encoder."""
    rows, width = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 4))
    x = np.array(data.draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=rows, max_size=rows)))
    x[0] = 1.0  # no column is empty
    texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=5)
    text = data.draw(st.lists(texts.filter(lambda t: not number(t)), min_size=rows, max_size=rows))
    assume(len({*text}) == len({one.casefold() for one in text}))
    out = io.StringIO()
    comma, quoting = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    writer = csv.writer(out, delimiter=comma, quoting=quoting)
    writer.writerow(["text", *[f"x{i}" for i in range(width)], "y"])
    for i in range(rows):
        writer.writerow([text[i], *["NA" if np.isnan(v) else repr(float(v)) for v in x[i]], i % 2])
    path = tmp_path_factory.mktemp("t") / "own.csv"
    path.write_text(out.getvalue(), encoding="utf-8")
    found = table(path, target="y", missing="mean", classes=[0, 1])
    encoder = OneHotEncoder(sparse_output=False)
    one_hot = encoder.fit_transform(np.array(text, dtype=object)[:, None])
    size = one_hot.shape[1]
    np.testing.assert_array_equal(found.x[:, size:], x.astype(np.float32))
    assert sorted(map(tuple, found.x[:, :size].T.tolist())) == sorted(map(tuple, one_hot.T.tolist()))


def number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("?", "NA", "N/A", "NULL", "null")
    return True


ARFF = """% comment
@RELATION 'my data'

@attribute 'the width' REAL
@attribute kind {'big one', small, none}
@Attribute n integer
@attribute   class{yes, no}
@data
1.5,'big one',3,yes
% another
-2e3, small, 4, no
0,small,5,no

7,'big one',6,yes
"""


@pytest.mark.parametrize("quote", ["'", '"'])
def test_arff_as_scipy_reads_it(quote: str, tmp_path: Path) -> None:
    (tmp_path / "own.arff").write_text(ARFF.replace("'", quote))
    data = table(tmp_path / "own.arff", target="class", groups=["kind"])
    limit = csv.field_size_limit()
    plain, _ = arff.loadarff(io.StringIO(ARFF.replace("class{", "class {").replace(", ", ",")))
    csv.field_size_limit(limit)  # scipy raises it for the whole program
    np.testing.assert_array_equal(data.x[:, 0], plain["the width"].astype(np.float32))
    np.testing.assert_array_equal(data.x[:, 1], plain["n"].astype(np.float32))
    assert names(data, "kind") == [value.decode() for value in plain["kind"]]
    assert [data.classes[i] for i in data.label] == [value.decode() for value in plain["class"]]


def test_codes_of_an_arff_file_are_numbers_where_they_look_so(tmp_path: Path) -> None:
    lines = ["@attribute smokes {0, 1}", "@attribute y {a, b}", "@data", "1,a", "0.0,b", "?,a", "1,b"]
    data = table(write(tmp_path / "own.arff", [*lines[:4], "0,b", *lines[5:]]), target="y", missing="mean")
    np.testing.assert_array_equal(data.x, [[1], [0], [np.nan], [1]])
    with pytest.raises(Problem, match=r"'0\.0' is not one of the values in the header"):
        table(write(tmp_path / "own.arff", lines), target="y", missing="mean")


def holed(path: Path, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Three people's rows with holes, one column empty at c; scale: of what is written for the rows at the end."""
    rng = np.random.default_rng(1)
    x = np.round(rng.normal(5, 3, (60, 3)), 3)
    x[rng.random(x.shape) < 0.3] = np.nan
    who = np.repeat(["a", "b", "c"], 20)
    x[who == "c", 2] = np.nan
    cells = [["" if np.isnan(v) else str(v * scale if who[i] == "c" else v) for v in x[i]] for i in range(60)]
    write(path, ["who,x0,x1,x2,y", *[",".join([who[i], *cells[i], str(i % 2)]) for i in range(60)]])
    return x, who


@pytest.mark.parametrize("scale", ["none", "train", "node"])
def test_means_are_those_of_training_rows(scale: str, tmp_path: Path) -> None:
    """As scikit-learn does it when it is fitted on the training rows; it divides by n, we by n - 1."""
    x, _ = holed(tmp_path / "own.csv")
    shards = split(table(tmp_path / "own.csv", target="y", groups="who", missing="mean"), scale)
    train = [s for s in shards if s.role == "train"]
    for shard in shards:
        home = shard if shard.home is None else shards[shard.home]
        fitted = x[np.concatenate([s.row for s in train]) if scale != "node" else home.row]
        there = ~np.isnan(fitted).all(0)
        wanted = np.zeros_like(x[shard.row])
        imputer, scaler = SimpleImputer().fit(fitted[:, there]), StandardScaler().fit(fitted[:, there])
        if scale == "none":
            wanted[:, there] = imputer.transform(x[shard.row][:, there])
        else:
            count = (~np.isnan(fitted[:, there])).sum(0)
            wanted[:, there] = np.nan_to_num(scaler.transform(x[shard.row][:, there]) * np.sqrt((count - 1) / count))
        np.testing.assert_allclose(shard.x, wanted, rtol=1e-5, atol=1e-5)
        assert shard.x.dtype == np.float32


@pytest.mark.parametrize("scale", ["none", "train"])
def test_nothing_of_a_held_out_node_is_in_the_means(scale: str, tmp_path: Path) -> None:
    holed(tmp_path / "own.csv")
    holed(tmp_path / "other.csv", scale=1000.0)
    one, other = (
        split(table(tmp_path / name, target="y", groups="who", missing="mean"), scale, test=["c"], source="nodes")  # pyright: ignore
        for name in ("own.csv", "other.csv")
    )
    assert [s.name for s in one] == ["a", "b", "c"]
    for shard, twin in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(shard.x, twin.x)
    assert not np.array_equal(one[2].x, other[2].x)
    assert all(np.isfinite(s.x).all() for s in one)


def test_indicators_and_dropped_rows(tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", ["a,b,c,who,y", "1,?,u,p,0", "2,3,,p,1", ",4,v,q,0", "5,6,u,q,1", "7,8,v,p,0"])
    nan = np.nan
    said = table(own, target="y", missing="indicator", groups="who").x
    wanted = [
        [1, nan, 1, 0, 0, 1, 0],
        [2, 3, nan, nan, 0, 0, 1],
        [nan, 4, 0, 1, 1, 0, 0],
        [5, 6, 1, 0, 0, 0, 0],
        [7, 8, 0, 1, 0, 0, 0],
    ]
    np.testing.assert_array_equal(said, np.float32(wanted))
    np.testing.assert_array_equal(table(own, target="y", missing="mean", groups="who").x, np.float32(wanted)[:, :4])
    dropped = table(own, target="y", missing="drop", groups="who", classes=[0, 1])
    np.testing.assert_array_equal(dropped.x, [[5, 6, 1, 0], [7, 8, 0, 1]])
    assert names(dropped, "who") == ["q", "p"]


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.integers(-3, 40).map(float), min_size=2, max_size=200), count=st.integers(2, 12))
def test_bins(values: list[float], count: int) -> None:
    group = cut(np.array(values), count)
    spans = [[v for v, code in zip(values, group.code, strict=True) if code == i] for i in range(len(group.names))]
    assert len(spans) <= count
    assert all(max(low) < min(high) for low, high in pairwise(spans)), "equal values share a bin"
    most = Counter(values).most_common(1)[0][1]
    assert max(map(len, spans)) <= -(-len(values) // count) + most, "as even as equal values let it be"
    if len(set(values)) == len(values) >= count:
        assert {len(span) for span in spans} <= {len(values) // count, -(-len(values) // count)}
    for span, name in zip(spans, group.names, strict=True):
        assert name == (f"{min(span):g}" if min(span) == max(span) else f"{min(span):g} to {max(span):g}")


def test_bins_where_told(tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", ["age,y", *[f"{age},{age % 2}" for age in (21, 29, 30, 39, 40, 75)]])
    data = table(own, target="y", bins={"age": [40.0, 30.0, 100.0]})
    assert names(data, "age") == ["21 to 29", "21 to 29", "30 to 39", "30 to 39", "40 to 75", "40 to 75"]
    assert data.x.shape == (6, 1), "what is cut into bins is a feature still"


def test_join_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "d" / "ratings.csv", ["user,place,rating", "1,7.0,2", "2,8,0", "1,8,0", "2,9,2"])
    write(tmp_path / "d" / "users.csv", ["name,user,budget", "x,2,low", "y,1.0,high"])
    write(tmp_path / "d" / "places.csv", ["price;place", "10;9", "20;7", "30;8", "40;99"])
    join = {"users.csv": "user", "places.csv": "place"}
    for path, file in ((tmp_path / "d", "ratings.csv"), (tmp_path / "d" / "ratings.csv", None)):
        data = table(path, file=file, target="rating", groups="user", join=join, drop="users.name")
        np.testing.assert_array_equal(data.x, [[1, 0, 20], [0, 1, 30], [1, 0, 30], [0, 1, 10]])
    write(tmp_path / "d" / "places.csv", ["price;place", "10;9", "20;7"])
    gaps = table(path, target="rating", groups="user", join=join, features=["places.*"], missing="mean")
    np.testing.assert_array_equal(gaps.x, np.float32([[20], [np.nan], [np.nan], [10]]))
    some = table(path, target="rating", join=join, features=["places.*"], missing="drop", classes=[0, 2])
    assert (some.x.tolist(), some.label.tolist()) == ([[20], [10]], [1, 1])


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.fixture
def real() -> Path:
    if not os.environ.get("METADIST_DATA"):
        pytest.skip("METADIST_DATA is not set: no real data sets here")
    return Path(os.environ["METADIST_DATA"])


def heart(**options: Any) -> Dataset:
    return table("heart_disease", file="processed.*.data", columns=HEART, target="num", above=0, **options)


def test_heart_disease(real: Path) -> None:
    """Counts of data/README.md; and with FLamby's rules the rows of the reader `heart`."""
    data = heart(missing="mean")
    assert dict(Counter(names(data, "file"))) == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
    gaps = np.bincount(data.groups["file"].code, np.isnan(data.x).sum(1))
    assert gaps.tolist() == [6, 782, 273, 698]
    sick = np.bincount(data.groups["file"].code, data.label) / [303, 294, 123, 200]
    np.testing.assert_array_equal(np.round(sick, 3), [0.459, 0.361, 0.935, 0.745])
    flamby = heart(missing="drop", drop=["slope", "ca", "thal"], one_hot=["cp", "restecg"])
    other = DATASETS["heart"](0)
    assert np.bincount(flamby.groups["file"].code).tolist() == [303, 261, 46, 130]
    kept = [0, 1, 6, 7, 8, 12, 13, 14, 3, 4, 5, 10, 11]  # age sex trestbps chol fbs thalach exang oldpeak cp restecg
    np.testing.assert_array_equal(flamby.x[:, kept], other.x)
    np.testing.assert_array_equal(flamby.label, other.label)


def test_wisdm(real: Path) -> None:
    data = table("wisdm_ar", target="class", groups=["user"], drop=["UNIQUE_ID"], missing="mean")
    assert data.x.shape == (5418, 43)
    assert int(np.isnan(data.x).sum()) == 615
    people = np.bincount(data.groups["user"].code)
    assert (len(people), people.min(), people.max()) == (36, 60, 273)
    rows = {name: int((data.label == i).sum()) for i, name in enumerate(data.classes)}
    assert rows == {
        "Walking": 2081, "Jogging": 1625, "Upstairs": 632, "Downstairs": 528, "Sitting": 306, "Standing": 246,
    }  # fmt: skip
    complete = [len(np.unique(data.label[data.groups["user"].code == user])) == 6 for user in range(36)]
    assert sum(complete) == 18


def test_default_credit(real: Path) -> None:
    path = "default_credit/UCI_Credit_Card.csv"
    data = table(path, target="default.payment.next.month", drop="ID", groups=["EDUCATION"], bins={"LIMIT_BAL": 10})
    plain = np.loadtxt(real / path, delimiter=",", skiprows=1)
    assert data.x.shape == (30_000, 22)
    np.testing.assert_array_equal(data.x, np.delete(plain, [0, 3, 24], axis=1).astype(np.float32))
    assert np.bincount(data.label).tolist() == [23_364, 6_636]
    schooling = dict(zip(data.groups["EDUCATION"].names, np.bincount(data.groups["EDUCATION"].code), strict=True))
    assert schooling == {"0": 14, "1": 10_585, "2": 14_030, "3": 4_917, "4": 123, "5": 280, "6": 51}
    assert len(data.groups["LIMIT_BAL"].names) == 10


def test_restaurants(real: Path) -> None:
    """Against Python's csv module and dictionaries."""
    path = real / "restaurant_consumer" / "restaurant-data-with-consumer-ratings.zip"
    wanted = ["userprofile.latitude", "userprofile.weight", "geoplaces2.latitude"]
    join = {"userprofile.csv": "userID", "geoplaces2.csv": "placeID"}
    data = table(
        path, file="rating_final.csv", target="rating", groups=["userID", "placeID"], join=join, encoding="latin-1",
        features=wanted,
    )  # fmt: skip
    with zipfile.ZipFile(path) as archive:
        ratings, users, places = (
            list(csv.DictReader(io.StringIO(archive.read(f"{name}.csv").decode("latin-1"))))
            for name in ("rating_final", "userprofile", "geoplaces2")
        )
    user, place = {row["userID"]: row for row in users}, {row["placeID"]: row for row in places}
    rows = [
        [user[r["userID"]]["latitude"], user[r["userID"]]["weight"], place[r["placeID"]]["latitude"]] for r in ratings
    ]
    np.testing.assert_array_equal(data.x, np.float32(rows))
    assert (len(data.x), len(data.groups["userID"].names), len(data.groups["placeID"].names)) == (1161, 138, 130)
    assert names(data, "userID") == [r["userID"] for r in ratings]
    assert np.bincount(data.label).tolist() == [254, 421, 486]


def test_a_config_of_a_table(real: Path, tmp_path: Path) -> None:
    """From YAML to shards, and back to YAML."""
    (tmp_path / "own.yaml").write_text(
        "data: {name: table, path: default_credit/UCI_Credit_Card.csv, target: default.payment.next.month, drop: ID,\n"
        "       bins: {LIMIT_BAL: 10, AGE: [30, 40]}, one_hot: [SEX]}\n"
        "task: {kind: local, support: 5, query: 5, new: {from: nodes, test: 2}}\n"
        "partition: {name: natural, by: LIMIT_BAL, scale: train}\nmodel: {name: logistic}\n"
    )
    config = configs.load(tmp_path / "own.yaml")
    shards = deal(config, load_data(config)).shards
    assert sum(len(s.label) for s in shards) == 30_000
    assert [s.role for s in shards] == ["train"] * 8 + ["test"] * 2
    (tmp_path / "again.yaml").write_text(configs.to_yaml(config))
    assert configs.load(tmp_path / "again.yaml") == config


# --------------------------------------------------------------------------------------------------------- broken files


@settings(max_examples=300, deadline=None)
@given(
    junk=st.binary(max_size=12) | st.text("0123456789.,;?-+eE_ \r\n\t\"'NAnaif@%{}", max_size=12).map(str.encode),
    at=st.integers(0, 400),
    kind=st.sampled_from(["csv", "arff", "zip"]),
    missing=st.sampled_from(["refuse", "mean", "indicator", "drop"]),
)
def test_any_damage_is_a_problem_or_a_table(
    junk: bytes, at: int, kind: str, missing: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = ("\n".join([*LINES, *LINES[1:]]) + "\n").encode() if kind != "arff" else ARFF.encode()
    good = zipped({"own.csv": good}) if kind == "zip" else good
    path = tmp_path_factory.mktemp("t") / f"own.{kind}"
    path.write_bytes(good[:at] + junk + good[at + len(junk) :])
    options = {"target": "class", "groups": "kind"} if kind == "arff" else {"target": "sick", "groups": "city"}
    try:
        data = table(path, missing=missing, **options)
    except Problem as problem:
        assert str(path) in str(problem) or problem.where.startswith("data")  # noqa: PT017
    else:
        assert not np.isinf(data.x).any()
        assert missing in ("mean", "indicator") or np.isfinite(data.x).all()
        assert data.x.shape[0] == len(data.label)


@proc
@pytest.mark.slow
def test_a_million_rows_fit_into_half_a_gibibyte(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("who," + ",".join(f"x{i}" for i in range(8)) + ",y\n")
        for _ in range(100):
            block = np.column_stack(
                [rng.integers(0, 1000, 10_000), rng.normal(size=(10_000, 8)), rng.integers(0, 5, 10_000)]
            )
            np.savetxt(file, block, fmt=["u%d", *["%.4f"] * 8, "%d"], delimiter=",")
    code = (
        "import time; from metadist_cli.data.sets import DATASETS; start = time.time();"
        f"before = {MEMORY};"
        f"d = DATASETS['table'](0, path={str(path)!r}, target='y', groups=['who']);"
        "assert d.x.shape == (1_000_000, 8); print(time.time() - start);"
        f"print(({MEMORY} - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, mebibytes = done.stdout.split()
    print(f"a million rows in {float(seconds):.1f} s and {mebibytes} MiB")
    assert int(mebibytes) < 512
