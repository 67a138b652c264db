"""Partitioners: every item once, enough for every node, and the distributions that they promise."""

from __future__ import annotations

import inspect
import itertools
import typing

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from scipy import stats

from metadist_cli.datasets.types import Group
from metadist_cli.errors import CONFIG, Problem
from metadist_cli.partitioners import PARTITIONERS, Items, Partitioner
from metadist_cli.seeds import numpy_generator


def items(label: typing.Any, **groups: typing.Any) -> Items:
    made = {}
    for name, code in groups.items():
        code = np.asarray(code, dtype=np.int64)
        made[name] = Group(code, tuple(f"{name}-{i}" for i in range(code.max(initial=0) + 1)))
    return Items(np.asarray(label, dtype=np.int64), made)


def rng(*parts: object) -> np.random.Generator:
    return numpy_generator("test", *parts)


def counts(dealt: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """(N, L) items of each label at each node."""
    return np.stack([np.bincount(label[d], minlength=label.max() + 1) for d in dealt])


FREE = [PARTITIONERS["iid"](), *(PARTITIONERS["dirichlet"](alpha=a) for a in (1e-9, 1e-4, 0.01, 0.3, 100.0, 1e6))]
WHOLE = [PARTITIONERS["by_class"](), PARTITIONERS["natural"](by="user")]  # may refuse for the sake of their promise


@st.composite
def deals(draw: st.DrawFn) -> tuple[Items, int, int, int]:
    m = draw(st.integers(1, 200))
    label = draw(st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=m, max_size=m))
    user = draw(st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=m, max_size=m))
    return items(label, user=user), draw(st.integers(1, 30)), draw(st.integers(0, 6)), draw(st.integers(0, 9))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FREE + WHOLE), deals())
def test_every_item_once_and_enough_for_each(deal: Partitioner, drawn: tuple[Items, int, int, int]) -> None:
    what, nodes, minimum, seed = drawn
    if len(what.label) < nodes * minimum:
        with pytest.raises(Problem):
            deal(what, nodes, minimum, rng(seed))
        return
    try:
        dealt = deal(what, nodes, minimum, rng(seed))
    except Problem:
        if deal in WHOLE:
            return
        raise
    assert len(dealt) == nodes
    assert min(map(len, dealt)) >= minimum
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(len(what.label)))
    for one in dealt:
        assert one.dtype == np.int64
        assert (np.diff(one) > 0).all()
    again = deal(what, nodes, minimum, rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))


@pytest.mark.parametrize("name", ["iid", "dirichlet"])
def test_the_generator_decides(name: str) -> None:
    what = items(np.arange(600) % 5)
    one, two = (np.concatenate(PARTITIONERS[name]()(what, 6, 1, rng(seed))) for seed in (0, 1))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("name", PARTITIONERS)
def test_options_have_help(name: str) -> None:
    hints = typing.get_type_hints(PARTITIONERS[name], include_extras=True)
    for option in inspect.signature(PARTITIONERS[name]).parameters.values():
        assert option.kind is option.KEYWORD_ONLY
        assert any(isinstance(m, FieldInfo) and m.description for m in typing.get_args(hints[option.name])[1:])


@pytest.mark.parametrize("name", ["iid", "dirichlet", "by_class"])
def test_impossible_requests(name: str) -> None:
    deal = PARTITIONERS[name]()
    with pytest.raises(Problem, match="1,000 nodes need at least 20 each, 20,000 in all; there are 1,797") as caught:
        deal(items(np.arange(1797) % 10), 1000, 20, rng())
    assert "at most 89 nodes" in caught.value.hint
    assert caught.value.code == CONFIG
    deal(items(np.zeros(1797)), 89, 20, rng())  # the remedy works
    with pytest.raises(Problem, match="number of nodes is missing"):
        deal(items(np.arange(10)), None, 1, rng())


# --------------------------------------------------------------------------------------------------------- iid


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [len(d) for d in PARTITIONERS["iid"]()(items(np.zeros(1003)), 10, 1, rng())]
    assert sorted(sizes) == [100] * 7 + [101] * 3


def test_iid_puts_every_item_everywhere_equally_often() -> None:
    seen = np.zeros((4, 10))
    for trial in range(3000):
        for node, one in enumerate(PARTITIONERS["iid"]()(items(np.zeros(10)), 4, 1, rng(trial))):
            seen[node, one] += 1
    # 10 items over 4 nodes: sizes 3, 3, 2, 2.
    expected = np.repeat([[900.0], [900.0], [600.0], [600.0]], 10, axis=1)
    chance = expected / 3000
    z = (seen - expected) / np.sqrt(expected * (1 - chance))
    assert np.abs(z).max() < 4.5
    assert 0.5 < z.std() < 1.5


