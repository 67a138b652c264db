"""One round: the exact identities of distributed meta-learning, blocks, optimiser states, and the mistake to avoid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from maths import (
    AGGREGATOR_CASES,
    EPS,
    LEARNER_CASES,
    Case,
    One,
    apart,
    beside,
    close_round,
    combined,
    covered,
    double,
    first_global,
    first_own,
    float32_error,
    gap,
    learner_of,
    model_of,
    name_of,
    nodes_of,
    rand,
    run_nodes,
    same,
    slow_unless,
)
from runner import ROOT, proc
from torch import Tensor
from torch.func import vmap

from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import Problem
from metadist_cli.core.optimizers import OPTIMIZERS, Optimizer
from metadist_cli.core.schedules import constant, schedule
from metadist_cli.core.tree import Params
from metadist_cli.federated import node_training
from metadist_cli.federated.aggregators import AGGREGATORS
from metadist_cli.federated.drift_corrections import DRIFTS, Drift
from metadist_cli.federated.local_training import Algorithm, node_step
from metadist_cli.federated.node_training import MemoryLimit
from metadist_cli.federated.personalization import Personal
from metadist_cli.federated.rounds import sample_nodes, shared_part
from metadist_cli.federated.updates import Updates
from metadist_cli.tasks.episodes import Pool, TaskIndices, episodic, epochs, local
from metadist_cli.tasks.gathering import gather
from metadist_cli.tasks.types import Episode

every_learner = pytest.mark.parametrize("case", LEARNER_CASES, ids=name_of)
every_aggregator = pytest.mark.parametrize("aggregator", AGGREGATOR_CASES, ids=name_of)

SIZES = [18, 30, 24, 12, 21]
POOL = nodes_of(SIZES)
FLOAT = POOL._replace(x=POOL.x.float())
SERVER = OPTIMIZERS["sgd"](lr=1.0)
MEAN = AGGREGATORS["mean"]()
NO_DRIFT = DRIFTS["none"]()
BATCH_NORM: Case = ("mlp", {"hidden": [5], "norm": "batch_running", "activation": "softplus"})
# Where results are compared to rounding: before batch norm a bias has the gradient 0 but for rounding, which Adam turns
# into steps of any sign
PLAIN: Case = ("mlp", {"hidden": [5], "activation": "tanh"})
Sample = Callable[[Pool], TaskIndices]


def algorithm(
    case: Case = ("maml", {"inner_lr": 0.3}),
    outer: Optimizer | None = None,
    state: str = "reset",
    model: Case = BATCH_NORM,
    drift: Drift = NO_DRIFT,
    personal: Personal = Personal(),  # noqa: B008
) -> Algorithm:
    learner = learner_of(case, model_of(model, (4,)))
    return Algorithm(learner, outer or OPTIMIZERS["adam"](lr=0.05), state, drift, personal)


def tasks(round_: int, steps: int = 3, count: int = 2) -> Sample:
    return lambda pool: episodic(0, steps, count, way=3, shot=1, query=2)(pool, round_)


def train(
    algo: Algorithm,
    pool: Pool,
    rounds: int,
    block: int = 1,
    server: Optimizer = SERVER,
    aggregator: Callable = MEAN,
    tasks_of: Callable[[int], Sample] = tasks,
    steps: int = 3,
) -> tuple[Params, dict[int, Params]]:
    """Rounds over all nodes of a pool, in its floating type; returns the global parameters and what the nodes own."""
    shared, own = first_global(algo, server, 0), first_own(algo, 0)
    if pool.x.dtype == torch.float64:
        shared, own = double(shared), double(own)
    owns = {int(n): own for n in pool.nodes}
    for round_ in range(1, rounds + 1):
        updates = list(run_nodes(algo, shared, owns.__getitem__, pool, tasks_of(round_), block, steps * (round_ - 1)))
        shared = close_round(aggregator, server, shared, updates, round_)
        owns = {u.node: u.own for u in apart(updates)}
    return shared, owns


def one_node(algo: Algorithm, pool: Pool, i: int, rounds: int) -> Params:
    return train(algo, pool.take(np.array([i])), rounds)[0]


# --------------------------------------------------------------------------------------------- the exact identities


@every_learner
@pytest.mark.parametrize("decay", [None, 7])
def test_one_node_is_central_training_to_the_bit(case: Case, decay: int | None) -> None:
    """A plain loop over all steps of all rounds, that knows of no rounds; the server adds nothing of its own."""
    outer = OPTIMIZERS["adam"](schedule("linear", 0, decay, 0.0) if decay else constant, lr=0.05)
    algo, pool = algorithm(case, outer, "keep"), FLOAT.take(np.array([1]))
    shared, owns = train(algo, pool, rounds=3)

    meta, stats = algo.learner.init(seeds.generator(0, "init"))
    state = outer.init(meta)
    for step in range(9):
        plan = tasks(1 + step // 3)(pool)
        e = gather(pool, plan.support[0, step % 3], plan.query[0, step % 3], plan.labels)
        task_seeds = torch.from_numpy(plan.seeds[0, step % 3])
        now = torch.tensor(step)

        def one(e: Episode, seed: Tensor, meta: Params = meta, stats: Params = stats, now: Tensor = now) -> tuple:
            return algo.learner.meta_gradient(meta, stats, e, now, seed)[:2]

        direction, new = vmap(one)(e, task_seeds)
        meta, state = outer.update({k: v.mean(0) for k, v in direction.items()}, state, meta, now)
        stats = {k: v[0] + (v - v[0]).mean(0) for k, v in new.items()}
    assert same(tree.part(shared, "meta"), meta)
    assert same(tree.part(shared, "stats"), stats)
    assert same(tree.part(owns[5], "outer"), state)


@every_learner
def test_a_clipped_step_is_one_by_the_mean_gradient_made_shorter(case: Case) -> None:
    """All leaves together, after the mean over the tasks; the limit is what half of the steps exceed."""
    outer, pool = OPTIMIZERS["sgd"](lr=0.5), POOL.take(np.array([1]))
    algo = algorithm(case, outer)
    meta, stats = map(double, algo.learner.init(seeds.generator(0, "init")))
    plan, lengths = tasks(1)(pool), []
    for limit in (None, "half"):
        limit = float(np.median(lengths)) if limit else None
        at, running = meta, stats
        for step in range(3):
            e = gather(pool, plan.support[0, step], plan.query[0, step], plan.labels)
            found = [
                algo.learner.meta_gradient(
                    at, running, Episode(*(leaf[i] for leaf in e)), torch.tensor(step), torch.tensor(seed)
                )
                for i, seed in enumerate(plan.seeds[0, step].tolist())
            ]
            mean = {k: torch.stack([direction[k] for direction, _, _ in found]).mean(0) for k in at}
            running = tree.consensus(tree.stack([new for _, new, _ in found]))
            lengths.append(sum(float(v.double().square().sum()) for v in mean.values()) ** 0.5)
            shorter = min(1.0, limit / lengths[-1]) if limit else 1.0
            at = {k: v - 0.5 * shorter * mean[k] for k, v in at.items()}
        ours, _ = train(algo._replace(clip=limit), pool, rounds=1)
        assert gap(tree.part(ours, "meta"), at) < 1e-9, limit


@pytest.mark.parametrize(
    ("case", "aggregator", "state"),
    slow_unless(
        lambda case, aggregator, state: (aggregator, state) == (("mean", {}), "average") or case == ("maml", {}),
        LEARNER_CASES,
        AGGREGATOR_CASES,
        ["reset", "average"],
    ),
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_identical_nodes_are_one_node_to_the_bit(case: Case, aggregator: Case, state: str) -> None:
    """Same rows and same number, so the same episodes; three of them, whose plain float32 mean would differ."""
    algo = algorithm(case, state=state)
    combine = AGGREGATORS[aggregator[0]](**aggregator[1])
    three, _ = train(algo, FLOAT.take(np.array([1, 1, 1])), 2, aggregator=combine)
    one, _ = train(algo, FLOAT.take(np.array([1])), 2, aggregator=combine)
    assert same(three, one)


def test_identical_nodes_are_one_node_in_a_block_too() -> None:
    algo = algorithm(state="average", model=PLAIN)
    three, _ = train(algo, POOL.take(np.array([1, 1, 1])), 2, block=3)
    assert gap(three, train(algo, POOL.take(np.array([1])), 2)[0]) < 1e-12


def updates_of(
    algo: Algorithm,
    pool: Pool,
    block: int = 1,
    steps: int = 3,
    sample: Sample | None = None,
    shared: Params | None = None,
) -> list[One]:
    """What all nodes return from a round, from the global start or another."""
    shared, own = first_global(algo, SERVER, 0) if shared is None else shared, first_own(algo, 0)
    if pool.x.dtype == torch.float64:
        shared, own = double(shared), double(own)
    return apart(run_nodes(algo, shared, lambda n: own, pool, sample or tasks(1, steps), block))


def figures(updates: list[One]) -> Params:
    """Everything that nodes return, in float64."""
    found = {f"{u.node}/{k}": v for u in updates for k, v in u.shared.items()}
    return double(found) | {f"{u.node} {k}": torch.tensor(v).double() for u in updates for k, v in u.metrics.items()}


def float32_error_of(algo: Algorithm, sample: Sample | None = None) -> float:
    """How far `figures` of the pool in float32 may be from those in float64."""

    def answer(start: Params, rows: Params) -> Params:
        return figures(updates_of(algo, POOL._replace(**rows), 5, sample=sample, shared=start))

    return float32_error(answer, double(first_global(algo, SERVER, 0)), {"x": POOL.x})


@every_learner
def test_weights_1_0_0_are_the_first_node_to_the_bit(case: Case) -> None:
    algo = algorithm(case)
    updates = updates_of(algo, FLOAT.take(np.array([0, 1, 2])))
    weighted = [u._replace(weight=w) for u, w in zip(updates, (1, 0, 0), strict=True)]
    closed = close_round(MEAN, SERVER, first_global(algo, SERVER, 0), [beside(weighted)], 1)
    assert same(closed, updates[0].shared)
    assert same(closed, one_node(algo, FLOAT, 0, 1))
    assert gap(closed, updates[1].shared) > 1e-3


@pytest.mark.parametrize(
    "case", [c for c in LEARNER_CASES if c[0] != "reptile" or "inner_optimizer" in c[1]], ids=name_of
)
def test_one_sgd_step_a_node_is_one_meta_step_on_all_tasks(case: Case) -> None:
    """In float64; and in float32 as nearly as float32 can."""
    algo = algorithm(case, OPTIMIZERS["sgd"](lr=0.4))

    def federated(pool: Pool) -> Params:
        uniform = AGGREGATORS["mean"](weight_by="uniform")
        return tree.part(train(algo, pool, 1, aggregator=uniform, tasks_of=lambda r: tasks(r, steps=1))[0], "meta")

    def central(start: Params, rows: Params) -> Params:
        plan, pool = tasks(1, steps=1)(POOL), POOL._replace(**rows)
        union = Episode(*(leaf.flatten(0, 2) for leaf in gather(pool, plan.support, plan.query, plan.labels)))
        meta, stats = tree.part(start, "meta"), tree.part(start, "stats")
        directions = vmap(lambda e, s: algo.learner.meta_gradient(meta, stats, e, torch.tensor(0), s)[0])(
            union, torch.from_numpy(plan.seeds.reshape(-1))
        )
        return {k: v - 0.4 * directions[k].mean(0) for k, v in meta.items()}

    inputs = double(first_global(algo, SERVER, 0)), {"x": POOL.x}
    assert gap(federated(POOL), central(*inputs)) < 1e-12
    assert gap(double(federated(FLOAT)), central(*inputs)) < float32_error(central, *inputs)


@every_learner
def test_the_order_of_nodes_does_not_matter(case: Case) -> None:
    algo = algorithm(case, state="average", model=PLAIN)
    one, _ = train(algo, FLOAT, 1)
    two, _ = train(algo, FLOAT.take(np.array([3, 0, 4, 2, 1])), 1)
    torch.testing.assert_close(one, two, rtol=EPS, atol=1e-12)  # the nodes' own bits are the same, sums are in float64


@every_aggregator
def test_the_mean_is_the_weighted_mean(aggregator: Case) -> None:
    """In float64, so also where float32 sums would lose the small node; a count stays whole."""
    assert covered(AGGREGATOR_CASES, AGGREGATORS)
    updates = [
        One(i, {"meta/w": rand(4, seed=i).float() * 10.0**i, "stats/n": torch.tensor(7)}, {}, w, {})
        for i, w in enumerate((10, 1_000_000, 3))
    ]
    rule = AGGREGATORS[aggregator[0]](**aggregator[1])
    mean = combined(rule, updates[0].shared, [beside(updates[:2]), beside(updates[2:])])
    weights = [1.0] * 3 if aggregator[1] else [10.0, 1e6, 3.0]
    values = np.stack([u.shared["meta/w"].numpy().astype(np.float64) for u in updates])
    expected = np.average(values, axis=0, weights=weights).astype(np.float32)
    np.testing.assert_array_max_ulp(mean["meta/w"].numpy(), expected, maxulp=1)
    assert mean["meta/w"].dtype == torch.float32
    assert torch.equal(mean["stats/n"], torch.tensor(7))


@every_aggregator
@given(cuts=st.sets(st.integers(1, 69)), large=st.booleans())
def test_the_mean_has_the_same_bits_however_its_nodes_come(aggregator: Case, cuts: set[int], large: bool) -> None:
    """One at a time from files, or in blocks; large: few values are held at a time. The sums are not exact."""
    turned = rand(40, 70) * 10.0 ** (12 * rand(40, 70, seed=1))
    shared = {"meta/w": turned.t().reshape(70, 5, 8).clone(), "meta/turned": turned.t(), "stats/n": torch.arange(70)}
    whole = Updates([*range(70)], shared, {}, [1 + 7 * i % 11 for i in range(70)], {})
    parts = [whole.take([*range(begin, end)]) for begin, end in pairwise([0, *sorted(cuts), 70])]
    rule, old = AGGREGATORS[aggregator[0]](**aggregator[1]), tree.index(shared, 0)
    summed: list[list[int]] = []  # rows at a time: some machines' sums depend on it
    addmv_ = Tensor.addmv_

    def watched(into: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        summed[-1].append(len(weights))
        return addmv_(into, rows, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["metadist_cli.federated.aggregators.mean"], "_VALUES", 1000 if large else 1 << 22)
        patch.setattr(Tensor, "addmv_", watched)
        ends = [summed.append([]) or combined(rule, old, updates) for updates in (parts, [whole])]
    assert same(*ends)
    assert summed[0] == summed[1]
    assert max(summed[0]) == (12 if large else 32)


# ---------------------------------------------------------------------------------------- the mistake to be avoided


def one_model_through_all_nodes(algo: Algorithm, pool: Pool) -> Params:
    """The published mistake: one model goes from node to node, and at the end is divided by their number."""
    shared, own = first_global(algo, SERVER, 0), first_own(algo, 0)
    for i in range(len(pool.nodes)):
        (update,) = apart(run_nodes(algo, shared, lambda n: own, pool.take(np.array([i])), tasks(1), 1))
        shared = update.shared
    return {k: v / len(pool.nodes) for k, v in tree.part(shared, "meta").items()}


@every_learner
def test_averaging_is_not_one_model_through_all_nodes_divided_by_their_number(case: Case) -> None:
    """On parameters: accuracy hides a scale that argmax does not see."""
    algo = algorithm(case)
    for places in ([0, 1, 2], [1, 1, 1]):
        pool = FLOAT.take(np.array(places))
        ours = tree.part(train(algo, pool, 1, aggregator=AGGREGATORS["mean"](weight_by="uniform"))[0], "meta")
        wrong = one_model_through_all_nodes(algo, pool)
        norm, shrunk = (sum(float(v.square().sum()) for v in p.values()) ** 0.5 for p in (ours, wrong))
        assert shrunk < norm / 2  # about a third
        alone = [tree.part(u.shared, "meta") for u in updates_of(algo, pool)]
        by_hand = {k: (sum(one[k].double() for one in alone) / 3).float() for k in ours}
        torch.testing.assert_close(ours, by_hand, rtol=EPS, atol=1e-12)
        assert gap(wrong, by_hand) > 0.1
    assert same(ours, alone[0])  # the identical nodes


def test_every_node_starts_from_the_same_parameters() -> None:
    """A node's update is the same with whoever was trained before it."""
    algo = algorithm(state="keep")
    together = updates_of(algo, FLOAT)
    for i, update in enumerate(together):
        (alone,) = updates_of(algo, FLOAT.take(np.array([i])))
        assert (alone.node, alone.weight) == (update.node, SIZES[i])
        assert same(alone.shared, update.shared)
        assert same(alone.own, update.own)


