"""The strict YAML parser. Oracles: json, PyYAML's SafeLoader, and values derived by hand from YAML 1.2."""

import json
import math
from collections.abc import Callable

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from metadist_cli.config.strict_yaml import MAX_BYTES, Dumper, load, parse_value
from metadist_cli.core.errors import CONFIG, Problem

TEXT = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="\ufeff\u2028\u2029\ufffe\uffff")
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18) + 1, 10**18 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.sampled_from(
        ["no", "yes", "017", "1e-3", "12:30:45", "2024-01-01", "~", "null", "true", "0x1F", "0o7", "1_000", ""]
    ),
)
TREES = st.dictionaries(
    TEXT,
    st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=8),
    max_size=4,
)
PIECES = [
    "a",
    "b: ",
    "- ",
    "? ",
    ": ",
    "\n",
    "  ",
    "\t",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "&x ",
    "*x",
    "!t ",
    "!!int ",
    "#",
    "|",
    ">",
]
PIECES += [
    "---\n",
    "...\n",
    "<<: ",
    "%YAML 1.1\n",
    "%TAG ! x\n",
    "017",
    "1e999",
    ".nan",
    "\\x",
    "\\U00FFFFFF",
    "\\ud800",
    "\ufeff",
    "\x85",
]
PIECES += ["\u2028", "\r", "é", "日", "\x00", "a: 1\n", "@", "`", "9" * 30]