def test_iid_label_counts_pass_chi_square_and_dirichlet_does_not() -> None:
    what = items(rng("labels").integers(0, 10, 20_000))

    def p_value(deal: Partitioner) -> float:
        return float(stats.chi2_contingency(counts(deal(what, 20, 1, rng("chi")), what.label)).pvalue)

    assert 1e-3 < p_value(PARTITIONERS["iid"]()) < 1 - 1e-3
    assert p_value(PARTITIONERS["dirichlet"](alpha=10.0)) < 1e-12
    assert p_value(PARTITIONERS["dirichlet"](alpha=1e6)) > 0.999, "more even than chance"


@pytest.mark.parametrize("name", ["iid", "dirichlet", "by_class"])
def test_which_items_of_a_label_a_node_gets_is_chance(name: str) -> None:
    """Two nodes share ten items of one label: items 0 and 1 meet at one node in 4 of 9 cases (iid: exactly)."""
    deal = PARTITIONERS[name](alpha=1e6) if name == "dirichlet" else PARTITIONERS[name]()
    meet = sum(len({0, 1} & set(deal(items(np.zeros(10)), 2, 1, rng(s))[0].tolist())) != 1 for s in range(1000))
    assert stats.binomtest(meet, 1000, 4 / 9).pvalue > 1e-3


# --------------------------------------------------------------------------------------------------- dirichlet


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 10.0, 1000.0])
def test_dirichlet_skew_is_the_distributions(alpha: float) -> None:
    """The sum of squared shares of Dir(alpha) over N nodes has the mean (alpha + 1) / (N alpha + 1)."""
    label = np.repeat(np.arange(600), 1000)
    share = counts(PARTITIONERS["dirichlet"](alpha=alpha)(items(label), 5, 0, rng(alpha)), label) / 1000
    square = (share**2).sum(0)
    assert square.mean() == pytest.approx((alpha + 1) / (5 * alpha + 1), abs=4.5 * square.std() / np.sqrt(600) + 1e-4)
    assert share.mean(1) == pytest.approx(0.2, abs=4.5 * share.std() / np.sqrt(600) + 1e-4), "no node is favoured"


def test_dirichlet_shares_are_beta_distributed() -> None:
    label = np.repeat(np.arange(500), 5000)
    share = counts(PARTITIONERS["dirichlet"](alpha=2.0)(items(label), 4, 0, rng("beta")), label) / 5000
    for node in range(4):
        assert stats.kstest(share[node], stats.beta(2, 6).cdf).pvalue > 1e-3
    correlation = np.corrcoef(share)[~np.eye(4, dtype=bool)]
    assert correlation == pytest.approx(-1 / 3, abs=0.15)  # of shares that sum to one


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    label = np.repeat(np.arange(10), 500)
    seen = []
    for alpha in (1e-4, 0.1, 1.0, 10.0, 1e6):
        table = counts(PARTITIONERS["dirichlet"](alpha=alpha)(items(label), 10, 10, rng("skew")), label)
        seen.append(((table / table.sum(1, keepdims=True)) ** 2).sum(1).mean())
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 0.5
    assert seen[-1] == pytest.approx(0.1, abs=1e-3), "all labels alike"
    assert np.abs(table - 50).max() <= 1


def test_dirichlet_rounding_favours_no_node() -> None:
    """One item a label, shares all but equal: each node is equally likely, whatever its number."""
    dealt = PARTITIONERS["dirichlet"](alpha=1e6)(items(np.arange(20_000)), 10, 0, rng("round"))
    assert stats.chisquare([len(d) for d in dealt]).pvalue > 1e-3


def test_dirichlet_takes_from_the_richest() -> None:
    """Against the obvious loop: the poor get, one by one, an item of whoever has most."""
    for trial, minimum in itertools.product(range(10), (1, 3, 9, 20)):
        what = items(rng("richest", trial).integers(0, 4, 600))
        deal = PARTITIONERS["dirichlet"](alpha=0.05)
        before, after = (deal(what, 30, least, rng(trial)) for least in (0, minimum))
        sizes = np.array([len(d) for d in before])
        for poor in range(30):
            while sizes[poor] < minimum:
                sizes[np.argmax(sizes)] -= 1
                sizes[poor] += 1
        assert [len(d) for d in after] == sizes.tolist()
        poor = [node for node in range(30) if len(before[node]) < minimum]
        for node in range(30):
            kept = set(before[node].tolist()) & set(after[node].tolist())
            assert len(kept) == min(len(before[node]), len(after[node])), "only what is needed moves"
            if node in poor and minimum == 3 and not len(before[node]):
                assert len(set(what.label[after[node]])) <= 2, "a poor node gets few labels"


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("alpha", "nodes", "minimum"), [(1e-9, 10_000, 2), (1e-4, 10_000, 2), (1e-4, 10_000, 1), (0.01, 1000, 20)]
)
def test_dirichlet_extremes_end(alpha: float, nodes: int, minimum: int) -> None:
    what = items(rng("extreme").integers(0, 10, 20_000))
    dealt = PARTITIONERS["dirichlet"](alpha=alpha)(what, nodes, minimum, rng("extreme", nodes))
    assert min(map(len, dealt)) >= minimum
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(20_000))