# ---------------------------------------------------------------------------------------------------------- blocks


@every_learner
def test_blocks_agree(case: Case) -> None:
    algo = algorithm(case, state="average", model=PLAIN)
    loop = updates_of(algo, POOL)
    for pool, within in ((POOL, 1e-12), (FLOAT, float32_error_of(algo))):
        for block in (1, 2, 4, 5, 100):
            updates = updates_of(algo, pool, block)
            assert [(u.node, u.weight) for u in updates] == [(u.node, u.weight) for u in loop]
            assert gap(figures(updates), figures(loop)) < within


@pytest.mark.parametrize("model", [BATCH_NORM, ("conv4", {"width": 4, "norm": "batch"})], ids=name_of)
@pytest.mark.parametrize("state", ["reset", "keep", "average"])
def test_blocks_agree_over_rounds(model: Case, state: str) -> None:
    pool = POOL if model is BATCH_NORM else nodes_of(SIZES, shape=(9, 9))
    learner = learner_of(("maml", {"inner_lr": 0.3}), model_of(model, (4,) if model is BATCH_NORM else (9, 9)))
    algo = Algorithm(learner, OPTIMIZERS["momentum"](lr=0.05), state, NO_DRIFT, Personal())
    (one, one_own), (two, two_own) = (train(algo, pool, 3, block=b) for b in (1, 3))
    assert gap(one, two) < 1e-10  # rounding grows over nine steps
    assert max(gap(one_own[n], two_own[n]) for n in one_own) < 1e-11


