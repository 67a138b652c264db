"""From a data set to nodes: nothing lost, nothing doubled, nothing of a new task in training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from metadist_cli.datasets.types import Dataset, Group, build
from metadist_cli.errors import CONFIG, Problem
from metadist_cli.holdout import ROLES, Held
from metadist_cli.partitioners import PARTITIONERS
from metadist_cli.shards import Need, Shard, account, make_shards, pool

LOCAL, EPISODIC = Need(False, 0, 2), Need(True, 2, 3)
DEAL = {
    "iid": PARTITIONERS["iid"](),
    "dirichlet": PARTITIONERS["dirichlet"](alpha=0.3),
    "by_class": PARTITIONERS["by_class"](),
    "natural": PARTITIONERS["natural"](by="alphabet"),
}


def characters(
    bases: int = 12, turns: int = 1, rows: int = 6, turn_held_out: bool = True, role: Sequence[int] | None = None
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
        turned=np.arange(classes) >= bases,
        turn_held_out=turn_held_out,
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
    need: Need = EPISODIC,
    held: Held | None = None,
    **more: object,
) -> list[Shard]:
    held = held or Held("classes" if need.episodic else "nodes", 2 if need.episodic else 1, 0)
    return make_shards(data, DEAL[deal], nodes, need, held, **{"seed": 0} | more)


def bases_of(data: Dataset, shards: list[Shard]) -> set[int]:
    return {int(b) for s in shards for b in data.base[s.label]}


def by_role(shards: list[Shard]) -> dict[str, list[Shard]]:
    return {role: [s for s in shards if s.role == role] for role in ROLES}


def equal(one: list[Shard], two: list[Shard]) -> bool:
    return len(one) == len(two) and all(
        (a.node, a.name, a.role, a.angle, a.labels) == (b.node, b.name, b.role, b.angle, b.labels)
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
    turn_held_out=st.booleans(),
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
    turn_held_out: bool,
    test: int,
    validation: int,
    relabel: bool,
    seed: int,
) -> None:
    data = characters(bases, turns, turn_held_out=turn_held_out)
    held = Held(held_by if episodic else "nodes", test, validation)
    need = EPISODIC if episodic else LOCAL
    try:
        shards = make_shards(data, DEAL[deal], nodes, need, held, seed, relabel=relabel)
    except Problem:
        event("refused")
        return
    parts = by_role(shards)
    rows = np.concatenate([s.row for s in shards])
    assert len(np.unique(rows)) == len(rows)
    missing = np.setdiff1d(np.arange(len(data.label)), rows)
    dropped = data.turned[data.label[missing]]
    assert dropped.all()
    if turn_held_out or held.source == "nodes":
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
def test_shards_are_a_function_of_the_seed(deal: str, need: Need) -> None:
    data = characters()
    one, two, *others = (shards_of(data, deal, 3, need, seed=s) for s in (1, 1, 2, 3, 4, 5))
    assert equal(one, two)
    assert not all(equal(one, other) for other in others)


# ------------------------------------------------------------------------------------------------ held-out classes


def test_held_out_classes_have_shards_of_their_own() -> None:
    data = characters(turns=4)
    parts = by_role(shards_of(data, held=Held("classes", 3, 2)))
    (test,), (validation,) = parts["test"], parts["validation"]
    assert (test.name, validation.name) == ("new classes (test)", "new classes (validation)")
    assert len(parts["train"]) == 3
    assert len(bases_of(data, [test])) == 3
    assert len(np.unique(test.label)) == 12  # in all four turns
    assert len(np.unique(validation.label)) == 8
    assert len(bases_of(data, parts["train"])) == 7


def test_turns_of_held_out_classes_may_be_dropped() -> None:
    data = characters(turns=4, turn_held_out=False)
    parts = by_role(shards_of(data, held=Held("classes", 3, 0)))
    assert len(np.unique(parts["test"][0].label)) == 3
    assert not data.turned[parts["test"][0].label].any()
    assert data.turned[parts["train"][0].label].any()
    held = bases_of(data, parts["test"])
    assert held.isdisjoint(bases_of(data, parts["train"]))
    assert sum(len(s.row) for s in [*parts["train"], *parts["test"]]) == (9 * 4 + 3) * 6


def test_held_out_by_name() -> None:
    data = characters(turns=2)
    parts = by_role(shards_of(data, held=Held("classes", ["c3", "c5@90", "c5"], 1)))
    assert bases_of(data, parts["test"]) == {3, 5}
    nodes = by_role(shards_of(data, "natural", 3, LOCAL, Held("nodes", ["Bet"], 1)))
    assert [s.name for s in nodes["test"]] == ["Bet"]
    assert len(nodes["validation"]) == 1
    assert nodes["validation"][0].name != "Bet"


def test_the_data_may_bring_their_own_split() -> None:
    role = [0] * 8 + [1, 1, 2, 2]
    data = characters(role=role)
    parts = by_role(shards_of(data, held=Held("classes", None, 0)))
    assert bases_of(data, parts["test"]) == {10, 11}
    assert bases_of(data, parts["validation"]) == {8, 9}
    with pytest.raises(Problem, match="brings its own split") as caught:
        shards_of(data, held=Held("classes", 2, 0))
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
        parts = by_role(shards_of(data, need=Need(True, 1, 3), held=Held(source, 1, 1), seed=seed))
        assert len(parts["test"]) == len(parts["validation"]) == 1
        assert bases_of(data, [*chain(*parts.values())]) == set(range(12)) - {4}
    with pytest.raises(Problem, match="there is no class 'c4'"):
        shards_of(data, held=Held("classes", ["c4"], 0))


# --------------------------------------------------------------------------------------------------- what is dealt


def test_natural_nodes_have_their_names() -> None:
    data = characters()
    shards = shards_of(data, "natural", None, EPISODIC, Held("nodes", 1, 0))
    assert {s.name for s in shards} == {"Aleph", "Bet", "Gimel"}
    for s in shards:
        assert {data.groups["alphabet"].names[c] for c in data.groups["alphabet"].code[s.row]} == {s.name}
    assert [s.name for s in shards_of(data, "iid", 2, LOCAL)] == ["node-000", "node-001"]


def test_episodic_tasks_deal_whole_characters_with_all_turns() -> None:
    data = characters(turns=4)
    for s in by_role(shards_of(data, "dirichlet", need=Need(True, 5, 3)))["train"]:
        bases, counts = np.unique(data.base[s.label], return_counts=True)
        assert (counts == 4 * 6).all()
        assert len(bases) >= 2  # 5 classes are 2 characters in 4 turns


def test_whole_characters_cannot_go_to_the_drawers() -> None:
    with pytest.raises(Problem, match="no group 'drawer'") as caught:
        make_shards(characters(), PARTITIONERS["natural"](by="drawer"), 2, EPISODIC, Held("classes", 2, 0), 0)
    assert caught.value.hint == "groups here: alphabet"
    assert (
        len(make_shards(characters(), PARTITIONERS["natural"](by="drawer"), None, LOCAL, Held("nodes", 2, 0), 0)) == 6
    )


@pytest.mark.parametrize("held", [Held("classes", None, 0), Held("nodes", None, 0)])
def test_what_is_held_out_must_be_said(held: Held) -> None:
    with pytest.raises(Problem, match="is not said") as caught:
        shards_of(characters(), held=held)
    assert caught.value.where == "task.new.test"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (Held("classes", 10, 2), "10 classes for test and 2 for validation leave none of 12 to train on"),
        (Held("nodes", 2, 1), "2 nodes for test and 1 for validation leave none of 3 to train on"),
        (Held("classes", ["c99"], 0), "there is no class 'c99'"),
        (Held("nodes", ["nobody"], 0), "there is no node 'nobody'"),
    ],
)
def test_what_cannot_be_held_out(held: Held, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        shards_of(characters(), held=held)
    assert caught.value.code == CONFIG
    assert caught.value.hint


def test_a_node_too_poor_is_named_with_what_it_has() -> None:
    data = characters()
    with pytest.raises(
        Problem, match="a task needs 2 classes of 7 rows, node-000 has 4 classes of 6 to 6 rows"
    ) as caught:
        shards_of(data, need=Need(True, 2, 7))
    assert caught.value.where == "node 0"
    assert "task.shot" in caught.value.hint
    with pytest.raises(
        Problem, match=r"a task needs 5 classes of 3 rows, new classes \(test\) has 2 classes"
    ) as caught:
        shards_of(data, nodes=2, need=Need(True, 5, 3))
    assert caught.value.where == "node 2"
    with pytest.raises(Problem, match="3 nodes need at least 5 each"):
        shards_of(data, need=Need(True, 5, 3))


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


def test_what_cannot_be_turned_or_renumbered() -> None:
    with pytest.raises(Problem, match="only images"):
        shards_of(numbers(), need=LOCAL, rotate=10.0)
    with pytest.raises(Problem, match="no classes to renumber"):
        shards_of(numbers(), need=LOCAL, relabel=True)


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
    data = characters(bases=12, turns=4, rows=6, turn_held_out=False)
    shards = make_shards(data, DEAL["iid"], 3, EPISODIC, Held("classes", 3, 0), 0)
    rows = account(data, shards)
    assert rows["left_out"] == 3 * 3 * 6  # three turned copies of each of three held-out characters
    assert (rows["lost"], rows["duplicated"]) == (0, 0)
    assert rows["train"] + rows["test"] + rows["left_out"] == rows["total"] == len(data.label)
    short = shards[0]._replace(row=shards[0].row[2:])
    assert account(data, [short, *shards[1:]])["lost"] == 2
    assert account(data, [*shards, shards[0]])["duplicated"] == len(shards[0].row)


def test_held_out_nodes_and_a_split_of_classes_exclude_each_other() -> None:
    data = characters(role=[0] * 8 + [2] * 4)
    with pytest.raises(Problem, match="split"):
        make_shards(data, DEAL["iid"], 3, EPISODIC, Held("nodes", 1, 0), 0)
