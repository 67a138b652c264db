"""Stateless randomness: golden values, uniform draws, and draws that depend only on their own counters."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.func import vmap

from metadist_cli.core import seeds


def test_keys_do_not_change() -> None:
    """Old runs must stay reproducible: these numbers never change."""
    assert seeds.key(0, "init") == int(hashlib.sha256(b"0|init").hexdigest()[:16], 16) // 2 == 8784609293862724968
    assert seeds.subset(seeds.key("golden"), np.arange(2), of=10, size=4).tolist() == [[1, 2, 6, 7], [5, 6, 7, 4]]
    assert seeds.subset(seeds.key("golden"), np.arange(1), of=14, size=13)[0, :5].tolist() == [9, 2, 6, 13, 11]
    assert seeds.shuffle(torch.tensor(1), 0, 8).tolist() == [4, 0, 7, 3, 5, 6, 2, 1]
    assert seeds.generator("golden").initial_seed() == seeds.key("golden")
    assert seeds.numpy_generator("golden").integers(1000, size=3).tolist() == [485, 181, 774]


def test_bits_are_splitmix64() -> None:
    """The published test vector of splitmix64 from state 1234567, one step at a time."""
    golden = 0x9E3779B97F4A7C15
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [int(seeds.bits((1234567 + i * golden) % 2**64)) for i in range(4)] == expected


def test_bits_broadcast_and_depend_on_every_counter() -> None:
    drawn = seeds.bits(7, np.arange(3)[:, None], np.arange(4))
    assert drawn.shape == (3, 4)
    assert len(np.unique(drawn)) == 12
    for i, j in itertools.product(range(3), range(4)):
        assert seeds.bits(7, i, j) == drawn[i, j]
    assert len({int(h) for h in (seeds.bits(7, 1, 2), seeds.bits(7, 2, 1), seeds.bits(8, 1, 2), seeds.bits(7, 1))}) == 4


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_subsets_are_distinct_and_inside(base: int, of: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, min(of)))
    drawn = seeds.subset(base, np.arange(len(of))[:, None], np.arange(3), of=np.array(of)[:, None], size=size)
    assert drawn.shape == (len(of), 3, size)
    for one, limit in zip(drawn, of, strict=True):
        assert ((one >= 0) & (one < limit)).all()
        assert all(len(set(row)) == size for row in one.tolist())
    for i, limit in enumerate(of):  # whatever is drawn beside it
        np.testing.assert_array_equal(drawn[i], seeds.subset(base, i, np.arange(3), of=limit, size=size))


@pytest.mark.parametrize(("of", "size"), [(5, 2), (6, 6), (14, 13), (15, 15)])
@pytest.mark.parametrize("places", [(0, 1), (-2, -1)])
def test_every_ordered_pair_is_equally_likely(of: int, size: int, places: tuple[int, int]) -> None:
    """By both methods: one element at a time up to 12, sorted keys above."""
    drawn = seeds.subset(seeds.key("pairs"), np.arange(200 * of * of), of=of, size=size)
    first, second = (drawn[:, place] for place in places)
    pairs = np.bincount(first * of + second, minlength=of * of).reshape(of, of)
    assert (np.diag(pairs) == 0).all()
    assert stats.chisquare(pairs[~np.eye(of, dtype=bool)]).pvalue > 1e-3


def test_shuffle_is_a_permutation_under_vmap() -> None:
    many = torch.arange(500) * 7919
    shuffled = vmap(lambda s: seeds.shuffle(s, 0, 6))(many)
    assert torch.equal(shuffled.sort(-1).values, torch.arange(6).expand(500, 6))
    assert torch.equal(shuffled, torch.stack([seeds.shuffle(s, 0, 6) for s in many]))
    assert not torch.equal(shuffled, vmap(lambda s: seeds.shuffle(s, 1, 6))(many))


def test_every_shuffle_is_equally_likely() -> None:
    shuffled = vmap(lambda s: seeds.shuffle(s, 0, 4))(torch.arange(24 * 400))
    orders = (shuffled * torch.tensor([64, 16, 4, 1])).sum(-1).numpy()
    counts = np.unique(orders, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_uniform_is_uniform_and_depends_only_on_its_counters() -> None:
    many = seeds.uniform(7, np.arange(500)[:, None], np.arange(20))
    assert many.shape == (500, 20)
    assert many.dtype == np.float32
    assert ((many >= 0) & (many < 1)).all()
    assert stats.kstest(many.ravel(), "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(many[3], seeds.uniform(7, 3, np.arange(20)))
    assert not np.array_equal(many, seeds.uniform(8, np.arange(500)[:, None], np.arange(20)))


def test_generators_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    one, two = (torch.rand(3, generator=seeds.generator("a", i)) for i in (1, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, torch.rand(3, generator=seeds.generator("a", 2)))
    assert torch.equal(torch.get_rng_state(), before)
