"""From a data set to nodes: nothing lost, nothing doubled, nothing of a new task in training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.types import Dataset, Group, build
from metadist_cli.partition.accounting import Partitioned
from metadist_cli.partition.held_out import ROLES, HoldOut, rows_needed
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import PartitionSpec, Shard, TaskSize, make_shards, pool

LOCAL, EPISODIC = TaskSize(False, 0, 2), TaskSize(True, 2, 3)
DEAL = {
    "iid": PARTITIONERS["iid"](),
    "dirichlet": PARTITIONERS["dirichlet"](alpha=0.3),
    "by_class": PARTITIONERS["by_class"](),
    "natural": PARTITIONERS["natural"](by="alphabet"),
}


def characters(
    bases: int = 12, turns: int = 1, rows: int = 6, rotate_held_out: bool = True, role: Sequence[int] | None = None
) -> Dataset:
    """Like Omniglot: `bases` characters of three alphabets, each in so many turns; every pixel names its row."""
    classes = bases * turns
    label = np.tile(np.arange(classes), rows)
    base = np.arange(classes) % bases
    x = np.arange(len(label), dtype=np.float32)[:, None, None].repeat(4, 1).repeat(5, 2)
    alphabet = Group(base[label] % 3, ("Aleph", "Bet", "Gimel"))
    drawer = Group(np.arange(len(label)) // classes, tuple(f"drawer {i}" for i in range(rows)))
    names = tuple(f"c{b}" + (f"@{90 * t}" if t else "") for t in range(turns) for b in range(bases))
    return build(
        "classification",
        x,
        label,
        names,
        base=base,
        groups={"alphabet": alphabet, "drawer": drawer},
        cluster="alphabet",
        role=None if role is None else np.array(role, dtype=np.int8),
        rotated=np.arange(classes) >= bases,
        rotate_held_out=rotate_held_out,
    )


def numbers(rows: int = 30) -> Dataset:
    """A regression of three functions."""
    label = np.arange(rows) % 3
    x = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    return build("regression", x, label, ("f", "g", "h"), target=np.concatenate([x, 2 * x], 1))


def shards_of(
    data: Dataset,
    deal: str = "iid",
    nodes: int | None = 3,
    need: TaskSize = EPISODIC,
    held: HoldOut | None = None,
    seed: int = 0,
    **more: object,
) -> list[Shard]:
    held = held or HoldOut("classes" if need.episodic else "nodes", 2 if need.episodic else 1, 0)
    return make_shards(data, PartitionSpec(DEAL[deal], nodes, need, held, **more), seed).shards


def bases_of(data: Dataset, shards: list[Shard]) -> set[int]:
    return {int(b) for s in shards for b in data.base[s.label]}


def by_role(shards: list[Shard]) -> dict[str, list[Shard]]:
    return {role: [s for s in shards if s.role == role] for role in ROLES}


def equal(one: list[Shard], two: list[Shard]) -> bool:
    return len(one) == len(two) and all(
        (a.node, a.name, a.role, a.angle, a.labels, a.home) == (b.node, b.name, b.role, b.angle, b.labels, b.home)
        and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("x", "label", "row"))
        for a, b in zip(one, two, strict=True)
    )


# ------------------------------------------------------------------------------------------------- every row once


@settings(max_examples=300, deadline=None)
@given(
    deal=st.sampled_from(sorted(DEAL)),
    episodic=st.booleans(),
    held_by=st.sampled_from(["classes", "nodes"]),
    nodes=st.integers(1, 6),
    bases=st.integers(3, 14),
    turns=st.integers(1, 4),
    rotate_held_out=st.booleans(),
    test=st.integers(0, 3),
    validation=st.integers(0, 2),
    relabel=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_row_is_lost_or_doubled(
    deal: str,
    episodic: bool,
    held_by: str,
    nodes: int,
    bases: int,
    turns: int,
    rotate_held_out: bool,
    test: int,
    validation: int,
    relabel: bool,
    seed: int,
) -> None:
    data = characters(bases, turns, rotate_held_out=rotate_held_out)
    held = HoldOut(held_by if episodic else "nodes", test, validation)
    need = EPISODIC if episodic else LOCAL
    try:
        shards = make_shards(data, PartitionSpec(DEAL[deal], nodes, need, held, relabel=relabel), seed).shards
    except Problem:
        event("refused")
        return
    parts = by_role(shards)
    rows = np.concatenate([s.row for s in shards])
    assert len(np.unique(rows)) == len(rows)
    missing = np.setdiff1d(np.arange(len(data.label)), rows)
    dropped = data.rotated[data.label[missing]]
    assert dropped.all()
    if rotate_held_out or held.source == "nodes":
        assert len(missing) == 0
    assert [s.node for s in shards] == list(range(len(shards)))
    assert parts["train"]
    for s in shards:
        np.testing.assert_array_equal(s.x, data.x[s.row])
        true = data.label[s.row] if s.labels is None else np.array(s.labels)[data.label[s.row]]
        np.testing.assert_array_equal(s.label, true)
        assert (np.diff(s.label) >= 0).all()
        counts = np.unique(s.label, return_counts=True)[1]
        assert (len(counts) >= need.classes and counts.min() >= need.rows) if episodic else len(s.label) >= need.rows
    if held.source == "classes":
        seen = [{int(data.base[data.label[r]]) for s in parts[role] for r in s.row} for role in ROLES]
        assert sum(map(len, seen)) == len(set.union(*seen))  # all turns of a base on one side
        assert (len(seen[1]), len(seen[2])) == (validation, test)
    else:
        assert (len(parts["validation"]), len(parts["test"])) == (validation, test)


@pytest.mark.parametrize("deal", DEAL)
@pytest.mark.parametrize("need", [EPISODIC, LOCAL])
def test_shards_are_a_function_of_the_seed(deal: str, need: TaskSize) -> None:
    data = characters()
    one, two, *others = (shards_of(data, deal, 3, need, seed=s) for s in (1, 1, 2, 3, 4, 5))
    assert equal(one, two)
    assert not all(equal(one, other) for other in others)


# ------------------------------------------------------------------------------------------------ held-out classes


def test_held_out_classes_have_shards_of_their_own() -> None:
    data = characters(turns=4)
    parts = by_role(shards_of(data, held=HoldOut("classes", 3, 2)))
    (test,), (validation,) = parts["test"], parts["validation"]
    assert (test.name, validation.name) == ("new classes (test)", "new classes (validation)")
    assert len(parts["train"]) == 3
    assert len(bases_of(data, [test])) == 3
    assert len(np.unique(test.label)) == 12  # in all four turns
    assert len(np.unique(validation.label)) == 8
    assert len(bases_of(data, parts["train"])) == 7


def test_turns_of_held_out_classes_may_be_dropped() -> None:
    data = characters(turns=4, rotate_held_out=False)
    parts = by_role(shards_of(data, held=HoldOut("classes", 3, 0)))
    assert len(np.unique(parts["test"][0].label)) == 3
    assert not data.rotated[parts["test"][0].label].any()
    assert data.rotated[parts["train"][0].label].any()
    held = bases_of(data, parts["test"])
    assert held.isdisjoint(bases_of(data, parts["train"]))
    assert sum(len(s.row) for s in [*parts["train"], *parts["test"]]) == (9 * 4 + 3) * 6


def test_held_out_by_name() -> None:
    data = characters(turns=2)
    parts = by_role(shards_of(data, held=HoldOut("classes", ["c3", "c5@90", "c5"], 1)))
    assert bases_of(data, parts["test"]) == {3, 5}
    nodes = by_role(shards_of(data, "natural", 3, LOCAL, HoldOut("nodes", ["Bet"], 1)))
    assert [s.name for s in nodes["test"]] == ["Bet"]
    assert len(nodes["validation"]) == 1
    assert nodes["validation"][0].name != "Bet"


def test_the_data_may_bring_their_own_split() -> None:
    role = [0] * 8 + [1, 1, 2, 2]
    data = characters(role=role)
    parts = by_role(shards_of(data, held=HoldOut("classes", None, 0)))
    assert bases_of(data, parts["test"]) == {10, 11}
    assert bases_of(data, parts["validation"]) == {8, 9}
    with pytest.raises(Problem, match="already splits its classes") as caught:
        shards_of(data, held=HoldOut("classes", 2, 0))
    assert "data.split: random" in caught.value.hint


@pytest.mark.parametrize("source", ["classes", "nodes"])
def test_a_class_without_rows_is_nobodys(source: str) -> None:
    """Synthetic data may have one: neither dealt out, nor held out, nor in the way."""
    data = characters()
    full = data.label != 4
    data = data._replace(
        x=data.x[full], label=data.label[full], groups={k: Group(g.code[full], g.names) for k, g in data.groups.items()}
    )
    for seed in range(40):
        parts = by_role(shards_of(data, need=TaskSize(True, 1, 3), held=HoldOut(source, 1, 1), seed=seed))
        assert len(parts["test"]) == len(parts["validation"]) == 1
        assert bases_of(data, [*chain(*parts.values())]) == set(range(12)) - {4}
    with pytest.raises(Problem, match="unknown class 'c4'"):
        shards_of(data, held=HoldOut("classes", ["c4"], 0))


# --------------------------------------------------------------------------------------------------- what is dealt


def test_natural_nodes_have_their_names() -> None:
    data = characters()
    shards = shards_of(data, "natural", None, EPISODIC, HoldOut("nodes", 1, 0))
    assert {s.name for s in shards} == {"Aleph", "Bet", "Gimel"}
    for s in shards:
        assert {data.groups["alphabet"].names[c] for c in data.groups["alphabet"].code[s.row]} == {s.name}
    assert [s.name for s in shards_of(data, "iid", 2, LOCAL)] == ["node-000", "node-001"]


def test_episodic_tasks_deal_whole_characters_with_all_turns() -> None:
    data = characters(turns=4)
    for s in by_role(shards_of(data, "dirichlet", need=TaskSize(True, 5, 3)))["train"]:
        bases, counts = np.unique(data.base[s.label], return_counts=True)
        assert (counts == 4 * 6).all()
        assert len(bases) >= 2  # 5 classes are 2 characters in 4 turns


def test_whole_characters_cannot_go_to_the_drawers() -> None:
    with pytest.raises(Problem, match="unknown group 'drawer'") as caught:
        make_shards(
            characters(), PartitionSpec(PARTITIONERS["natural"](by="drawer"), 2, EPISODIC, HoldOut("classes", 2, 0)), 0
        )
    assert caught.value.hint == "known: alphabet"
    assert (
        len(
            make_shards(
                characters(),
                PartitionSpec(PARTITIONERS["natural"](by="drawer"), None, LOCAL, HoldOut("nodes", 2, 0)),
                0,
            ).shards
        )
        == 6
    )


@pytest.mark.parametrize("held", [HoldOut("classes", None, 0), HoldOut("nodes", None, 0)])
def test_what_is_held_out_must_be_said(held: HoldOut) -> None:
    with pytest.raises(Problem, match=r"task\.new\.test is missing: how many of the ") as caught:
        shards_of(characters(), held=held)
    assert caught.value.where == "task.new.test"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (HoldOut("classes", 10, 2), "10 classes for test and 2 for validation leaves none of 12 to train on"),
        (HoldOut("nodes", 2, 1), "2 nodes for test and 1 for validation leaves none of 3 to train on"),
        (HoldOut("classes", ["c99"], 0), "unknown class 'c99'"),
        (HoldOut("nodes", ["nobody"], 0), "the nodes of this partition have no names"),
    ],
)
def test_what_cannot_be_held_out(held: HoldOut, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        shards_of(characters(), held=held)
    assert caught.value.code == CONFIG
    assert caught.value.hint


def test_a_node_too_poor_is_named_with_what_it_has() -> None:
    data = characters()
    with pytest.raises(
        Problem, match=r"12 of 12 classes are too small: c0 has 6 rows, .* and 7 more; a task needs 7 rows"
    ) as caught:
        shards_of(data, need=TaskSize(True, 2, 7))
    assert caught.value.hint == "lower task.shot or task.query"
    with pytest.raises(Problem, match=r"a task needs 5 classes, but new classes \(test\) has 2") as caught:
        shards_of(data, nodes=2, need=TaskSize(True, 5, 3))
    assert caught.value.where == "task.new.test"
    assert caught.value.hint == "hold out at least 5, or lower task.way to 2"
    with pytest.raises(Problem, match="3 nodes with at least 5 items each need 15"):
        shards_of(data, need=TaskSize(True, 5, 3))


# --------------------------------------------------------------------------------------------- a node's own ways


def test_relabel_gives_each_node_numbers_of_its_own() -> None:
    data = characters()
    plain, own = (shards_of(data, "iid", 4, LOCAL, relabel=r) for r in (False, True))
    assert all(s.labels is None for s in plain)
    for one, two in zip(plain, own, strict=True):
        assert sorted(two.labels) == list(range(12))
        assert sorted(one.row) == sorted(two.row)
        np.testing.assert_array_equal(two.label, np.array(two.labels)[data.label[two.row]])
        np.testing.assert_array_equal(two.x, data.x[two.row])
        assert (np.diff(two.label) >= 0).all()
    assert len({s.labels for s in own}) == 4
    assert equal(own[:1], shards_of(data, "iid", 4, LOCAL, relabel=True)[:1])


def test_rotate_turns_each_node_by_an_angle_of_its_own() -> None:
    """The picture's one bright pixel moves by the angle, anticlockwise; rows, labels and the angle's range stay."""
    image = np.zeros((21, 21), dtype=np.uint8)
    image[10, 18] = 255  # 8 to the right of the middle
    data = build("classification", np.stack([image] * 40), np.arange(40) % 2, ("a", "b"), divide=255)
    shards = shards_of(data, "iid", 8, LOCAL, rotate=120.0)
    angles = [s.angle for s in shards]
    assert len(set(angles)) == 8
    assert all(abs(a) <= 60 for a in angles)
    assert max(angles) - min(angles) > 30
    for s in shards:
        assert s.x.dtype == np.uint8
        y, x = np.unravel_index(s.x[0].argmax(), image.shape)
        assert np.degrees(np.arctan2(10 - y, x - 10)) == pytest.approx(s.angle, abs=8)
        assert (s.x == s.x[0]).all()
    plain = shards_of(data, "iid", 8, LOCAL)
    assert [s.angle for s in plain] == [0.0] * 8
    assert all(np.array_equal(a.row, b.row) for a, b in zip(plain, shards, strict=True))


def test_what_cannot_be_rotated_or_relabelled() -> None:
    with pytest.raises(Problem, match="only single-channel images"):
        shards_of(numbers(), need=LOCAL, rotate=10.0)
    with pytest.raises(Problem, match="no classes to relabel"):
        shards_of(numbers(), need=LOCAL, relabel=True)


# ------------------------------------------------------------------------------------------------ held-back rows


def table(counts: Sequence[int], nodes: int = 1, **more: object) -> Dataset:
    """`counts` rows of each class at each of some nodes (group "site"), mixed; two features name the row."""
    each = np.repeat(np.arange(len(counts)), counts)
    label, site = np.tile(each, nodes), np.repeat(np.arange(nodes), len(each))
    mix = np.random.default_rng(0).permutation(len(label))
    x = np.stack([mix, -2 * mix], axis=1).astype(np.float32)
    names = tuple(f"class {c}" for c in range(len(counts)))
    groups = {"site": Group(site[mix], tuple(f"site {i}" for i in range(nodes)))}
    return build("classification", x, label[mix], names, groups=groups, **more)


def sites(data: Dataset, test: object = 0.25, validation: float = 0, seed: int = 0, **more: object) -> list[Shard]:
    natural = PARTITIONERS["natural"](by="site")
    return make_shards(
        data, PartitionSpec(natural, None, TaskSize(False, 0, 1), HoldOut("rows", test, validation), **more), seed
    ).shards


@settings(max_examples=400, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    nodes=st.integers(1, 3),
    test=st.floats(0.01, 0.99),
    validation=st.one_of(st.just(0), st.floats(0.01, 0.7)),
    relabel=st.booleans(),
    seed=st.integers(0, 99),
)
def test_held_back_rows_are_stratified_and_nobody_elses(
    counts: list[int], nodes: int, test: float, validation: float, relabel: bool, seed: int
) -> None:
    data = table(counts, nodes)
    try:
        shards = sites(data, test, validation, seed, relabel=relabel)
    except Problem:
        event("refused")
        return
    parts = by_role(shards)
    assert np.array_equal(np.sort(np.concatenate([s.row for s in shards])), np.arange(len(data.label)))
    assert [s.node for s in shards] == list(range(len(shards)))
    assert [s.name for s in parts["train"]] == [f"site {i}" for i in range(nodes)]
    assert all(s.home is None for s in parts["train"])
    n, room = sum(counts), sum(counts) - len(counts)
    for role, fraction, left in (("test", test, room), ("validation", validation, room - len(parts["test"][0].row))):
        assert [s.home for s in parts[role]] == (list(range(nodes)) if fraction else [])
        for s in parts[role]:
            home = shards[s.home]
            assert s.name == f"{home.name} ({role})"
            assert s.labels == home.labels
            assert {*data.groups["site"].code[s.row]} == {s.home}
            assert len(s.row) == min(int(np.floor(fraction * n + 0.5)), left)
            np.testing.assert_array_equal(s.x, data.x[s.row])
            mine = np.bincount(data.label[s.row], minlength=len(counts))
            free = np.array(counts) - 1 if role == "test" else np.bincount(data.label[home.row]) + mine - 1
            assert (mine <= free).all()  # every class keeps a row in training
            quota = len(s.row) * np.array(counts) / n
            if (free >= np.ceil(quota)).all():
                assert (np.abs(mine - quota) < 1).all()


def test_held_back_rows_by_hand() -> None:
    """40 rows of class 0 and 20 of class 1: a quarter is 10 and 5; a tenth after that 4 and 2."""
    for s in sites(table([40, 20], 2), 0.25, 0.1):
        told = {"train": [26, 13], "validation": [4, 2], "test": [10, 5]}[s.role]
        assert np.bincount(s.label).tolist() == told
    assert [np.bincount(s.label).tolist() for s in sites(table([1, 1, 6]), 0.9)] == [[1, 1, 1], [0, 0, 5]]


def test_whose_turn_it_is_goes_by_lot() -> None:
    """Five rows of ten classes, and five are kept back: not always of the first five classes."""
    shards = by_role(sites(table([5] * 10, 40), 0.1))["test"]
    kept = np.sum([np.bincount(s.label, minlength=10) for s in shards], axis=0)
    assert kept.sum() == 200
    assert (kept > 8).all()  # 20 on average, with a deviation of 3


def test_held_back_rows_hang_on_the_seed_and_the_node_alone() -> None:
    one, again, other = (sites(table([20, 20], 3), seed=s) for s in (1, 1, 2))
    assert equal(one, again)
    assert not equal(one, other)
    more = by_role(sites(table([20, 20], 3), validation=0.2, seed=1))
    for a, b in zip(by_role(one)["test"], more["test"], strict=True):
        np.testing.assert_array_equal(a.row, b.row)
    assert len(more["validation"]) == 3


def test_a_split_of_rows_that_the_data_bring() -> None:
    role = np.tile(np.array([0, 0, 0, 2], dtype=np.int8), 15)
    data = table([10, 10], 3, row_role=role)
    parts = by_role(sites(data, None))
    np.testing.assert_array_equal(np.sort(np.concatenate([s.row for s in parts["test"]])), np.arange(3, 60, 4))
    assert parts["validation"] == []
    parts = by_role(sites(data, None, 0.2))
    np.testing.assert_array_equal(np.sort(np.concatenate([s.row for s in parts["test"]])), np.arange(3, 60, 4))
    assert [len(s.row) for s in parts["validation"]] == [4, 4, 4]
    three = data._replace(row_role=np.tile(np.array([0, 0, 1, 2], dtype=np.int8), 15))
    parts = by_role(sites(three, None))
    np.testing.assert_array_equal(np.sort(np.concatenate([s.row for s in parts["validation"]])), np.arange(2, 60, 4))
    for wrong in ({"test": 0.2}, {"test": None, "validation": 0.2}):
        with pytest.raises(Problem, match="already splits its rows"):
            sites(three, **wrong)
    with pytest.raises(Problem, match="1 of 3 nodes is too small: site 1 has 20 rows for training and 0 for testing"):
        sites(data._replace(row_role=np.where(data.groups["site"].code == 1, 0, role).astype(np.int8)), None)
    with pytest.raises(Problem, match="site 1 has 0 rows for training and 20 for testing"):
        sites(data._replace(row_role=np.where(data.groups["site"].code == 1, 2, role).astype(np.int8)), None)


@pytest.mark.parametrize(
    ("test", "validation", "message"),
    [
        (None, 0, "`test` is missing; with `from: rows` it must be a number between 0 and 1"),
        (3, 0, "`test: 3` is not a fraction"),
        (["site 0"], 0, ".'site 0'.` is not a fraction"),
        (0.0, 0, "`test: 0.0` is not"),
        (1.0, 0, "`test: 1.0` is not"),
        (0.2, 3, "`validation: 3` is not a fraction"),
        (0.2, -0.1, "`validation: -0.1` is not"),
        (float("nan"), 0, "`test: nan` is not"),
        (0.5, 0.5, "0.5 of the rows for test and 0.5 for validation leaves none"),
    ],
)
def test_fractions_that_make_no_sense(test: object, validation: float, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        sites(table([10, 10]), test, validation)
    assert caught.value.code == CONFIG
    assert caught.value.where.startswith("task.new")
    assert caught.value.hint


def test_held_out_what_and_how_much_must_fit() -> None:
    data, iid = table([10, 10], 3), DEAL["iid"]
    own = table([10, 10], 3, row_role=np.zeros(60, dtype=np.int8))
    role = build("classification", data.x, data.label, data.classes, role=np.array([0, 2], dtype=np.int8))
    for rows, need, held, message in [
        (data, LOCAL, HoldOut("nodes", 0.5, 0), "nodes are held out by number or name"),
        (data, LOCAL, HoldOut("nodes", 1, 0.5), "nodes are held out by number or name"),
        (data, EPISODIC, HoldOut("rows", 0.5, 0), "a new episodic task needs new classes"),
        (own, LOCAL, HoldOut("nodes", 1, 0), "own split holds out rows, not nodes"),
        (role, LOCAL, HoldOut("rows", 0.5, 0), "holds out classes; from: rows holds out none"),
    ]:
        with pytest.raises(Problem, match=message) as caught:
            make_shards(rows, PartitionSpec(iid, 3, need, held), 0)
        assert caught.value.code == CONFIG


def test_as_many_rows_are_needed_as_leave_enough() -> None:
    """By trying: every number of rows from there on leaves enough, and (for one part) hardly a smaller one does."""
    data, spare = table([2]), 0
    for test in np.arange(1, 97) / 100:
        for validation in (0, 0.03, 0.1, 0.25):
            for least in (1, 2, 3, 7, 16) if test + validation < 1 else ():
                rows = np.arange(1, 2000)
                parts = [np.floor(fraction * rows + 0.5) for fraction in (test, validation) if fraction]
                enough = (rows - sum(parts) >= least) & (np.array(parts) >= 1).all(0)
                needed = rows_needed(data, HoldOut("rows", float(test), validation), least)
                assert enough[needed - 1 :].all(), (test, validation, least)
                spare += validation == 0 and enough[needed - 2]
    assert spare <= 5


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(20, 200),
    nodes=st.integers(1, 8),
    least=st.integers(1, 9),
    test=st.one_of(st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5]), st.floats(0.05, 0.6)),
    validation=st.one_of(st.just(0), st.sampled_from([0.1, 0.2, 0.3]), st.floats(0.05, 0.3)),
    seed=st.integers(0, 9),
)
def test_nodes_are_dealt_enough_to_train_after_some_is_kept_back(
    rows: int, nodes: int, least: int, test: float, validation: float, seed: int
) -> None:
    """Of one class, so that stratifying takes nothing away: the partitioner refuses, or every node has enough."""
    data, need = table([rows]), TaskSize(False, 0, least)
    try:
        shards = make_shards(
            data, PartitionSpec(DEAL["dirichlet"], nodes, need, HoldOut("rows", test, validation)), seed
        ).shards
    except Problem as problem:
        assert "items each need" in problem.message  # noqa: PT017
        return
    assert min(len(s.row) for s in shards if s.role == "train") >= least


def test_held_back_rows_have_the_angle_and_the_numbers_of_their_home() -> None:
    image = np.zeros((21, 21), dtype=np.uint8)
    image[10, 18] = 255
    data = build("classification", np.stack([image] * 80), np.arange(80) % 4, tuple("abcd"), divide=255)
    shards = make_shards(
        data, PartitionSpec(DEAL["iid"], 5, LOCAL, HoldOut("rows", 0.3, 0.2), rotate=120.0, relabel=True), 0
    ).shards
    assert len(shards) == 15
    assert len({s.angle for s in shards}) == 5
    for s in shards[5:]:
        home = shards[s.home]
        assert (s.angle, s.labels) == (home.angle, home.labels)
        assert (s.x == home.x[0]).all()
        np.testing.assert_array_equal(s.label, np.array(home.labels)[data.label[s.row]])
        assert (np.diff(s.label) >= 0).all()


# ------------------------------------------------------------------------------------------------------- scaling


def test_scaling_by_hand() -> None:
    """Column 0 is 0, 1, 2 and 10, 20, 30 in training (deviations 1 and 10), column 1 is constant at each site."""
    x = np.array([[0, 5], [1, 5], [2, 5], [7, 6], [10, 8], [20, 8], [30, 8], [5, 8]], dtype=np.float32)
    role = np.array([0, 0, 0, 2, 0, 0, 0, 2], dtype=np.int8)
    site = Group(np.repeat([0, 1], 4), ("one", "two"))
    data = build("classification", x, np.zeros(8, dtype=np.int64), ("a",), groups={"site": site}, row_role=role)
    shards = sites(data, None, scale="node")
    told = [[[-1, 0], [0, 0], [1, 0]], [[-1, 0], [0, 0], [1, 0]], [[6, 1]], [[-1.5, 0]]]
    for s, values in zip(shards, told, strict=True):
        np.testing.assert_allclose(s.x, values, rtol=1e-6)
        assert s.x.dtype == np.float32
    pooled = sites(data, None, scale="train")
    train = x[role == 0].astype(float)
    for s in pooled:
        np.testing.assert_allclose(s.x, (x[s.row] - train.mean(0)) / train.std(0, ddof=1), rtol=1e-6)
    assert equal(sites(data, None), sites(data, None, scale="none"))


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(2, 20), min_size=1, max_size=4),
    nodes=st.integers(2, 4),
    source=st.sampled_from(["nodes", "rows"]),
    scale=st.sampled_from(["node", "train"]),
    centre=st.floats(-1e4, 1e4),
    relabel=st.booleans(),
    seed=st.integers(0, 99),
)
def test_scaled_training_rows_have_mean_0_and_deviation_1(
    counts: list[int], nodes: int, source: str, scale: str, centre: float, relabel: bool, seed: int
) -> None:
    data = table([c + 2 for c in counts], nodes)
    noise = np.random.default_rng(seed).normal(centre, 3, (len(data.label), 3))
    noise[:, 2] = 0.1
    data = data._replace(x=noise.astype(np.float32), preprocessing=data.preprocessing.changed(shape=(3,)))
    held = HoldOut("rows", 0.2, 0.1) if source == "rows" else HoldOut("nodes", 1, 0)
    natural = PARTITIONERS["natural"](by="site")
    try:
        shards, plain = (
            make_shards(data, PartitionSpec(natural, None, LOCAL, held, relabel=relabel, scale=s), seed).shards
            for s in (scale, "none")
        )
    except Problem:
        event("refused")
        return
    train = [s.x for s in shards if s.role == "train"]
    for x in train if scale == "node" else [np.concatenate(train)]:
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(x[:, :2].std(0, ddof=1), 1, atol=1e-3)
    for s, raw in zip(shards, plain, strict=True):
        np.testing.assert_array_equal(s.row, raw.row)
        np.testing.assert_array_equal(s.x[:, 2], 0)
        if s.role == "train":
            continue
        # what is held out is scaled by its home, by itself as a node, or by all that trains: never by other held-out
        mine = [raw] if s.home is None else [plain[s.home]]
        by = np.concatenate(
            [t.x for t in (plain if scale == "train" else mine) if scale == "node" or t.role == "train"]
        )
        by = by.astype(float)[:, :2]
        np.testing.assert_allclose(s.x[:, :2], (raw.x[:, :2] - by.mean(0)) / by.std(0, ddof=1), atol=1e-4, rtol=1e-4)


def test_a_single_training_row_is_only_centred() -> None:
    data = table([2])
    train, test = sites(data, 0.5, scale="node")
    np.testing.assert_array_equal(train.x, [[0, 0]])
    np.testing.assert_array_equal(test.x, data.x[test.row] - data.x[train.row])


def test_images_are_not_scaled() -> None:
    pixels = build("classification", np.zeros((9, 8), dtype=np.uint8), np.arange(9) % 3, ("a", "b", "c"), divide=255)
    images = build("classification", np.zeros((9, 1, 8, 8), dtype=np.float32), np.arange(9) % 3, ("a", "b", "c"))
    for data in (images, pixels):
        with pytest.raises(Problem, match="not images") as caught:
            shards_of(data, need=LOCAL, scale="node")
        assert (caught.value.where, caught.value.code) == ("partition.scale", CONFIG)


# ------------------------------------------------------------------------------------------------------------ pool


def test_a_pool_knows_where_everything_lies() -> None:
    data = characters(turns=2)
    shards = by_role(shards_of(data, "dirichlet", 4))["train"]
    shards = [shards[2], shards[0]]
    rows = pool(shards, 5.0)
    assert rows.divide == 5.0
    assert rows.nodes.tolist() == [shards[0].node, shards[1].node]
    for i, s in enumerate(shards):
        mine = slice(rows.row_start[i], rows.row_start[i] + rows.row_count[i])
        np.testing.assert_array_equal(rows.x[mine].numpy(), s.x)
        np.testing.assert_array_equal(rows.y[mine].numpy(), s.label)
        table = slice(rows.class_start[i], rows.class_start[i] + rows.class_count[i])
        assert rows.rows[table].sum() == rows.row_count[i]
        labels = [set(rows.y[a : a + n].tolist()) for a, n in zip(rows.first_row[table], rows.rows[table], strict=True)]
        assert labels == [{c} for c in np.unique(s.label)]


def test_a_pool_of_a_regression_has_its_targets() -> None:
    data = numbers()
    shards = shards_of(data, need=LOCAL)
    rows = pool(shards, 1.0)
    np.testing.assert_array_equal(rows.y.numpy(), data.target[np.concatenate([s.row for s in shards])])


def test_take_leaves_the_rows_and_picks_the_nodes() -> None:
    rows = pool(by_role(shards_of(characters(), "iid", 4, LOCAL))["train"], 1.0)
    some = rows.take(np.array([2, 0]))
    assert some.x is rows.x
    assert some.nodes.tolist() == [rows.nodes[2], rows.nodes[0]]
    assert some.row_start.tolist() == [rows.row_start[2], rows.row_start[0]]


def test_rows_are_counted_not_claimed() -> None:
    data = characters(bases=12, turns=4, rows=6, rotate_held_out=False)
    shards = make_shards(data, PartitionSpec(DEAL["iid"], 3, EPISODIC, HoldOut("classes", 3, 0)), 0).shards
    rows = Partitioned(shards, []).account(data)
    assert rows["left_out"] == 3 * 3 * 6  # three turned copies of each of three held-out characters
    assert (rows["lost"], rows["duplicated"]) == (0, 0)
    assert rows["train"] + rows["test"] + rows["left_out"] == rows["total"] == len(data.label)
    short = shards[0]._replace(row=shards[0].row[2:])
    assert Partitioned([short, *shards[1:]], []).account(data)["lost"] == 2
    assert Partitioned([*shards, shards[0]], []).account(data)["duplicated"] == len(shards[0].row)


def test_held_out_nodes_and_a_split_of_classes_exclude_each_other() -> None:
    data = characters(role=[0] * 8 + [2] * 4)
    with pytest.raises(Problem, match="split"):
        make_shards(data, PartitionSpec(DEAL["iid"], 3, EPISODIC, HoldOut("nodes", 1, 0)), 0)