@pytest.mark.parametrize("block", [1, 4, 100])
def test_epochs_of_unequal_nodes_are_a_plain_loop(block: int) -> None:
    """FedAvg as published: autograd, torch's Adam, every node its own number of steps, weighted by rows."""
    algo = algorithm(("supervised", {}), model=PLAIN)
    sample = lambda pool: epochs(0, 2, 1, 0, 7)(pool, 1)  # noqa: E731
    start = double(first_global(algo, SERVER, 0))
    updates = apart(run_nodes(algo, start, lambda n: {}, POOL, sample, block))
    plan = sample(POOL)
    assert plan.active.sum(1).tolist() == [6, 10, 8, 4, 6]
    for i, update in enumerate(updates):
        leaves = {k: v.clone().requires_grad_() for k, v in tree.part(start, "meta").items()}
        adam = torch.optim.Adam(list(leaves.values()), lr=0.05)
        losses = []
        for rows in plan.query[i, plan.active[i], 0]:
            x, y = POOL.x[torch.from_numpy(rows)], POOL.y[torch.from_numpy(rows)]
            hidden = F.linear(x, leaves["layer0.weight"], leaves["layer0.bias"]).tanh()
            loss = F.cross_entropy(F.linear(hidden, leaves["head.weight"], leaves["head.bias"]), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
        assert gap(tree.part(update.shared, "meta"), {k: v.detach() for k, v in leaves.items()}) < 1e-12
        assert update.metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-12)  # of the node's own steps alone
        assert update.weight == SIZES[i]


