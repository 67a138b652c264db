"""Which rows of a table are used: data.where, missing: drop and absent; against plain Python on each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner import Lab

from metadist_cli.core.errors import Problem
from metadist_cli.data.readers.table_cells import Column
from metadist_cli.data.readers.table_where import parse
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Dataset

AGE, HIGH, WARD = (
    [1.0, 20.0, None, 70.0, 20.0, None],
    [9.0, 3.0, 5.0, None, 20.0, None],
    ["A", "B", None, "A", "b c", "B"],
)
CELLS = {"age": AGE, "high": HIGH, "the ward": WARD}


def column(name: str, cells: list[Any]) -> Column:
    if name != "the ward":
        numbers = np.array([np.nan if cell is None else cell for cell in cells])
        return Column(name, numbers, np.empty(0, dtype=np.int64), ())
    texts = sorted({cell for cell in cells if cell is not None})
    return Column(name, None, np.array([-1 if cell is None else texts.index(cell) for cell in cells]), tuple(texts))


COLUMNS = {name: column(name, cells) for name, cells in CELLS.items()}
SIGNS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
Tree = tuple[Any, ...]
number, sign = st.sampled_from([1, 5.5, 20, 70, -3]), st.sampled_from([*SIGNS])
leaf = st.one_of(
    st.tuples(st.just("compare"), st.sampled_from(["age", "high"]), sign, number),
    st.tuples(st.just("columns"), sign),
    st.tuples(st.just("text"), st.sampled_from(["==", "!="]), st.sampled_from(["A", "B", "b c"])),
    st.tuples(st.just("in"), st.booleans(), st.lists(st.sampled_from(["A", "B", "b c"]), min_size=1)),
    st.tuples(st.just("missing"), st.booleans(), st.sampled_from([*CELLS])),
)
trees = st.recursive(
    leaf,
    lambda inner: st.one_of(st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["and", "or"]), inner, inner)),
    max_leaves=8,
)


def quoted(name: str) -> str:
    return f"`{name}`" if " " in name else name


def written(tree: Tree) -> str:
    match tree:
        case ("compare", name, sign, value):
            return f"{name} {sign} {value}"
        case ("columns", sign):
            return f"age{sign}high"
        case ("text", sign, value):
            return f"`the ward` {sign} '{value}'"
        case ("in", negated, values):
            listed = ", ".join(f'"{value}"' for value in values)
            return f"`the ward` {'not in' if negated else 'in'} [{listed}]"
        case ("missing", negated, name):
            return f"{quoted(name)} is {'not ' if negated else ''}missing"
        case ("not", inner):
            return f"not ({written(inner)})"
        case (word, one, other):
            return f"({written(one)}) {word} ({written(other)})"
    raise AssertionError(tree)


def truth(tree: Tree, row: dict[str, Any]) -> bool | None:
    """True, false, or None for what hangs on a missing cell (S. C. Kleene's logic)."""
    match tree:
        case ("compare", name, sign, value):
            return None if row[name] is None else SIGNS[sign](row[name], value)
        case ("columns", sign):
            return None if None in (row["age"], row["high"]) else SIGNS[sign](row["age"], row["high"])
        case ("text", sign, value):
            return None if row["the ward"] is None else SIGNS[sign](row["the ward"], value)
        case ("in", negated, values):
            return None if row["the ward"] is None else (row["the ward"] in values) != negated
        case ("missing", negated, name):
            return (row[name] is None) != negated
        case ("not", inner):
            found = truth(inner, row)
            return None if found is None else not found
        case (word, one, other):
            both = {truth(one, row), truth(other, row)}
            ends = word == "or"  # what decides
            return ends if ends in both else None if None in both else not ends
    raise AssertionError(tree)


@settings(max_examples=500, deadline=None)
@given(trees)
def test_an_expression_is_true_where_plain_python_says_so(tree: Tree) -> None:
    rows = [dict(zip(CELLS, cells, strict=True)) for cells in zip(*CELLS.values(), strict=True)]
    found = parse(written(tree), CELLS).truth(COLUMNS)
    told = [truth(tree, row) for row in rows]
    assert found.yes.tolist() == [one is True for one in told]
    assert found.no.tolist() == [one is False for one in told]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("not age > 3 and high > 3", "(not (age > 3)) and (high > 3)"),
        ("age > 3 or age < 2 and high > 3", "(age > 3) or ((age < 2) and (high > 3))"),
        ("1 < age <= high", "(1 < age) and (age <= high)"),
        ("20 == age", "age == 20"),
        ("age>=2e1", "age >= 20"),
        ("AGE > 3", None),
    ],
)
def test_precedence(text: str, right: str | None) -> None:
    if right is None:
        with pytest.raises(Problem, match="no column 'AGE'") as caught:
            parse(text, CELLS)
        assert "did you mean 'age'?" in caught.value.hint
        return
    one, other = (parse(each, CELLS).truth(COLUMNS) for each in (text, right))
    assert one.yes.tolist() == other.yes.tolist()
    assert one.no.tolist() == other.no.tolist()