def fault(text: str | bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        load(text, "x.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("+12", 12),
        ("0", 0),
        ("-0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("y", "y"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("1_000", "1_000"),
        ("1e", "1e"),
        ("'017'", "017"),
        ('"1e-3"', "1e-3"),
        ("nan", "nan"),
        ("tRUE", "tRUE"),
        ("999999999999999999", 999999999999999999),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object):
    tree, _ = load(f"a: {text}\n", "x.yaml")
    assert tree == {"a": value}
    assert type(tree["a"]) is type(value)
    assert parse_value(f"a={text}", 2)[0] == value


@pytest.mark.parametrize("text", ["017", "-007", "00", "1" + "0" * 18, "9" * 5000, "0x" + "f" * 16, "0x" + "f" * 5000])
def test_ambiguous_and_huge_integers_are_refused(text: str):
    assert fault(f"b: 1\na: {text}\n").where == "x.yaml:2:4"


@pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.Inf", "1e999", "-1e999", "9" * 400 + ".0"])
def test_numbers_are_finite(text: str):
    assert "not a finite number" in fault(f"a: {text}\n").message


def test_every_independent_error_is_reported_where_it_is():
    problem = fault("a: 1\nb: {c: 1, c: 2}\na: 2\nd: &x 017\ne: *x\n<<: {f: 1}\n")
    assert [(p.where, p.message.split(":")[0]) for p in problem.all] == [
        ("x.yaml:2:11", "duplicate key `c` (first on line 2)"),
        ("x.yaml:3:1", "duplicate key `a` (first on line 1)"),
        ("x.yaml:4:4", "anchors are not allowed"),
        ("x.yaml:4:4", "the number 017 has a leading zero"),
        ("x.yaml:5:4", "aliases are not allowed"),
        ("x.yaml:6:1", "merge keys are not allowed"),
    ]


def test_snippet_shows_the_line_before_and_carets_below_the_key():
    assert fault("seed: 1\nname: a\nseed: 2\n").snippet == "  2 | name: a\n  3 | seed: 2\n    | ^^^^"
    assert (
        fault("'日本': 1\n'日本': &a 2\n").all[1].snippet.splitlines()[-1] == "    |         ^^^^"
    )  # wide letters take two columns


def test_snippet_of_a_long_line_is_cut_around_the_error():
    snippet = fault("a: [" + "1, " * 300 + "017, " + "2, " * 300 + "]\n").snippet
    row, carets = snippet.splitlines()
    assert max(len(row), len(carets)) <= 120
    assert row[carets.index("^") :].startswith("017")


def test_errors_beyond_twenty_are_counted():
    problem = fault("a: 1\n" * 50)
    assert len(problem.all) == 21
    assert {p.message for p in problem.all[:20]} == {"duplicate key `a` (first on line 1)"}
    assert problem.all[-1].message == "29 more problems are not shown"


def test_positions_of_keys_and_values():
    _, source_map = load("seed: 5\ntask:\n  kind: local\n  new: {from: nodes, test: [a, b]}\n", "x.yaml")
    positions = {".".join(map(str, p)): (s.key[:2], s.value[:2]) for p, s in source_map.locations.items() if p}
    assert positions == {
        "seed": ((1, 1), (1, 7)),
        "task": ((2, 1), (2, 1)),  # a section without braces is shown by its key
        "task.kind": ((3, 3), (3, 9)),
        "task.new": ((4, 3), (4, 8)),
        "task.new.from": ((4, 9), (4, 15)),
        "task.new.test": ((4, 22), (4, 28)),
        "task.new.test.0": ((4, 29), (4, 29)),
        "task.new.test.1": ((4, 32), (4, 32)),
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_lines_are_counted_as_yaml_counts_them(newline: str):
    problem = fault(newline.join(["a: 1", "b: 2", "a: 3", ""]))
    assert problem.where == "x.yaml:3:1"
    assert "a: 3" in problem.snippet


def test_size_depth_and_count_are_limited():
    assert "KiB" in fault("#" * (MAX_BYTES + 1)).message
    assert load("#" * (MAX_BYTES - 5) + "\na: 1", "x.yaml")[0] == {"a": 1}
    assert "deeper than 20" in fault("[" * 5000).message
    assert "deeper than 20" in fault("- " * 5000).message
    assert load("a: " + "[" * 19 + "]" * 19, "x.yaml")[0]["a"] is not None
    assert "more than 10,000" in fault("a: [" + "1," * 10_000 + "]").message


def test_bytes_that_are_not_utf8_have_a_line():
    problem = fault(b"a: 1\nb: caf\xe9\n")
    assert (problem.where, problem.code) == ("x.yaml:2:7", CONFIG)
    assert load(b"\xef\xbb\xbfa: 1\n", "x.yaml")[0] == {"a": 1}  # a byte order mark is allowed


def test_an_error_in_an_override_is_shown_within_its_argument():
    with pytest.raises(Problem) as caught:
        parse_value("train.rounds={a: 1, a: 2}", 13, "override train.rounds=...")
    problem = caught.value
    assert problem.where == "override train.rounds=..."
    assert problem.snippet == "    | train.rounds={a: 1, a: 2}\n    |                     ^"


@given(TREES)
def test_json_is_read_as_json_reads_it(tree: dict):
    assert load(json.dumps(tree, ensure_ascii=False, indent=1), "x.yaml")[0] == tree


@given(TREES)
def test_both_parsers_read_back_what_the_dumper_writes(tree: dict):
    text = yaml.dump(tree, Dumper=Dumper, allow_unicode=True, sort_keys=False)
    assert load(text, "x.yaml")[0] == tree
    assert yaml.safe_load(text) == tree


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60))
@example('a: "\\U00FFFFFF"')
@example("%YAML " + "9" * 5000 + ".1\n---\na: 1")
@example("? [a]\n: 1")
@example("")
def test_any_text_is_a_mapping_or_a_problem(text: str):
    _assert_read_or_refused(text)
    problem = _refused(lambda: parse_value(f"a={text}", 2, "override a"))
    assert problem is None or (problem.code, problem.where) == (CONFIG, "override a")


@given(
    st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=9).map(lambda p: "".join(p).encode("utf-16"))
)
@example(b"a: \xff")
@example(b"\xef\xbb\xbfa: \xff")
@example(b"\xed\xa0\x80")
def test_any_bytes_are_a_mapping_or_a_problem(raw: bytes):
    _assert_read_or_refused(raw)


def test_an_unpaired_surrogate_is_a_problem():
    _assert_read_or_refused("a: \ud800")
    assert "U+D800" in fault('a: "\\ud800"').message


def _refused(read: Callable[[], object]) -> Problem | None:
    try:
        read()
    except Problem as problem:
        return problem
    return None


def _assert_read_or_refused(text: str | bytes) -> None:
    problem = _refused(lambda: load(text, "x.yaml"))
    if problem is None:
        tree, _ = load(text, "x.yaml")
        assert all(isinstance(key, str) for key in tree)
        assert _finite(tree)
        return
    for one in problem.all:
        assert one.code == CONFIG
        assert one.where.startswith("x.yaml:")
        assert one.hint
        assert set(one.snippet.splitlines()[-1]) == set(" |^")


def _finite(value: object) -> bool:
    if isinstance(value, dict | list):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)
