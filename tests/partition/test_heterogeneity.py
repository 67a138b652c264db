"""How unlike the nodes are: against scipy, dense arithmetic, counts by hand and simulated deals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner import manifest
from scipy import stats

from metadist_cli.core.files import from_json, to_json
from metadist_cli.data.types import Dataset, Group, build
from metadist_cli.partition.held_out import HoldOut
from metadist_cli.partition.heterogeneity import (
    Composition,
    label_skew,
    of_manifest,
    of_shards,
    per_node,
    summary,
    with_skew,
)
from metadist_cli.partition.partitioners import PARTITIONERS
from metadist_cli.partition.shards import PartitionSpec, Shard, TaskSize, make_shards

ROLES = ("train", "validation", "test")


def tables(nodes: int = 6, kinds: int = 5) -> st.SearchStrategy[np.ndarray]:
    """Rows by node and class, no node empty."""
    row = st.lists(st.integers(0, 9), min_size=kinds, max_size=kinds).filter(any)
    return st.lists(row, min_size=1, max_size=nodes).map(np.array)


# ----------------------------------------------------------------------------------------------------- by hand


def test_by_hand() -> None:
    """8 rows are trained on, 3 + 3 + 1 + 1; a node of two kinds, one of one, and a new one of a kind nobody has."""
    held = of_manifest(manifest([[2, 2, 0, 0], [1, 1, 2, 0], [0, 0, 0, 5]], "tts"))
    skew = label_skew(held)
    assert skew.entropy.tolist() == [1, 1.5, 0]
    # Of all that train 3/8, 3/8, 2/8: the first node has 1/8 more of either of the first two.
    assert skew.distance.tolist() == [0.25, 0.25, 1]
    assert summary(held, skew)["train"] | {"chance": None} == {
        **{"nodes": 2, "rows": [4, 4, 4], "classes": [2, 2, 3], "entropy": 1.25, "distance": 0.25, "chance": None}
    }
    assert list(summary(held, skew)) == ["train", "test"]
    assert per_node(held, skew)[1] == {
        **{"node": 1, "name": "node-001", "role": "train", "rows": 4, "classes": 3, "entropy": 1.5, "distance": 0.25}
    }


def test_means_are_over_rows() -> None:
    held = of_manifest(manifest([[9, 9], [2, 0]]))
    assert summary(held, label_skew(held))["train"]["entropy"] == 0.9
    assert summary(held, label_skew(held))["train"]["rows"] == [2, 10, 18]


@settings(max_examples=200, deadline=None)
@given(tables(), st.data())
def test_against_dense_arithmetic(table: np.ndarray, data: st.DataObject) -> None:
    roles = "t" + data.draw(st.text("tvs", min_size=len(table) - 1, max_size=len(table) - 1))
    skew = label_skew(of_manifest(manifest(table, roles)))
    share = table / table.sum(1, keepdims=True)
    trained = table[[role == "t" for role in roles]].sum(0)
    np.testing.assert_allclose(skew.entropy, stats.entropy(share, base=2, axis=1), atol=1e-12)
    np.testing.assert_allclose(skew.distance, np.abs(share - trained / trained.sum()).sum(1) / 2, atol=1e-12)
    assert (skew.entropy >= 0).all()
    assert not np.signbit(skew.entropy).any()
    if len(table) == 1:
        assert skew.distance.tolist() == [0]
        assert skew.chance.tolist() == [0]


# ---------------------------------------------------------------------------------------------------- by chance


@pytest.mark.parametrize(
    ("whole", "rows"),
    [
        ([500, 300, 150, 49, 1], [10, 60, 200, 730]),
        ([100] * 10, [5, 5, 20, 70, 900]),
        ([999, 1], [1, 499, 500]),
        ([40] * 50, [20] * 100),
    ],
)
def test_chance_is_what_dealing_at_random_gives(whole: list[int], rows: list[int]) -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(len(whole)), whole)
    owner = np.repeat(np.arange(len(rows)), rows)
    seen = np.zeros((600, len(rows)))
    for trial in seen:
        table = np.zeros((len(rows), len(whole)), dtype=np.int64)
        np.add.at(table, (owner, rng.permutation(label)), 1)
        skew = label_skew(of_manifest(manifest(table)))
        trial[:] = skew.distance
    mean, error = seen.mean(0), seen.std(0) / np.sqrt(len(seen))
    assert (np.abs(skew.chance - mean) < 5 * error + 0.02 * mean + 0.002).all()


def test_chance_of_a_new_node() -> None:
    """Fifty rows from the population that four hundred training rows came from."""
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(600):
        skew = label_skew(of_manifest(manifest(rng.multinomial([400, 50], [0.5, 0.3, 0.1, 0.1]), "ts")))
        seen.append([skew.distance[1], skew.chance[1]])
    distance, chance = np.mean(seen, axis=0)
    assert chance == pytest.approx(distance, rel=0.03)


def test_chance_of_many_sizes_is_that_of_each() -> None:
    """Above some hundred different sizes most lie between those that are reckoned."""
    share = np.array([0.6, 0.3, 0.09, 0.01])
    rows = np.unique(np.geomspace(3, 100_000, 3000).astype(int))
    table = np.maximum((rows[:, None] * share).round().astype(int), [[1, 1, 0, 0]])
    held = of_manifest(manifest(table))
    told = label_skew(held).chance
    whole = table.sum(0) / table.sum()
    for i in range(0, len(rows), 50):
        n = int(held.rows[i])
        off = sum((np.abs(np.arange(n + 1) / n - p) * stats.binom(n, p).pmf(np.arange(n + 1))).sum() for p in whole)
        assert told[i] == pytest.approx(off / 2 * np.sqrt(1 - n / table.sum()), rel=5e-3), n


# -------------------------------------------------------------------------------------- from shards and manifests


def digits(rows: int = 300) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (rows, 4, 4)).astype(np.uint8)
    return build("classification", x, rng.integers(0, 5, rows), tuple("abcde"), divide=16)


def houses(rows: int = 400, values: Any = None) -> Dataset:
    rng = np.random.default_rng(0)
    site = rng.integers(0, 4, rows)
    price = rng.gamma(2, 1000, rows) * (1 + site) if values is None else rng.choice(values, rows)
    names = tuple(f"site {i}" for i in range(4))
    return build(
        "regression",
        rng.normal(size=(rows, 3)).astype(np.float32),
        np.zeros(rows, dtype=np.int64),
        ("price",),
        target=price[:, None].astype(np.float32),
        groups={"site": Group(site, names)},
    )


def written(shards: list[Shard], data: Dataset) -> dict[str, Any]:
    """The manifest as the store makes it, through a file."""
    from metadist_cli.storage.shard_files import _entries

    entries = list(_entries(shards, "file"))
    held = of_shards(shards, data)
    found = with_skew({"classes": list(data.classes), "nodes": entries}, held, label_skew(held))
    return from_json(to_json(found).encode(), "manifest")


def equal(one: Composition, two: Composition) -> None:
    for name, a, b in zip(Composition._fields, one, two, strict=True):
        if name in ("kind", "count"):
            order = (np.lexsort([h.kind, h.node]) for h in (one, two))
            a, b = (getattr(h, name)[o] for h, o in zip((one, two), order, strict=True))
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("more", [{}, {"relabel": True}, {"rotate": 90.0}])
@pytest.mark.parametrize("held", [HoldOut("nodes", 2, 1), HoldOut("rows", 0.2, 0.2)])
def test_shards_and_their_manifest_say_the_same(held: HoldOut, more: dict[str, Any]) -> None:
    data = digits()
    shards = make_shards(
        data, PartitionSpec(PARTITIONERS["dirichlet"](alpha=0.3), 7, TaskSize(False, 0, 4), held, **more), 0
    ).shards
    one, two = of_shards(shards, data), of_manifest(written(shards, data))
    equal(one, two)
    assert [n["entropy"] for n in written(shards, data)["nodes"]] == [
        n["entropy"] for n in per_node(two, label_skew(two))
    ]
    table = np.zeros((len(shards), 5), dtype=np.int64)
    table[one.node, one.kind] = one.count
    np.testing.assert_array_equal(table, [np.bincount(data.label[s.row], minlength=5) for s in shards])


def test_a_nodes_own_numbers_change_nothing() -> None:
    """Who has what is told by the true classes."""
    data, deal = digits(), PARTITIONERS["dirichlet"](alpha=0.3)
    plain, own = (
        make_shards(data, PartitionSpec(deal, 7, TaskSize(False, 0, 4), HoldOut("nodes", 2, 0), relabel=r), 0).shards
        for r in (False, True)
    )
    a, b = of_manifest(written(plain, data)), of_manifest(written(own, data))
    assert (a.renumbered, b.renumbered) == (False, True)
    equal(a, b._replace(renumbered=False))


def test_new_classes_have_nothing_in_common_with_training() -> None:
    data = digits()
    shards = make_shards(
        data, PartitionSpec(PARTITIONERS["iid"](), 2, TaskSize(True, 1, 3), HoldOut("classes", 1, 0)), 0
    ).shards
    held = of_shards(shards, data)
    assert held.name[-1] == "new classes (test)"
    assert label_skew(held).distance[-1] == 1
    equal(held, of_manifest(written(shards, data)))


def test_a_regression_is_told_by_tenths_of_its_targets() -> None:
    data = houses()
    shards = make_shards(
        data, PartitionSpec(PARTITIONERS["natural"](by="site"), None, TaskSize(False, 0, 4), HoldOut("nodes", 1, 0)), 0
    ).shards
    held = of_shards(shards, data)
    assert held.bins
    assert len(held.kinds) == 10
    assert held.classes.tolist() == [1] * 4
    equal(held, of_manifest(written(shards, data)))
    trained = held.role[held.node] == "train"
    tenths = np.bincount(held.kind[trained], weights=held.count[trained])
    assert np.ptp(tenths) <= 1 + len(data.label) % 10
    price = data.target[np.concatenate([s.row for s in shards if s.role == "train"]), 0]
    by_hand = [f"{float(f'{q:.3g}'):,.10g}" for q in np.quantile(price, [0.1, 0.2, 0.9])]
    assert held.kinds[:2] == (f"to {by_hand[0]}", f"{by_hand[0]} to {by_hand[1]}")
    assert held.kinds[-1] == f"above {by_hand[2]}"
    assert "e" not in "".join(held.kinds).replace("above", "")
    skew = label_skew(held)
    assert skew.distance[0] > 3 * skew.chance[0], "the cheapest site"


@pytest.mark.parametrize(
    ("values", "kinds"), [([0, 1, 2], ("to 0", "0 to 1", "above 1")), ([7.5], ("all",)), ([0, 1], ("to 0", "above 0"))]
)
def test_few_different_targets_are_told_apart(values: list[float], kinds: tuple[str, ...]) -> None:
    data = houses(values=values)
    shards = make_shards(
        data, PartitionSpec(PARTITIONERS["iid"](), 4, TaskSize(False, 0, 4), HoldOut("nodes", 1, 0)), 0
    ).shards
    held = of_shards(shards, data)
    assert held.kinds == kinds
    counted = np.bincount(held.kind, weights=held.count)
    assert counted.tolist() == [np.sum(data.target == value) for value in values]
