"""Partitioners: every item once, enough for every node, and the distributions that they promise."""

from __future__ import annotations

import inspect
import itertools
import re
import time
import typing
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from scipy import optimize, stats

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.seeds import numpy_generator
from metadist_cli.data.types import Group
from metadist_cli.partition.partitioners import PARTITIONERS, Items


def items(label: typing.Any, **groups: typing.Any) -> Items:
    made = {}
    for name, code in groups.items():
        code = np.asarray(code, dtype=np.int64)
        made[name] = Group(code, tuple(f"{name}-{i}" for i in range(code.max(initial=0) + 1)))
    return Items(np.asarray(label, dtype=np.int64), made)


def rng(*parts: object) -> np.random.Generator:
    return numpy_generator("test", *parts)


Dealer = typing.Callable[[Items, int | None, int, np.random.Generator], list[np.ndarray]]


def dealer(name: str, **options: typing.Any) -> Dealer:
    """A partitioner without the names of its nodes."""
    deal = PARTITIONERS[name](**options)
    return lambda *arguments: deal(*arguments).parts


def counts(dealt: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """(N, L) items of each label at each node."""
    return np.stack([np.bincount(label[d], minlength=label.max() + 1) for d in dealt])


def groups_of(what: Items, both: bool) -> int:
    users, places = what.groups["user"].code, what.groups["place"].code
    return len({*zip(users, places, strict=True)} if both else {*users})


FREE = [dealer("iid"), *(dealer("dirichlet", alpha=a) for a in (1e-9, 1e-4, 0.01, 0.3, 100.0, 1e6))]
FREE += [dealer("quantity", sizes=s, spread=d) for s in ("lognormal", "power_law") for d in (0.1, 1.0, 10.0)]
# These may refuse for the sake of their promise:
NATURAL = [dealer("natural", by="user"), dealer("natural", by=["user", "place"])]
WHOLE = [dealer("by_class"), *NATURAL]
WHOLE += [dealer("shards", pieces=p, pure=pure) for p in (1, 2, 3) for pure in (False, True)]


@st.composite
def deals(draw: st.DrawFn) -> tuple[Items, int, int, int]:
    m = draw(st.integers(1, 200))
    label = draw(st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=m, max_size=m))
    user = draw(st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=m, max_size=m))
    place = draw(st.lists(st.integers(0, 2), min_size=m, max_size=m))
    return (
        items(label, user=user, place=place),
        draw(st.integers(1, 30)),
        draw(st.integers(0, 6)),
        draw(st.integers(0, 9)),
    )


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FREE + WHOLE), deals())
def test_every_item_once_and_enough_for_each(deal: Dealer, drawn: tuple[Items, int, int, int]) -> None:
    what, nodes, minimum, seed = drawn
    if deal in NATURAL and nodes == groups_of(what, both=deal is NATURAL[1]):
        minimum = 0  # groups that are nodes as they are may be small
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


@pytest.mark.parametrize("name", ["iid", "dirichlet", "shards", "quantity"])
def test_the_generator_decides(name: str) -> None:
    what = items(np.arange(600) % 5)
    one, two = (np.concatenate(dealer(name)(what, 6, 1, rng(seed))) for seed in (0, 1))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("name", PARTITIONERS)
def test_options_have_help(name: str) -> None:
    hints = typing.get_type_hints(PARTITIONERS[name], include_extras=True)
    for option in inspect.signature(PARTITIONERS[name]).parameters.values():
        assert option.kind is option.KEYWORD_ONLY
        assert any(isinstance(m, FieldInfo) and m.description for m in typing.get_args(hints[option.name])[1:])


@pytest.mark.parametrize("name", ["iid", "dirichlet", "by_class", "shards", "quantity"])
def test_impossible_requests(name: str) -> None:
    deal = dealer(name)
    with pytest.raises(
        Problem, match="1,000 nodes with at least 20 items each need 20,000, but only 1,797 exist"
    ) as caught:
        deal(items(np.arange(1797) % 10), 1000, 20, rng())
    assert "at most 89 nodes" in caught.value.hint
    assert caught.value.code == CONFIG
    deal(items(np.zeros(1797)), 89, 20, rng())  # the remedy works
    with pytest.raises(Problem, match="number of nodes is missing"):
        deal(items(np.arange(10)), None, 1, rng())