def test_an_inactive_step_changes_nothing() -> None:
    algo = algorithm()
    start = algo.open(first_global(algo, SERVER, 0), first_own(algo, 0))
    plan = tasks(1)(FLOAT)
    e = Episode(*(leaf[0] for leaf in gather(FLOAT, plan.support[:, 0], plan.query[:, 0], plan.labels)))
    task_seeds = torch.from_numpy(plan.seeds[0, 0])
    for active in (True, False):
        carry, _ = node_step(algo, start, e, task_seeds, torch.tensor(active), torch.tensor(0))
        assert [same(a, b) for a, b in zip(carry[:-1], start[:-1], strict=True)] + [
            torch.equal(carry.count, start.count)
        ] == [not active, not active, not active, True, True, not active]


# --------------------------------------------------------------------------------------------- optimiser states


@pytest.mark.parametrize("state", ["reset", "keep", "average"])
@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_what_becomes_of_the_optimisers_state(name: str, state: str) -> None:
    """Two nodes and three rounds by hand."""
    outer = OPTIMIZERS[name](lr=0.05)
    algo, pool = algorithm(("supervised", {}), outer, state, PLAIN), POOL.take(np.array([0, 1]))
    shared, owns = train(algo, pool, 3)

    meta = tree.part(double(first_global(algo, SERVER, 0)), "meta")
    kept = [outer.init(meta), outer.init(meta)]
    everybodys = outer.init(meta)
    share = [18 / 48, 30 / 48]
    for round_ in range(1, 4):
        plan = tasks(round_)(pool)
        metas, states = [], []
        for i in range(2):
            mine = meta
            moments = {"reset": outer.init(meta), "keep": kept[i], "average": everybodys}[state]
            for s in range(3):
                e = gather(pool, plan.support[i, s], plan.query[i, s], plan.labels)
                directions = [
                    algo.learner.meta_gradient(mine, {}, Episode(*(leaf[t] for leaf in e)), None, None)[0]
                    for t in range(2)
                ]
                direction = {k: (directions[0][k] + directions[1][k]) / 2 for k in mine}
                mine, moments = outer.update(direction, moments, mine, s)
            metas.append(mine)
            states.append(moments)
        kept = states
        meta, everybodys = ({k: share[0] * one[k] + share[1] * two[k] for k in one} for one, two in (metas, states))
    assert gap(tree.part(shared, "meta"), meta) < 1e-12
    assert gap(tree.part(shared, "outer"), everybodys if state == "average" else {}) < 1e-12
    for i, node in enumerate(pool.nodes.tolist()):
        assert gap(tree.part(owns[node], "outer"), kept[i] if state == "keep" else {}) < 1e-12


