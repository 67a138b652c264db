"""Which rows make a task: disjoint, the node's own, evenly drawn, and independent of everybody else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maths import nodes_of
from scipy import stats

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.partition.shards import Shard, pool
from metadist_cli.tasks.episodes import Pool, Sampler, TaskIndices, counts, episodic, epochs, keep_labels, local
from metadist_cli.tasks.gathering import gather

SAMPLERS: dict[str, Sampler] = {
    "episodic": episodic(0, 3, 2, way=2, shot=1, query=3),
    "episodic, many rows": episodic(0, 2, 2, way=3, shot=6, query=8),
    "local": local(0, 3, 2, support=4, query=5),
    "local, many rows": local(0, 3, 2, support=14, query=6),
    "epochs": epochs(0, 2, 2, support=3, query=4),
}
every = pytest.mark.parametrize("name", SAMPLERS)
POOL = nodes_of([45, 60, 48, 93])


def rows_of(pool: Pool, i: int) -> np.ndarray:
    return np.arange(pool.row_start[i], pool.row_start[i] + pool.row_count[i])


def equal(one: TaskIndices, two: TaskIndices) -> bool:
    return all(np.array_equal(getattr(one, k), getattr(two, k)) for k in ("support", "query", "active", "seeds"))


# -------------------------------------------------------------------------------------------------- every sampler


@every
def test_a_task_has_distinct_rows_of_its_own_node(name: str) -> None:
    plan = SAMPLERS[name](POOL, 1)
    both = np.concatenate([plan.support, plan.query], -1)
    assert plan.active.shape == plan.support.shape[:2]
    assert plan.seeds.shape == plan.support.shape[:3] == plan.query.shape[:3]
    assert plan.seeds.dtype == np.int64
    assert plan.seeds.min() >= 0
    assert len(np.unique(plan.seeds)) == plan.seeds.size
    for i in range(len(POOL.nodes)):
        assert np.isin(both[i], rows_of(POOL, i)).all()
    if name != "epochs":
        assert plan.active.all()
        assert (np.diff(np.sort(both, -1), axis=-1) > 0).all()  # support and query are disjoint


@every
def test_a_node_draws_the_same_whoever_is_beside_it(name: str) -> None:
    sample = SAMPLERS[name]
    whole = sample(POOL, 4)
    for i in range(len(POOL.nodes)):
        for places in ([i], [i, 3], [2, i]):
            some = sample(POOL.take(np.array(places)), 4)
            j = places.index(i)
            steps = int(some.active[j].sum())
            assert steps == whole.active[i].sum()
            assert np.array_equal(some.support[j, :steps], whole.support[i, :steps])
            assert np.array_equal(some.query[j, :steps], whole.query[i, :steps])
            assert np.array_equal(some.seeds[j, :steps], whole.seeds[i, :steps])


@every
def test_a_plan_hangs_on_seed_moment_number_step_and_task(name: str) -> None:
    sample = SAMPLERS[name]
    one = sample(POOL, 1)
    assert equal(one, sample(POOL, 1))
    assert not equal(one, sample(POOL, 2))
    assert not equal(one, sample(POOL, "evaluation"))
    assert not equal(one, sample(POOL._replace(nodes=POOL.nodes + 1), 1))
    both = np.concatenate([one.support, one.query], -1)
    flat = both.reshape(-1, both.shape[-1])[one.active.repeat(both.shape[2])]
    assert len(np.unique(flat, axis=0)) == len(flat)


@every
def test_nodes_steps_and_tasks_draw_apart(name: str) -> None:
    """Two equal nodes: the same places in both would be one draw used twice."""
    twins = nodes_of([60, 60])
    plan = SAMPLERS[name](twins, 1)
    both = np.concatenate([plan.support, plan.query], -1) - twins.row_start[:, None, None, None]
    places = np.sort(both, -1).reshape(-1, both.shape[-1])
    assert len(np.unique(places, axis=0)) == len(places)


@pytest.mark.parametrize("shot", [1, 13])
def test_places_within_a_class_are_drawn_apart(shot: int) -> None:
    """For every node, step, task and class of a task anew: with 20 rows a class, one first row in 20 is met again."""
    twins = nodes_of([60, 60])
    plan = episodic(0, 10, 10, way=3, shot=shot, query=1)(twins, 1)
    rows = plan.support.reshape(2, 10, 10, 3, shot)[..., 0]
    place = (rows - twins.row_start[:, None, None, None]) % 20
    for axis in range(4):
        again = place == np.roll(place, 1, axis)
        assert again.mean() < 0.1


def test_the_seed_decides() -> None:
    for one, two in (
        (episodic(0, 2, 2, 2, 1, 1), episodic(1, 2, 2, 2, 1, 1)),
        (local(0, 2, 2, 2, 1), local(1, 2, 2, 2, 1)),
        (epochs(0, 2, 2, 2, 1), epochs(1, 2, 2, 2, 1)),
    ):
        assert not equal(one(POOL, 1), two(POOL, 1))


@every
def test_no_node_and_no_step(name: str) -> None:
    nobody = POOL.take(np.array([], dtype=np.int64))
    if name != "epochs":
        assert SAMPLERS[name](nobody, 1).support.shape[0] == 0
    assert local(0, 0, 2, 1, 1)(POOL, 1).support.shape == (4, 0, 2, 1)
    assert episodic(0, 0, 2, 2, 1, 1)(POOL, 1).query.shape == (4, 0, 2, 2)


# ------------------------------------------------------------------------------------------------------- episodic


def test_episodic_labels_follow_the_order_drawn() -> None:
    plan = episodic(0, 4, 5, way=3, shot=2, query=4)(POOL, 0)
    assert plan.labels is not None
    assert plan.labels[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert plan.labels[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    classes = POOL.y.numpy()
    drawn = classes[plan.support].reshape(4, 4, 5, 3, 2)
    asked = classes[plan.query].reshape(4, 4, 5, 3, 4)
    assert (drawn == drawn[..., :1]).all()
    assert (asked == drawn[..., :1]).all()
    assert (np.sort(drawn[..., 0], -1) == np.arange(3)).all()
    assert len(np.unique(drawn[..., 0].reshape(-1, 3), axis=0)) == 6  # every order comes up


def test_every_class_and_row_is_drawn_evenly() -> None:
    plan = episodic(0, 400, 5, way=2, shot=1, query=2)(POOL, 0)
    for i in range(len(POOL.nodes)):
        for rows in (plan.support[i], plan.query[i]):
            seen = np.bincount(rows.ravel() - POOL.row_start[i], minlength=POOL.row_count[i])
            assert stats.chisquare(seen).pvalue > 1e-3
        ordered = POOL.y.numpy()[plan.support[i]].reshape(-1, 2) @ [3, 1]
        assert stats.chisquare(np.bincount(ordered, minlength=9)[[1, 2, 3, 5, 6, 7]]).pvalue > 1e-3


def test_regression_keeps_its_targets() -> None:
    targets = np.arange(12.0).reshape(6, 2)
    shard = Shard(0, "", "train", np.ones((6, 1)), np.repeat([0, 1], 3), targets, np.arange(6))
    plan = keep_labels(episodic(0, 1, 1, way=1, shot=1, query=2))(pool([shard], 1), 0)
    assert plan.labels is None
    e = gather(pool([shard], 1), plan.support, plan.query, plan.labels)
    assert torch.equal(e.query_y[0, 0, 0], torch.from_numpy(targets[plan.query[0, 0, 0]]))


# --------------------------------------------------------------------------------------------------------- epochs


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
def test_epochs_cover_every_row_count_times_and_wrap_short_tails(
    sizes: list[int], count: int, tasks: int, support: int
) -> None:
    nodes, query = nodes_of(sizes, classes=1), 1
    plan = epochs(3, count, tasks, support, query)(nodes, 1)
    size = tasks * (support + query)
    both = np.concatenate([plan.support, plan.query], -1).reshape(len(sizes), -1, size)
    for i, n in enumerate(sizes):
        steps = -(-n // size)
        assert plan.active[i].tolist() == [s < count * steps for s in range(plan.active.shape[1])]
        mine = both[i, : count * steps].reshape(count, -1) - nodes.row_start[i]
        for epoch in mine:
            assert sorted(epoch[:n]) == list(range(n))  # a permutation, and then from its beginning again
            assert np.array_equal(epoch, np.resize(epoch[:n], steps * size))
    assert plan.active.any(0).all()  # no step in which nobody works


def test_every_epoch_has_its_own_order() -> None:
    plan = epochs(0, 3, 1, 60, 0)(nodes_of([60]), 1)
    assert len(np.unique(plan.support[0, :, 0], axis=0)) == 3


# ------------------------------------------------------------------------------------------------ too poor a node


@pytest.mark.parametrize(
    ("sample", "message", "node"),
    [
        (episodic(0, 1, 1, way=4, shot=1, query=1), "a task needs 4 classes with 2 rows each, but only 3 exist", 3),
        (episodic(0, 50, 4, way=2, shot=10, query=6), "a task needs 2 classes with 16 rows each, but only 0 exist", 3),
        (episodic(0, 1, 1, way=3, shot=1, query=19), "a task needs 3 classes with 20 rows each, but only 0 exist", 3),
        (local(0, 1, 1, support=40, query=6), "a task needs 46 rows, but only 45 exist", 3),
    ],
)
def test_a_node_that_is_too_poor_is_named(sample: Sampler, message: str, node: int) -> None:
    """Without the check a draw would silently take the next node's rows."""
    with pytest.raises(Problem, match=message) as caught:
        sample(POOL, 0)
    assert (caught.value.where, caught.value.code) == (f"node {node}", CONFIG)
    assert caught.value.hint
    if "4 classes" not in message:
        sample(POOL.take(np.array([3])), 0)  # the richest node can