# --------------------------------------------------------------------------------------------------------- iid


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [len(d) for d in dealer("iid")(items(np.zeros(1003)), 10, 1, rng())]
    assert sorted(sizes) == [100] * 7 + [101] * 3


def test_iid_puts_every_item_everywhere_equally_often() -> None:
    seen = np.zeros((4, 10))
    for trial in range(3000):
        for node, one in enumerate(dealer("iid")(items(np.zeros(10)), 4, 1, rng(trial))):
            seen[node, one] += 1
    # 10 items over 4 nodes: sizes 3, 3, 2, 2.
    expected = np.repeat([[900.0], [900.0], [600.0], [600.0]], 10, axis=1)
    chance = expected / 3000
    z = (seen - expected) / np.sqrt(expected * (1 - chance))
    assert np.abs(z).max() < 4.5
    assert 0.5 < z.std() < 1.5


def test_iid_label_counts_pass_chi_square_and_dirichlet_does_not() -> None:
    what = items(rng("labels").integers(0, 10, 20_000))

    def p_value(deal: Dealer) -> float:
        return float(stats.chi2_contingency(counts(deal(what, 20, 1, rng("chi")), what.label)).pvalue)

    assert 1e-3 < p_value(dealer("iid")) < 1 - 1e-3
    assert p_value(dealer("dirichlet", alpha=10.0)) < 1e-12
    assert p_value(dealer("dirichlet", alpha=1e6)) > 0.999, "more even than chance"


@pytest.mark.parametrize("name", ["iid", "dirichlet", "by_class"])
def test_which_items_of_a_label_a_node_gets_is_chance(name: str) -> None:
    """Two nodes share ten items of one label: items 0 and 1 meet at one node in 4 of 9 cases (iid: exactly)."""
    deal = dealer(name, alpha=1e6) if name == "dirichlet" else dealer(name)
    meet = sum(len({0, 1} & set(deal(items(np.zeros(10)), 2, 1, rng(s))[0].tolist())) != 1 for s in range(1000))
    assert stats.binomtest(meet, 1000, 4 / 9).pvalue > 1e-3


# --------------------------------------------------------------------------------------------------- dirichlet


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 10.0, 1000.0])
def test_dirichlet_skew_is_the_distributions(alpha: float) -> None:
    """The sum of squared shares of Dir(alpha) over N nodes has the mean (alpha + 1) / (N alpha + 1)."""
    label = np.repeat(np.arange(600), 1000)
    share = counts(dealer("dirichlet", alpha=alpha)(items(label), 5, 0, rng(alpha)), label) / 1000
    square = (share**2).sum(0)
    assert square.mean() == pytest.approx((alpha + 1) / (5 * alpha + 1), abs=4.5 * square.std() / np.sqrt(600) + 1e-4)
    assert share.mean(1) == pytest.approx(0.2, abs=4.5 * share.std() / np.sqrt(600) + 1e-4), "no node is favoured"


def test_dirichlet_shares_are_beta_distributed() -> None:
    label = np.repeat(np.arange(500), 5000)
    share = counts(dealer("dirichlet", alpha=2.0)(items(label), 4, 0, rng("beta")), label) / 5000
    for node in range(4):
        assert stats.kstest(share[node], stats.beta(2, 6).cdf).pvalue > 1e-3
    correlation = np.corrcoef(share)[~np.eye(4, dtype=bool)]
    assert correlation == pytest.approx(-1 / 3, abs=0.15)  # of shares that sum to one