@pytest.mark.parametrize("state", ["reset", "keep", "average"])
def test_open_and_close_are_inverse(state: str) -> None:
    algo = algorithm(("reptile", {}), state=state)
    shared, own = algo.start(seeds.generator(0))
    assert {k.split("/")[0] for k in shared} == {"meta", "stats"} | ({"outer"} if state == "average" else set())
    assert {k.split("/")[0] for k in own} == ({"outer"} if state == "keep" else set())
    again = algo.close(algo.open(shared, own))
    assert same(again[0], shared)
    assert same(again[1], own)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_the_server_descends_from_old_to_mean(name: str) -> None:
    """FedAvgM and FedAdam by torch.optim on the pseudo-gradient old - mean; its own schedule counts rounds."""
    server = OPTIMIZERS[name](lr=0.5)
    oracle = {"momentum": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    algo = algorithm(("supervised", {}), OPTIMIZERS["sgd"](lr=0.3))
    ours, _ = train(algo, POOL, 3, server=server)

    shared, own = double(first_global(algo, server, 0)), double(first_own(algo, 0))
    leaves = {k: v.clone().requires_grad_() for k, v in tree.part(shared, "meta").items()}
    step = oracle(list(leaves.values()), lr=0.5, **({"momentum": 0.9} if name == "momentum" else {}))
    for round_ in range(1, 4):
        shared |= {f"meta/{k}": v.detach().clone() for k, v in leaves.items()}
        mean = combined(
            MEAN, shared_part(shared), run_nodes(algo, shared, lambda n: own, POOL, tasks(round_), 1, 3 * (round_ - 1))
        )
        for k, leaf in leaves.items():
            leaf.grad = shared[f"meta/{k}"] - mean[f"meta/{k}"]
        step.step()
        shared |= mean
    assert gap(tree.part(ours, "meta"), {k: v.detach() for k, v in leaves.items()}) < 1e-10
    assert gap(tree.part(ours, "stats"), tree.part(shared, "stats")) < 1e-10


def test_the_servers_schedule_counts_rounds() -> None:
    server = OPTIMIZERS["sgd"](schedule("linear", 0, 4, 0.0), lr=1.0)
    old, new = {"meta/w": torch.zeros(1)}, beside([One(0, {"meta/w": torch.ones(1)}, {}, 1, {})])
    assert [float(close_round(MEAN, server, old, [new], r)["meta/w"]) for r in (1, 2, 3, 4, 5)] == [
        1,
        0.75,
        0.5,
        0.25,
        0,
    ]


def test_global_steps_go_on_over_rounds() -> None:
    """The nodes' schedule counts local steps from the first round on, not from each round's first."""
    algo = algorithm(("supervised", {}), OPTIMIZERS["sgd"](schedule("linear", 0, 6, 0.0), lr=0.3))
    two, _ = train(algo, FLOAT, 2)
    assert same(tree.part(train(algo, FLOAT, 3)[0], "meta"), tree.part(two, "meta"))  # the rate is 0 from step 6 on
    assert gap(tree.part(train(algo, FLOAT, 1)[0], "meta"), tree.part(two, "meta")) > 1e-3


# ------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("block", [1, 3])
def test_a_node_that_diverges_is_named(block: int) -> None:
    x = FLOAT.x.clone()
    x[int(FLOAT.row_start[2]) + 1] = float("inf")
    with pytest.raises(Problem, match="training diverged") as caught:
        updates_of(algorithm(), FLOAT._replace(x=x), block, steps=20)
    assert caught.value.where == "node 7"


def test_plans_are_drawn_block_by_block() -> None:
    asked: list[list[int]] = []

    def sample(pool: Pool) -> TaskIndices:
        asked.append(pool.nodes.tolist())
        return local(0, 2, 1, 3, 3)(pool, 1)

    algo = algorithm(("supervised", {}))
    updates = run_nodes(algo, first_global(algo, SERVER, 0), lambda n: {}, FLOAT, sample, 2)
    assert asked == []
    next(updates)
    assert asked == [[3, 5]]
    assert [u.nodes for u in updates] == [[7, 9], [11]]
    assert asked == [[3, 5], [7, 9], [11]]


def test_no_local_step_leaves_the_parameters() -> None:
    algo = algorithm()
    for update in updates_of(algo, FLOAT, block=2, steps=0):
        assert same(update.shared, algo.start(seeds.generator(0, "init"))[0])
        assert update.metrics == {}


def test_a_block_that_is_too_large_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for two nodes: the block of five is tried, then two at a time; no node is lost, and all in their order."""
    algo, told, tried = algorithm(model=PLAIN), [], []
    whole = node_training.train_block

    def small(work: Any, pool: Pool, *rest: Any) -> Any:
        tried.append(len(pool.nodes))
        if len(pool.nodes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(work, pool, *rest)

    expected = updates_of(algo, POOL, block=5)
    monkeypatch.setattr(node_training, "train_block", small)
    shared, own = double(first_global(algo, SERVER, 0)), double(first_own(algo, 0))
    updates = run_nodes(algo, shared, lambda n: own, POOL, tasks(1), MemoryLimit(5, warn=told.append))
    updates = apart(updates)
    assert (told, tried) == ([2], [5, 2, 2, 1])
    for one, two in zip(updates, expected, strict=True):
        assert one.node == two.node
        assert gap(one.shared, two.shared) < 1e-11
    with pytest.raises(Problem, match="out of memory while training a single node"), MemoryLimit(1).trying(1):
        raise MemoryError
    with pytest.raises(RuntimeError, match="another"), MemoryLimit(4).trying(4):
        raise RuntimeError("another error")


@proc
def test_a_real_lack_of_memory_halves_the_block() -> None:
    """A process whose address space ends soon; the same nodes as without the limit, to rounding."""
    script = """
import resource, sys
sys.path[:0] = ["tests", "tests/federated"]
from test_rounds import *
algo = algorithm(("supervised", {}), OPTIMIZERS["sgd"](lr=0.1), model=("mlp", {"hidden": [2000]}))
pool = nodes_of([18] * 600)
sample = lambda part: local(0, 1, 1, 0, 18)(part, 1)
shared = double(first_global(algo, SERVER, 0))
run = lambda limit: apart(run_nodes(algo, shared, lambda n: {}, pool, sample, limit))
told = []
free = [one.metrics["loss"] for one in run(MemoryLimit(600))]
used = 1024 * int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), -1))
few = [one.metrics["loss"] for one in run(MemoryLimit(600, warn=told.append))]
print(told, max(abs(a - b) for a, b in zip(free, few, strict=True)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, _, difference = done.stdout.strip().rpartition(" ")
    assert told[:2] == "[3"  # 300, and less where that was still too much
    assert float(difference) < 1e-12


@pytest.mark.parametrize(
    ("case", "block"),
    slow_unless(lambda case, block: block == 5 or case == ("maml", {}), LEARNER_CASES, [1, 5]),
    ids=lambda value: value if isinstance(value, int) else name_of(value),
)
def test_some_tasks_at_a_time_are_all_tasks(case: Case, block: int) -> None:
    algo, count = algorithm(case, model=PLAIN), 5
    (whole, _), *others = (
        train(algo._replace(tasks_at_once=few), POOL, 1, block, tasks_of=lambda r: tasks(r, count=count))
        for few in (None, 1, 2, 5, 9)
    )
    for shared, _ in others:
        assert gap(shared, whole) < 1e-11


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its own
def test_a_compiled_step_is_the_same_step() -> None:
    """Unequal epochs, so that steps are masked too; Adam's state is carried from step to step."""
    algo = algorithm(model=PLAIN)
    sample = lambda pool: epochs(0, 2, 1, 3, 4)(pool, 1)  # noqa: E731
    exact = figures(updates_of(algo, POOL, 5, sample=sample))
    for one in (algo, algo._replace(compiled=True)):
        assert gap(figures(updates_of(one, FLOAT, 5, sample=sample)), exact) < float32_error_of(algo, sample)


def test_chosen_nodes() -> None:
    nodes = [3, 5, 8, 9, 12, 20, 21, 33]
    assert sample_nodes(0, 1, nodes, "all") == nodes
    for per_round, size in ((3, 3), (99, 8), (0.5, 4), (0.01, 1)):
        drawn = [sample_nodes(0, r, nodes, per_round) for r in range(50)]
        assert all(len(d) == size and sorted(set(d)) == d and set(d) <= set(nodes) for d in drawn)
        assert drawn == [sample_nodes(0, r, nodes, per_round) for r in range(50)]
    often = np.bincount(np.concatenate([sample_nodes(0, r, nodes, 3) for r in range(2000)]), minlength=34)[nodes]
    assert abs(often - 750).max() < 5 * (2000 * 3 / 8 * 5 / 8) ** 0.5
    assert sample_nodes(0, 1, nodes, 3) != sample_nodes(1, 1, nodes, 3) or sample_nodes(0, 2, nodes, 3) != sample_nodes(
        1, 2, nodes, 3
    )