def test_classes_with_too_few_rows_are_as_if_they_were_not_there() -> None:
    """Two nodes; each of some size class: the same draws as from the nodes without the poor ones."""

    def shards(sizes: list[list[int]], least: int) -> tuple[Pool, np.ndarray]:
        made, first = [], 0
        for node, rows in enumerate(sizes):
            kept = [(c, n) for c, n in enumerate(rows) if n >= least]
            label = np.repeat([c for c, _ in kept], [n for _, n in kept])
            starts = np.cumsum([0, *rows])
            row = np.concatenate([first + starts[c] + np.arange(n) for c, n in kept])
            made.append(Shard(node, "", "train", row.astype(np.float32)[:, None], label, None, row))
            first += sum(rows)
        return pool(made, 1.0), np.concatenate([s.row for s in made])

    sizes = [[9, 4, 9, 1, 12, 9], [2, 9, 9, 9, 3, 30]]
    sample = episodic(0, 20, 3, way=3, shot=2, query=4)
    (whole, rows), (rich, kept) = shards(sizes, 0), shards(sizes, 6)
    one, other = sample(whole, 1), sample(rich, 1)
    np.testing.assert_array_equal(rows[one.support], kept[other.support])
    np.testing.assert_array_equal(rows[one.query], kept[other.query])
    again = sample(whole.take(np.array([1])), 1)
    np.testing.assert_array_equal(again.support[0], one.support[1])