@pytest.mark.parametrize("alpha", [1.0, 4.0])  # of smaller ones many shares are less than one of the 2,000 items
def test_dirichlet_shares_pass_chi_square_over_many_draws(alpha: float) -> None:
    """A node's share of a label is Beta(alpha, 3 alpha): 2,000 labels in 20 bins of equal chance."""
    share = []
    for trial in range(20):
        label = np.repeat(np.arange(100), 2000)
        share.append(counts(dealer("dirichlet", alpha=alpha)(items(label), 4, 0, rng("bins", trial)), label)[1] / 2000)
    chance = stats.beta(alpha, 3 * alpha).cdf(np.concatenate(share) + 1e-9)
    assert stats.chisquare(np.histogram(chance, np.linspace(0, 1, 21))[0]).pvalue > 1e-3
    chance = stats.beta(1.2 * alpha, 3.6 * alpha).cdf(np.concatenate(share) + 1e-9)
    assert stats.chisquare(np.histogram(chance, np.linspace(0, 1, 21))[0]).pvalue < 1e-3, "it can tell"


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    label = np.repeat(np.arange(10), 500)
    seen = []
    for alpha in (1e-4, 0.1, 1.0, 10.0, 1e6):
        table = counts(dealer("dirichlet", alpha=alpha)(items(label), 10, 10, rng("skew")), label)
        seen.append(((table / table.sum(1, keepdims=True)) ** 2).sum(1).mean())
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 0.5
    assert seen[-1] == pytest.approx(0.1, abs=1e-3), "all labels alike"
    assert np.abs(table - 50).max() <= 1


def test_dirichlet_rounding_favours_no_node() -> None:
    """One item a label, shares all but equal: each node is equally likely, whatever its number."""
    dealt = dealer("dirichlet", alpha=1e6)(items(np.arange(20_000)), 10, 0, rng("round"))
    assert stats.chisquare([len(d) for d in dealt]).pvalue > 1e-3


def test_dirichlet_takes_from_the_richest() -> None:
    """Against the obvious loop: the poor get, one by one, an item of whoever has most."""
    for trial, minimum in itertools.product(range(10), (1, 3, 9, 20)):
        what = items(rng("richest", trial).integers(0, 4, 600))
        deal = dealer("dirichlet", alpha=0.05)
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
    dealt = dealer("dirichlet", alpha=alpha)(what, nodes, minimum, rng("extreme", nodes))
    assert min(map(len, dealt)) >= minimum
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(20_000))


def test_dirichlet_of_a_tiny_alpha_gives_each_label_to_one_node() -> None:
    label = np.repeat(np.arange(2000), 3)
    table = counts(dealer("dirichlet", alpha=1e-9)(items(label), 8, 0, rng("tiny")), label)
    assert ((table > 0).sum(0) == 1).all()
    assert stats.chisquare(table.sum(1) / 3).pvalue > 1e-3, "each node is equally likely"


# ---------------------------------------------------------------------------------------------------- by_class


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 99))
def test_by_class_label_spaces(labels: int, nodes: int, seed: int) -> None:
    label = np.repeat(np.arange(labels), 50)
    what = items(rng("shuffle", seed).permutation(label) * 7)  # labels need not be 0, 1, 2...
    held = counts(dealer("by_class")(what, nodes, 0, rng(seed)), what.label)[:, ::7]
    if nodes <= labels:
        assert ((held > 0).sum(0) == 1).all(), "no label at two nodes"
        spread = (held > 0).sum(1)
        assert spread.max() - spread.min() <= 1, "dealt in turn"
    else:
        assert ((held > 0).sum(1) == 1).all(), "one label a node"
        sharers = (held > 0).sum(0)
        assert sharers.max() - sharers.min() <= 1
        assert max(np.ptp(column[column > 0]) for column in held.T) <= 1, "sharers have equal parts"


def test_by_class_gives_each_label_to_each_node_equally_often() -> None:
    """Five labels in turn to three nodes: two, two and one; which labels is chance."""
    seen = np.zeros((3, 5))
    for trial in range(3000):
        seen += counts(dealer("by_class")(items(np.arange(5)), 3, 1, rng(trial)), np.arange(5))
    assert seen.sum(1).tolist() == [6000, 6000, 3000]
    for node in seen:
        assert stats.chisquare(node).pvalue > 1e-3