def test_dirichlet_of_a_tiny_alpha_gives_each_label_to_one_node() -> None:
    label = np.repeat(np.arange(2000), 3)
    table = counts(PARTITIONERS["dirichlet"](alpha=1e-9)(items(label), 8, 0, rng("tiny")), label)
    assert ((table > 0).sum(0) == 1).all()
    assert stats.chisquare(table.sum(1) / 3).pvalue > 1e-3, "each node is equally likely"


# ---------------------------------------------------------------------------------------------------- by_class


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 99))
def test_by_class_label_spaces(labels: int, nodes: int, seed: int) -> None:
    label = np.repeat(np.arange(labels), 50)
    what = items(rng("shuffle", seed).permutation(label) * 7)  # labels need not be 0, 1, 2...
    held = counts(PARTITIONERS["by_class"]()(what, nodes, 0, rng(seed)), what.label)[:, ::7]
    if nodes <= labels:
        assert ((held > 0).sum(0) == 1).all(), "no label at two nodes"
        spread = (held > 0).sum(1)
        assert spread.max() - spread.min() <= 1, "dealt in turn"
    else:
        assert ((held > 0).sum(1) == 1).all(), "one label a node"
        sharers = (held > 0).sum(0)
        assert sharers.max() - sharers.min() <= 1
        assert max(np.ptp(column[column > 0]) for column in held.T) <= 1, "sharers have equal parts"


def test_by_class_refuses_what_would_mix_labels() -> None:
    with pytest.raises(Problem, match=r"2 labels dealt whole leave 1 of 2 nodes .* \(the poorest has 3\)"):
        PARTITIONERS["by_class"]()(items([0] * 3 + [1] * 97), 2, 10, rng())


# ----------------------------------------------------------------------------------------------------- natural


def test_natural_is_one_node_a_group_in_order() -> None:
    what = items(np.zeros(6), user=[4, 0, 4, 2, 2, 4])  # 1 and 3 were held out
    for nodes in (None, 3):
        dealt = PARTITIONERS["natural"](by="user")(what, nodes, 1, rng())
        assert [d.tolist() for d in dealt] == [[1], [3, 4], [0, 2, 5]]


def test_natural_problems() -> None:
    deal = PARTITIONERS["natural"](by="user")
    with pytest.raises(Problem, match="no group 'user'") as caught:
        deal(items([0, 1], drawer=[0, 1], alphabet=[0, 0]), None, 1, rng())
    assert "alphabet, drawer" in caught.value.hint
    with pytest.raises(Problem, match="no group 'user'"):
        deal(items([0, 1]), None, 1, rng())
    with pytest.raises(Problem, match="5 nodes asked for, but 'user' has only 2 groups"):
        deal(items([0] * 9, user=[0] * 5 + [1] * 4), 5, 1, rng())
    with pytest.raises(Problem, match="leave 1 of 2 nodes with fewer than the 3"):
        deal(items([0] * 9, user=[0] * 7 + [1] * 2), None, 3, rng())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=7), st.integers(2, 3), st.integers(0, 99))
def test_natural_merges_whole_groups_evenly(sizes: list[int], nodes: int, seed: int) -> None:
    assume(nodes < len(sizes))
    user = rng("shuffle", seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    dealt = PARTITIONERS["natural"](by="user")(items(user, user=user), nodes, 0, rng(seed))
    assert ((counts(dealt, user) > 0).sum(0) == 1).all(), "groups stay whole"
    assert min(map(len, dealt)) > 0
    best = min(
        max(sum(s for s, at in zip(sizes, where, strict=True) if at == node) for node in range(nodes))
        for where in itertools.product(range(nodes), repeat=len(sizes))
    )
    assert max(map(len, dealt)) <= (4 / 3 - 1 / (3 * nodes)) * best + 1e-9  # Graham's bound


def test_natural_merges_at_random() -> None:
    user = np.repeat(np.arange(12), 5)
    made = {str(PARTITIONERS["natural"](by="user")(items(user, user=user), 4, 1, rng(s))) for s in range(5)}
    assert len(made) == 5