# ---------------------------------------------------------------------------------------------- gather and counts


def test_gather_scales_images_and_leaves_numbers() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(6, 2, 2) * 10
    shard = Shard(0, "", "train", image, np.repeat([4, 7], 3), None, np.arange(6))
    rows = np.array([[[0, 5]]]), np.array([[[1, 2, 3]]])
    e = gather(pool([shard], 255), *rows, None)
    assert e.support_x.dtype == torch.float32
    assert torch.equal(e.query_x, torch.from_numpy(image[rows[1]]).float() / 255)
    assert e.support_y.tolist() == [[[4, 7]]]
    assert e.query_y.tolist() == [[[4, 4, 7]]]
    named = gather(pool([shard], 255), *rows, (np.array([1, 0]), np.array([0, 1, 2])))
    assert named.support_y.tolist() == [[[1, 0]]]
    assert named.query_y.tolist() == [[[0, 1, 2]]]

    numbers = shard._replace(x=np.linspace(0, 1, 6)[:, None])
    assert torch.equal(gather(pool([numbers], 1), *rows, None).support_x, torch.tensor([[[[0.0], [1.0]]]]).double())
    assert torch.equal(gather(pool([numbers], 4), *rows, None).support_x, torch.tensor([[[[0.0], [0.25]]]]).double())
    whole = shard._replace(x=image.astype(np.int64))
    assert gather(pool([whole], 1), *rows, None).support_x.is_floating_point()


@pytest.mark.parametrize(
    ("n", "support", "query", "expected"),
    [
        (50, 20, "rest", (20, 30)),
        (50, 0.2, "rest", (10, 40)),
        (50, 0.2, 15, (10, 15)),
        (50, 5, 0.5, (5, 25)),
        (100, 0.29, 0.71, (29, 71)),  # 0.71 * 100 is 71 - 1e-14
        (3, 0.01, 0.01, (1, 1)),
        (7, 0.5, 0.5, (4, 3)),  # not 4 and 4
        (2, 0.9, "rest", (1, 1)),
    ],
)
def test_counts(n: int, support: int | float, query: int | float | str, expected: tuple[int, int]) -> None:
    assert counts(n, support, query) == expected


@given(st.integers(2, 100_000), st.floats(0.001, 0.999), st.data())
def test_two_fractions_never_take_more_than_there_is(n: int, support: float, data: st.DataObject) -> None:
    query = data.draw(st.floats(0.0005, 1 - support))
    few, many = counts(n, support, query)
    assert few >= 1
    assert many >= 1
    assert few + many <= n


def test_a_batch_at_a_poor_node_takes_its_rows_again() -> None:
    """Nobody's batch shrinks to what the poorest node has (no support: a task is a mere batch)."""
    nodes = nodes_of([5, 40])
    plan = local(0, 3, 1, 0, 16)(nodes, 1)
    for i, n in enumerate((5, 40)):
        for rows in plan.query[i, :, 0]:
            assert len(rows) == 16
            assert np.isin(rows, rows_of(nodes, i)).all()
            assert len(np.unique(rows)) == min(n, 16)
            assert np.unique(rows, return_counts=True)[1].max() == -(-16 // min(n, 16))
    with pytest.raises(Problem, match="only 5 exist"):
        local(0, 3, 1, 8, 8)(nodes, 1)