def test_by_class_refuses_what_would_mix_labels() -> None:
    with pytest.raises(Problem, match=r"2 labels assigned whole leave 1 of 2 nodes .* \(the smallest has 3\)"):
        dealer("by_class")(items([0] * 3 + [1] * 97), 2, 10, rng())


# ------------------------------------------------------------------------------------------------------ shards


def test_shards_by_hand() -> None:
    """Twelve items of labels 0 to 3, two nodes, two pieces each: a piece is all of a label."""
    what = items([3, 0, 2, 1] * 3)
    for seed in range(20):
        for pure in (False, True):
            one, two = dealer("shards", pieces=2, pure=pure)(what, 2, 1, rng(seed))
            assert len(one) == len(two) == 6
            assert set(what.label[one]).isdisjoint(what.label[two])
    sizes = [len(d) for d in dealer("shards", pieces=3)(items(np.arange(1003) % 7), 10, 100, rng())]
    assert sorted(sizes) == [100] * 7 + [101] * 3, "every piece has 33 or 34"


def test_shards_are_those_of_the_paper() -> None:
    """60,000 digits, 200 shards of 300, 100 clients: 600 digits of one or two kinds, of one with chance 19/199."""
    label = rng("digits").permutation(np.repeat(np.arange(10), 6000))
    kinds = []
    for trial in range(30):
        table = counts(dealer("shards", pieces=2)(items(label), 100, 1, rng(trial)), label)
        assert (table.sum(1) == 600).all()
        assert set(np.unique(table)) == {0, 300, 600}
        kinds += (table > 0).sum(1).tolist()
    assert set(kinds) == {1, 2}
    assert stats.binomtest(kinds.count(1), 3000, 19 / 199).pvalue > 1e-3


def test_every_deal_of_shards_is_equally_likely() -> None:
    """Six pieces, two to each of three nodes: 6! / (2! 2! 2!) = 90 ways."""
    deal, what = dealer("shards", pieces=2), items(np.arange(6))
    seen = Counter(str(deal(what, 3, 1, rng(trial))) for trial in range(9000))
    assert len(seen) == 90
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_larger_pieces_go_to_any_label() -> None:
    """Ten items of ten labels in four pieces: two of them hold three items, each as often as the others."""
    large = np.zeros(4)
    for trial in range(2000):
        one, two = (np.sort(d) for d in dealer("shards", pieces=2)(items(np.arange(10)), 2, 1, rng(trial)))
        assert len(one) == len(two) == 5
        starts = np.flatnonzero(np.diff(np.isin(np.arange(10), one).astype(int))) + 1
        if len(starts) == 3:  # no two neighbours at one node: the pieces can be told apart
            large += np.diff([0, *starts, 10]) == 3
    assert stats.chisquare(large).pvalue > 1e-3


def test_every_way_to_give_pure_labels_is_equally_likely() -> None:
    """Two of four labels to each of four nodes, and each label to two: 90 tables of zeros and ones (OEIS A058527)."""
    deal, label = dealer("shards", pieces=2, pure=True), np.repeat(np.arange(4), 2)
    seen = Counter((counts(deal(items(label), 4, 1, rng(trial)), label) > 0).tobytes() for trial in range(4500))
    assert len(seen) == 90
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(1, 20), st.integers(1, 5), st.integers(0, 99))
def test_pure_pieces_have_one_label_and_even_sizes(rows: list[int], nodes: int, pieces: int, seed: int) -> None:
    what = items(rng("shuffle", seed).permutation(np.repeat(np.arange(len(rows)), rows)) * 7)
    needed, room = nodes * pieces, np.minimum(rows, nodes)
    try:
        dealt = dealer("shards", pieces=pieces, pure=True)(what, nodes, 0, rng(seed))
    except Problem:
        assert pieces > len(rows) or needed < len(rows) or room.sum() < needed
        return
    held = counts(dealt, what.label)[:, ::7]
    assert ((held > 0).sum(1) == pieces).all()
    assert max(np.ptp(column[column > 0]) for column in held.T) <= 1, "those who share a label have equal parts"
    largest = held.max(0)
    cuts = (held > 0).sum(0)
    for label in range(len(rows)):  # the largest piece is as small as may be: one cut more would cost a larger one
        for other in range(len(rows)):
            if cuts[label] < room[label] and cuts[other] > 1:
                assert rows[other] / (cuts[other] - 1) >= rows[label] / cuts[label]
    assert (largest == np.ceil(np.array(rows) / cuts)).all()