@pytest.mark.parametrize(
    ("text", "at", "message", "hint"),
    [
        ("age = 3", 5, "`=` compares nothing", "write =="),
        ("high < 3 and aeg > 3", 14, "no column 'aeg'", "did you mean 'age'?"),
        ("`the ward` > 'A'", 14, "> compares numbers", "use == or !="),
        ("`the ward` == 3", 15, "'the ward' holds texts", "write '3'"),
        ("`the ward` == 'C'", 15, "no row has 'C' in 'the ward'", "there are: A, B, b c"),
        ("age == '3'", 8, "'age' holds numbers", "write 3, without quotation marks"),
        ("age == `the ward`", 8, "one holds numbers, the other texts", "one kind"),
        ("age >", 6, "expected a column, a number or a text, not 'the end'", "for example"),
        ("(age > 3", 9, "a parenthesis is not closed", "add )"),
        ("age > 3 high", 9, "expected `and`, `or` or the end, not 'high'", "for example"),
        ("3 < 4", 1, "neither side is a column", "name"),
        ("age in [3, high]", 12, "a list holds values", "'high'"),
        ("age in [3", 10, "a list is not closed", "add ]"),
        ("`the ward == 'A'", 1, "opens a name or text that is not closed", "add `"),
        ("age > 3; import os", 8, "';' means nothing here", "columns, numbers"),
        ("age.real > 3", 1, "no column 'age.real'", "there are: age, high"),
        ("__import__('os') == 3", 11, "expected a comparison", "for example"),
        ("not " * 60 + "age > 3", 201, "more than 50", "simpler"),
        ("(" * 2000 + "age", 51, "more than 50", "simpler"),
    ],
)
def test_what_is_wrong_is_pointed_at(text: str, at: int, message: str, hint: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(text, CELLS).truth(COLUMNS)
    problem = caught.value
    assert problem.where == f"data.where:{at}"
    assert message in problem.message
    assert hint in problem.hint
    above, below = problem.snippet.splitlines()
    assert below.index("^") <= len(above)


@settings(max_examples=500, deadline=None)
@given(st.text("age high`'\"()[]<>=!,.0123 andorinisnotmissing\n", max_size=60))
def test_any_text_is_an_expression_or_a_problem(text: str) -> None:
    try:
        parse(text, CELLS).truth(COLUMNS)
    except Problem as problem:
        assert problem.hint  # noqa: PT017


# ------------------------------------------------------------------------------------------------------ in a table


def table(path: Path, **options: Any) -> Dataset:
    return DATASETS["table"](0, path=str(path), target="sick", **options)


def patients(folder: Path) -> Path:
    lines = ["id,age,ward,seen,sick"]
    lines += [f"p{i},{20 + i},{'AB'[i % 2]},2026-01-{i + 1:02d},{'no' if i // 2 % 2 else 'yes'}" for i in range(20)]
    (folder / "own.csv").write_text("\n".join(lines) + "\n")
    return folder / "own.csv"


def test_where_filters_by_columns_that_are_no_features_too(tmp_path: Path) -> None:
    path, more = patients(tmp_path), {"drop": ["id", "ward", "seen"]}
    whole = table(path, **more)
    some = table(path, where="ward == 'A' and age < 30", **more)
    np.testing.assert_array_equal(some.x[:, 0], [20, 22, 24, 26, 28])
    assert some.notes == ("data.where keeps 5 of 20 rows",)
    assert [feature.name for feature in some.features] == ["age"]
    assert (some.sha256 != whole.sha256, whole.notes) == (True, ())
    named = table(path, where="id in ['p3', 'p4', 'p5', 'p6']", **more)  # any number of texts
    np.testing.assert_array_equal(named.x[:, 0], [23, 24, 25, 26])
    with pytest.raises(Problem, match=r"data\.where is true for none of 20 rows"):
        table(path, where="age > 99", **more)


def test_dates_are_compared_as_dates(tmp_path: Path) -> None:
    for unit in ("days", "hours", "parts"):
        some = table(patients(tmp_path), where="seen >= '2026-01-16'", drop=["id"], dates={"seen": unit})
        np.testing.assert_array_equal(some.x[:, 0], [35, 36, 37, 38, 39])
    with pytest.raises(Problem, match="'January' is not a date like 2026-01-31"):
        table(patients(tmp_path), where="seen > 'January'", drop=["id"], dates={"seen": "days"})
    with pytest.raises(Problem, match="compares numbers, but these are texts") as caught:
        table(patients(tmp_path), where="seen >= '2026-01-18'", drop=["id", "seen"])
    assert "data.dates" in caught.value.hint


def test_drop_counts_by_column_what_it_left_out(tmp_path: Path, lab: Lab) -> None:
    lines = ["a,b,c,sick", *[f"{i},{i},{i},{'yes' if i % 2 else 'no'}" for i in range(40)]]
    lines += [",1,1,yes", ",,1,no", "1,,1,yes", "1,1,1,"]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    note = "missing: drop leaves out 4 of 44 rows (missing cells: a 2, b 2, sick 1)"
    assert table(tmp_path / "own.csv", missing="drop").notes == (note,)
    settings = (f"data={{name: table, path: {tmp_path / 'own.csv'}, target: sick, missing: drop}}", "task.new.test=1")
    for command in (("run", "--dry-run"), ("partition",)):
        assert note in lab(*command, *settings, "partition.nodes=2", "task.query=5").out


def sites(folder: Path) -> Path:
    for site, head in {"a": "age,chol,sick", "b": "chol,age,sick", "c": "age,sick", "d": "age,chol,sick"}.items():
        rows = []
        for i in range(8):
            cells = {"age": f"{30 + i}", "chol": f"{200 + i}", "sick": "yes" if i % 2 else "no"}
            rows.append(",".join(cells[name] for name in head.split(",")))
        (folder / f"{site}.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


@pytest.mark.parametrize("lacking", ["c", "a"])
def test_a_site_that_lacks_a_column_is_named_with_those_that_have_it(tmp_path: Path, lacking: str) -> None:
    folder = sites(tmp_path)
    (folder / "c.csv").rename(folder / "x.csv")
    if lacking == "a":  # the first file may be the one
        (folder / "a.csv").rename(folder / "c.csv")
        (folder / "x.csv").rename(folder / "a.csv")
    with pytest.raises(Problem, match="the column 'chol' is missing here; the files that have it: ") as caught:
        table(folder, file="*.csv")
    problem = caught.value
    assert problem.where.endswith("a.csv" if lacking == "a" else "x.csv")
    assert problem.message.endswith("b, c, d" if lacking == "a" else "a, b, d")
    assert problem.hint.endswith("or write absent: missing")
    if "drop: [chol]" in problem.hint:
        assert table(folder, file="*.csv", drop=["chol"]).x.shape == (32, 1)
    assert table(folder, file="*.csv", drop=["chol"], absent="missing").x.shape == (32, 1)
    with pytest.raises(Problem, match=r"8 cells are missing \(chol 8\)"):  # a better message
        table(folder, file="*.csv", absent="missing")
    filled = table(folder, file="*.csv", absent="missing", missing="mean")
    at = [feature.name for feature in filled.features].index("chol")
    site = filled.groups["file"]
    gone = np.isnan(filled.x[:, at])
    assert {site.names[code] for code in site.code[gone]} == {"a" if lacking == "a" else "x"}
    assert gone.sum() == 8


def test_one_site_can_be_left_out_by_name(tmp_path: Path) -> None:
    some = table(sites(tmp_path), file="*.csv", absent="missing", where="file not in ['c'] and age > 30")
    assert some.x.shape == (21, 2)
    assert {some.groups["file"].names[code] for code in some.groups["file"].code} == {"a", "b", "d"}