@pytest.mark.parametrize(
    ("label", "nodes", "options", "message"),
    [
        (range(9), 5, {"pieces": 2}, "5 nodes with 2 pieces each need at least 10 items, but only 9 exist"),
        ([0, 1] * 9, 5, {"pieces": 3, "pure": True}, "a node cannot hold 3 labels: the data have only 2"),
        (range(9), 4, {"pieces": 2, "pure": True}, "4 nodes with 2 labels each cannot hold all 9 labels"),
        (
            [0] * 9 + [1],
            4,
            {"pieces": 2, "pure": True},
            "need 8 pieces, but the 2 labels, the rarest with 1 rows, give at most 5",
        ),
    ],
)
def test_shards_that_cannot_be(label: typing.Any, nodes: int, options: typing.Any, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        dealer("shards", **options)(items(list(label)), nodes, 0, rng())
    assert (caught.value.where, caught.value.code) == ("partition.pieces", CONFIG)
    assert caught.value.hint


def test_pure_pieces_keep_the_minimum_or_say_so() -> None:
    what = items([0] * 60 + [1] * 40)
    dealt = dealer("shards", pieces=1, pure=True)(what, 5, 20, rng())
    assert sorted(len(d) for d in dealt) == [20] * 5
    with pytest.raises(Problem, match=r"5 single-label pieces leave 1 of 5 nodes .* 21 .* smallest has 20"):
        dealer("shards", pieces=1, pure=True)(items([0] * 64 + [1] * 41), 5, 21, rng())


# ---------------------------------------------------------------------------------------------------- quantity


def sizes_of(nodes: int, minimum: int, trial: object, total: int = 1_000_000, **options: typing.Any) -> np.ndarray:
    return np.array([len(d) for d in dealer("quantity", **options)(items(np.zeros(total)), nodes, minimum, rng(trial))])


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("sizes", ["lognormal", "power_law"])
def test_sizes_have_the_distribution(sizes: str, spread: float) -> None:
    """The total is given, so proportions are looked at: the logarithm of one is normal (sd 2 ** 0.5), or Laplace's."""
    found = [sizes_of(2, 1, trial, 20_000, sizes=sizes, spread=spread) for trial in range(1500)]
    log = np.array([np.log(one / two) for one, two in found]) / spread
    law = stats.norm(0, np.sqrt(2)) if sizes == "lognormal" else stats.laplace()
    other = stats.laplace() if sizes == "lognormal" else stats.norm(0, np.sqrt(2))
    edges = [-np.inf, *law.ppf(np.arange(1, 20) / 20), np.inf]
    assert stats.chisquare(np.histogram(log, edges)[0]).pvalue > 1e-3
    assert stats.chisquare(np.histogram(log, [-np.inf, *other.ppf(np.arange(1, 20) / 20), np.inf])[0]).pvalue < 1e-3


def test_a_power_law_has_its_tail() -> None:
    """P(size > s) ~ s ** -(1 / spread): on a log-log plot a line of that slope. Hill's estimate of the exponent."""
    size = np.sort(sizes_of(20_000, 1, "tail", 4_000_000, sizes="power_law", spread=0.5))[::-1]
    hill = np.log(size[:10_000] / size[10_000]).mean()
    assert hill == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(10_000) + 0.01)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.05, 10), st.integers(1, 40), st.integers(0, 30), st.integers(0, 3000), st.integers(0, 99))
def test_small_nodes_are_lifted_and_the_others_keep_their_proportions(
    spread: float, nodes: int, minimum: int, spare: int, seed: int
) -> None:
    """Sizes are max(minimum, s * weight), rounded, with the s that a root finder gets."""
    total = nodes * minimum + spare
    weight = np.exp(spread * rng(seed).standard_normal(nodes))
    excess = optimize.brentq(lambda s: np.maximum(minimum, s * weight).sum() - total, 0, (total + 1) / weight.max())
    told = np.maximum(minimum, excess * weight)
    size = sizes_of(nodes, minimum, seed, total, spread=spread)
    assert size.sum() == total
    assert size.min() >= minimum
    assert np.abs(size - told).max() < 1 + 1e-6


def test_quantity_leaves_the_labels_alone() -> None:
    what = items(rng("labels").integers(0, 10, 20_000))
    p = [
        stats.chi2_contingency(counts(dealer("quantity", spread=1.5)(what, 20, 60, rng("chi", t)), what.label)).pvalue
        for t in range(50)
    ]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_no_node_is_favoured_in_size() -> None:
    largest = [np.argmax(sizes_of(6, 1, trial, 600)) for trial in range(1200)]
    assert stats.chisquare(np.bincount(largest, minlength=6)).pvalue > 1e-3


# ----------------------------------------------------------------------------------------------------- natural


def test_natural_is_one_node_a_group_in_order() -> None:
    what = items(np.zeros(6), user=[4, 0, 4, 2, 2, 4])  # 1 and 3 were held out
    for nodes in (None, 3):
        dealt = dealer("natural", by="user")(what, nodes, 1, rng())
        assert [d.tolist() for d in dealt] == [[1], [3, 4], [0, 2, 5]]


def test_natural_problems() -> None:
    deal = dealer("natural", by="user")
    with pytest.raises(Problem, match="unknown group 'user'") as caught:
        deal(items([0, 1], drawer=[0, 1], alphabet=[0, 0]), None, 1, rng())
    assert "alphabet, drawer" in caught.value.hint
    with pytest.raises(Problem, match="unknown group 'user'"):
        deal(items([0, 1]), None, 1, rng())
    with pytest.raises(Problem, match="5 nodes requested, but 'user' has only 2 groups"):
        deal(items([0] * 9, user=[0] * 5 + [1] * 4), 5, 1, rng())
    assert deal(items([0] * 9, user=[0] * 7 + [1] * 2), None, 3, rng())[1].tolist() == [7, 8]  # judged by its name


def test_a_number_of_merged_nodes_that_the_hint_names_works_and_one_more_does_not() -> None:
    deal = dealer("natural", by="user")
    for sizes in ([60] * 6, [9, 8, 1, 1, 1], [5, 5, 5], [40, 1, 1, 1, 1]):
        what = items(np.zeros(sum(sizes)), user=np.repeat(np.arange(len(sizes)), sizes))
        for minimum in range(2, 75):
            for nodes in range(2, len(sizes)):
                try:
                    deal(what, nodes, minimum, rng())
                except Problem as problem:
                    found = re.search("use at most ([0-9]+) node", problem.hint)
                    if found is None:
                        assert sum(sizes) < minimum
                        continue
                    most = int(found[1])
                    assert min(map(len, deal(what, most, minimum, rng()))) >= minimum
                    with pytest.raises(Problem, match="merged into"):
                        deal(what, most + 1, minimum, rng())


def test_merged_nodes_are_called_what_their_groups_are_called() -> None:
    natural = PARTITIONERS["natural"](by="user")
    user = np.repeat(np.arange(5), [9, 4, 4, 1, 1])
    names = natural(items(np.zeros(19), user=user), 2, 1, rng()).names
    assert sorted(names) in (
        ["user-0 + user-3", "user-1 + user-2 + user-4"],
        ["user-0 + user-4", "user-1 + user-2 + user-3"],
    )
    many = natural(items(np.zeros(400), user=np.arange(400)), 2, 1, rng()).names
    assert all(len(name) <= 100 and re.search(" more$", name) for name in many)
    assert len(set(many)) == 2


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=7), st.integers(2, 3), st.integers(0, 99))
def test_natural_merges_whole_groups_evenly(sizes: list[int], nodes: int, seed: int) -> None:
    assume(nodes < len(sizes))
    user = rng("shuffle", seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    dealt = dealer("natural", by="user")(items(user, user=user), nodes, 0, rng(seed))
    assert ((counts(dealt, user) > 0).sum(0) == 1).all(), "groups stay whole"
    assert min(map(len, dealt)) > 0
    best = min(
        max(sum(s for s, at in zip(sizes, where, strict=True) if at == node) for node in range(nodes))
        for where in itertools.product(range(nodes), repeat=len(sizes))
    )
    assert max(map(len, dealt)) <= (4 / 3 - 1 / (3 * nodes)) * best + 1e-9  # Graham's bound


def test_natural_merges_at_random() -> None:
    user = np.repeat(np.arange(12), 5)
    made = {str(dealer("natural", by="user")(items(user, user=user), 4, 1, rng(s))) for s in range(5)}
    assert len(made) == 5


def test_natural_of_two_levels() -> None:
    """A clown of two plays is two roles."""
    play, role = (
        Group(np.array([1, 0, 1, 0, 1]), ("Hamlet", "Lear")),
        Group(np.array([0, 0, 0, 1, 1]), ("Clown", "King")),
    )
    what = Items(np.zeros(5, dtype=np.int64), {"play": play, "role": role})
    parts, names = PARTITIONERS["natural"](by=["play", "role"])(what, None, 1, rng())
    assert names == ["Hamlet > Clown", "Hamlet > King", "Lear > Clown", "Lear > King"]
    assert [part.tolist() for part in parts] == [[1], [3], [0, 2], [4]]
    parts, names = PARTITIONERS["natural"](by=["role", "play"])(what, 4, 1, rng())
    assert names == ["Clown > Hamlet", "Clown > Lear", "King > Hamlet", "King > Lear"]
    assert PARTITIONERS["natural"](by=["role"])(what, None, 1, rng()).names == ["Clown", "King"]
    assert PARTITIONERS["natural"](by="role")(what, None, 1, rng()).names == ["Clown", "King"]
    assert sum(" + " in name for name in PARTITIONERS["natural"](by=["play", "role"])(what, 3, 1, rng()).names) == 1
    with pytest.raises(Problem, match="5 nodes requested, but 'play > role' has only 4 groups"):
        dealer("natural", by=["play", "role"])(what, 5, 1, rng())
    with pytest.raises(Problem, match="unknown group 'scene'") as caught:
        dealer("natural", by=["play", "scene"])(what, None, 1, rng())
    assert caught.value.where == "partition.by"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=60))
def test_levels_are_a_group_by(codes: list[tuple[int, int, int]]) -> None:
    a, b, c = np.array(codes).T
    parts, names = PARTITIONERS["natural"](by=["a", "b", "c"])(items(a, a=a, b=b, c=c), None, 1, rng())
    told = {
        f"a-{x} > b-{y} > c-{z}": [i for i, code in enumerate(codes) if code == (x, y, z)] for x, y, z in sorted(codes)
    }
    assert dict(zip(names, [part.tolist() for part in parts], strict=True)) == told
    assert names == list(told)


def test_a_hundred_thousand_groups() -> None:
    code = rng("many").permutation(np.repeat(np.arange(100_000), 12))
    what = items(np.zeros(len(code)), user=code, half=code // 50_000)
    began = time.perf_counter()
    parts, names = PARTITIONERS["natural"](by=["half", "user"])(what, None, 10, rng())
    print(f"{time.perf_counter() - began:.1f} s")
    assert len(parts) == 100_000
    assert {len(part) for part in parts} == {12}
    assert (names[0], names[-1]) == ("half-0 > user-0", "half-1 > user-99999")
