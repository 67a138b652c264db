"""Federated methods against plain loops: FedProx, SCAFFOLD, FedMeta, Per-FedAvg, FedBN, FedRep and Ditto.

The oracles know torch.autograd and torch.optim and the papers' formulas; a model is one flat vector to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maths import (
    DRIFT_CASES,
    PERSONAL_CASES,
    Case,
    One,
    apart,
    close_round,
    covered,
    double,
    first_global,
    first_own,
    gap,
    jitter,
    learner_of,
    model_of,
    name_of,
    nodes_of,
    rand,
    run_nodes,
    same,
    slow_unless,
)
from torch import Tensor

from metadist_cli.core import tree
from metadist_cli.core.losses import SQUARED_ERROR
from metadist_cli.core.optimizers import OPTIMIZERS, Optimizer
from metadist_cli.core.tree import Params
from metadist_cli.federated.aggregators import AGGREGATORS, Aggregator
from metadist_cli.federated.drift_corrections import DRIFTS
from metadist_cli.federated.local_training import Algorithm, node_step
from metadist_cli.federated.personalization import PERSONAL
from metadist_cli.partition.shards import Shard
from metadist_cli.partition.shards import pool as pool_of
from metadist_cli.tasks.episodes import Pool, TaskIndices, episodic, epochs, local
from metadist_cli.tasks.gathering import gather
from metadist_cli.tasks.types import Episode

SIZES = [18, 30, 24, 12, 21, 15]
POOL = nodes_of(SIZES)
FLOAT = POOL._replace(x=POOL.x.float())
EVERYBODY = range(len(SIZES))
SOME = [[0, 2, 5], [1, 2, 3], [3, 4, 5], [0, 1, 4]]  # who takes part where half of them do
PLAIN: Case = ("mlp", {"hidden": [5], "activation": "tanh"})
NORMED: Case = ("mlp", {"hidden": [5], "norm": "batch_running", "activation": "tanh"})
# Blocks and loops differ by rounding, which Adam makes steps of where a gradient is 0 but for it: a bias before batch
# norm has such a one, before group norm not
GROUPED: Case = ("mlp", {"hidden": [5], "norm": "group", "activation": "tanh"})
NONE: Case = ("none", {})
SUPERVISED: Case = ("supervised", {})
CONTRACT_LEARNERS: list[Case] = [
    SUPERVISED,
    ("maml", {"inner_lr": 0.3, "learn_rates": True}),
    ("reptile", {"inner_steps": 2, "inner_lr": 0.02}),
]
SERVER = OPTIMIZERS["sgd"](lr=1.0)
UNIFORM, BY_ROWS = AGGREGATORS["mean"](weight_by="uniform"), AGGREGATORS["mean"]()
LR = 0.3
Sample = Callable[[int], Callable[[Pool], TaskIndices]]


def algorithm(
    learner: Case = SUPERVISED,
    drift: Case = NONE,
    personal: Case = NONE,
    outer: Optimizer | None = None,
    state: str = "reset",
    model: Case = PLAIN,
) -> Algorithm:
    return Algorithm(
        learner_of(learner, model_of(model, (4,))),
        outer or OPTIMIZERS["sgd"](lr=LR),
        state,
        DRIFTS[drift[0]](**drift[1]),
        PERSONAL[personal[0]](**personal[1]),
    )


def batches(round_: int, steps: int = 4) -> Callable[[Pool], TaskIndices]:
    """One batch of six rows a step."""
    return lambda pool: local(0, steps, 1, 0, 6)(pool, round_)


def passes(round_: int) -> Callable[[Pool], TaskIndices]:
    """Two epochs in batches of six: nodes of unequal size make unequal numbers of steps."""
    return lambda pool: epochs(0, 2, 1, 0, 6)(pool, round_)


def tasks(round_: int, steps: int = 3, count: int = 2) -> Callable[[Pool], TaskIndices]:
    return lambda pool: episodic(0, steps, count, way=3, shot=1, query=2)(pool, round_)


def beginning(algo: Algorithm, pool: Pool, server: Optimizer = SERVER) -> tuple[Params, Params]:
    shared, own = first_global(algo, server, 0), first_own(algo, 0)
    return (double(shared), double(own)) if pool.x.dtype == torch.float64 else (shared, own)


def play(
    algo: Algorithm,
    pool: Pool = POOL,
    rounds: int = 3,
    sample: Sample = batches,
    combine: Aggregator = UNIFORM,
    chosen: Sequence[Sequence[int]] | None = None,
    server: Optimizer = SERVER,
    block: int = 1,
) -> tuple[Params, dict[int, Params]]:
    """The program under test: the global parameters, and by place in the pool what each node owns at the end."""
    shared, own = beginning(algo, pool, server)
    owns = [own] * len(pool.nodes)
    for round_ in range(1, rounds + 1):
        places = list(range(len(pool.nodes)) if chosen is None else chosen[round_ - 1])
        place_of = {int(pool.nodes[p]): p for p in places}
        part = pool.take(np.array(places))
        own_of = lambda n: owns[place_of[n]]  # noqa: B023, E731
        updates = list(run_nodes(algo, shared, own_of, part, sample(round_), block, 10 * (round_ - 1)))
        shared = close_round(combine, server, shared, updates, round_, pool.row_count.tolist())
        owns = owns.copy()
        for place, update in zip(places, apart(updates), strict=True):
            owns[place] = update.own
    return shared, dict(enumerate(owns))


# ------------------------------------------------------------------------------------- oracles: a model is a vector


def flat(params: Params) -> Tensor:
    return torch.cat([params[k].detach().reshape(-1) for k in sorted(params)])


def shaped(vector: Tensor, like: Params) -> Params:
    parts = vector.split([like[k].numel() for k in sorted(like)])
    return {k: part.reshape(like[k].shape) for k, part in zip(sorted(like), parts, strict=True)}


def mask(like: Params, *beginnings: str) -> Tensor:
    """True where a value belongs to a parameter with such a name."""
    return flat({k: torch.full_like(v, float(k.startswith(beginnings))) for k, v in like.items()}) > 0


def loss_of(params: Params, x: Tensor, y: Tensor) -> Tensor:
    hidden = F.linear(x, params["layer0.weight"], params["layer0.bias"])
    if "norm0.scale" in params:
        hidden = F.batch_norm(hidden, None, None, params["norm0.scale"], params["norm0.shift"], training=True)
    return F.cross_entropy(F.linear(hidden.tanh(), params["head.weight"], params["head.bias"]), y)


def gradient(vector: Tensor, like: Params, x: Tensor, y: Tensor) -> Tensor:
    leaf = vector.detach().clone().requires_grad_()
    return torch.autograd.grad(loss_of(shaped(leaf, like), x, y), leaf)[0]


def batch(plan: TaskIndices, i: int, s: int) -> tuple[Tensor, Tensor]:
    """The rows of a node's step."""
    at = torch.from_numpy(plan.query[i, s, 0])
    return POOL.x[at], POOL.y[at]


def steps_of(plan: TaskIndices, i: int) -> int:
    return int(plan.active[i].sum())


def first_params(model: Case = PLAIN) -> Params:
    return tree.part(beginning(algorithm(model=model), POOL)[0], "meta")


def by_rows(vectors: Sequence[Tensor], places: Sequence[int]) -> Tensor:
    weights = torch.tensor([float(SIZES[i]) for i in places], dtype=torch.float64)
    return (weights[:, None] * torch.stack(list(vectors))).sum(0) / weights.sum()


# ---------------------------------------------------------------------------------------------------------- FedProx


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("sample", [batches, passes])
def test_fedprox_is_sgd_on_the_proximal_loss(name: str, sample: Sample) -> None:
    mu, like = 0.7, first_params()
    oracle = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    algo = algorithm(drift=("fedprox", {"mu": mu}), outer=OPTIMIZERS[name](lr=0.1))
    ours, owns = play(algo, sample=sample, combine=BY_ROWS)

    centre = flat(like)
    for round_ in range(1, 4):
        plan, ends = sample(round_)(POOL), []
        for i in EVERYBODY:
            w = centre.clone().requires_grad_()
            optimizer = oracle([w], lr=0.1)
            for s in range(steps_of(plan, i)):
                optimizer.zero_grad()
                (loss_of(shaped(w, like), *batch(plan, i, s)) + mu / 2 * (w - centre).square().sum()).backward()
                optimizer.step()
            ends.append(w.detach())
        centre = by_rows(ends, EVERYBODY)
    assert gap(flat(tree.part(ours, "meta")), centre) < 1e-12
    assert set(ours) == {f"meta/{k}" for k in like}  # nothing else is sent
    assert owns[0] == {}


@pytest.mark.parametrize(
    ("learner", "personal"),
    slow_unless(lambda learner, personal: learner == SUPERVISED or personal == NONE, CONTRACT_LEARNERS, PERSONAL_CASES),
    ids=name_of,
)
def test_fedprox_without_its_weight_is_plain_to_the_bit(learner: Case, personal: Case) -> None:
    outer = OPTIMIZERS["adam"](lr=0.05)

    def end(drift: Case) -> Params:
        algo = algorithm(learner, drift, personal, outer, model=NORMED)
        shared, owns = play(algo, FLOAT, 2, partial(tasks, steps=4), chosen=SOME)
        return shared | tree.prefixed(**{str(i): own for i, own in owns.items()})

    plain = end(NONE)
    assert same(end(("fedprox", {"mu": 0.0})), plain)
    assert not same(end(("fedprox", {"mu": 0.1})), plain)


def test_fedprox_holds_the_nodes_near() -> None:
    def away(mu: float) -> float:
        algo = algorithm(drift=("fedprox", {"mu": mu}), outer=OPTIMIZERS["sgd"](lr=0.1))
        shared, own = beginning(algo, POOL)
        updates = run_nodes(algo, shared, lambda n: own, POOL, batches(1, 20), 1)
        return max(gap(u.shared, shared) for u in apart(updates))

    far = [away(mu) for mu in (0.0, 0.5, 2.0, 8.0)]
    assert far == sorted(far, reverse=True)
    assert far[0] > 0.3
    assert far[-1] < far[0] / 5


# --------------------------------------------------------------------------------------------------------- SCAFFOLD


@pytest.mark.parametrize("sample", [batches, passes])
@pytest.mark.parametrize("chosen", [None, SOME], ids=["all", "half"])
def test_scaffold_is_algorithm_1_option_2(sample: Sample, chosen: list[list[int]] | None) -> None:
    ours, owns = play(algorithm(drift=("scaffold", {})), POOL, 4, sample, chosen=chosen)

    like = first_params()
    x = flat(like)
    c, nodes = torch.zeros_like(x), len(SIZES)
    c_i = [torch.zeros_like(x) for _ in EVERYBODY]
    for round_ in range(1, 5):
        plan, places = sample(round_)(POOL), EVERYBODY if chosen is None else chosen[round_ - 1]
        dy, dc = [], []
        for i in places:
            y, steps = x, steps_of(plan, i)
            for s in range(steps):
                y = y - LR * (gradient(y, like, *batch(plan, i, s)) - c_i[i] + c)
            new = c_i[i] - c + (x - y) / (steps * LR)
            dy.append(y - x)
            dc.append(new - c_i[i])
            c_i[i] = new
        x = x + torch.stack(dy).mean(0)
        c = c + len(places) / nodes * torch.stack(dc).mean(0)
    assert gap(flat(tree.part(ours, "meta")), x) < 1e-12
    assert gap(flat(tree.part(ours, "control")), c) < 1e-12
    for i in EVERYBODY:
        assert gap(flat(tree.part(owns[i], "node")), c_i[i]) < 1e-12
    assert gap(c, torch.stack(c_i).mean(0)) < 1e-12  # lemma of the paper: c is the mean of all c_i
    assert c.abs().max() > 0.01


def test_scaffold_with_adam_at_the_nodes() -> None:
    """Its variate is the mean of the node's directions, whatever the optimiser makes of them."""
    ours, owns = play(algorithm(drift=("scaffold", {}), outer=OPTIMIZERS["adam"](lr=0.05)))
    like = first_params()
    x = flat(like)
    c_i = [torch.zeros_like(x) for _ in EVERYBODY]
    for round_ in range(1, 4):
        plan, ends, means, c = batches(round_)(POOL), [], [], torch.stack(c_i).mean(0)
        for i in EVERYBODY:
            y = x.clone().requires_grad_()
            adam, directions = torch.optim.Adam([y], lr=0.05), []
            for s in range(4):
                directions.append(gradient(y, like, *batch(plan, i, s)))
                y.grad = directions[-1] - c_i[i] + c
                adam.step()
            ends.append(y.detach())
            means.append(torch.stack(directions).mean(0))
        x, c_i = torch.stack(ends).mean(0), means
    assert gap(flat(tree.part(ours, "meta")), x) < 1e-10
    assert max(gap(flat(tree.part(owns[i], "node")), c_i[i]) for i in EVERYBODY) < 1e-10


@pytest.mark.parametrize("learner", CONTRACT_LEARNERS, ids=name_of)
def test_scaffold_of_one_node_is_plain(learner: Case) -> None:
    """The two variates are equal."""
    alone = POOL.take(np.array([1]))
    one, two = (
        play(algorithm(learner, d, outer=OPTIMIZERS["momentum"](lr=0.05)), alone, 4, tasks)[0]
        for d in (("scaffold", {}), NONE)
    )
    assert gap(tree.part(one, "meta"), tree.part(two, "meta")) < 1e-13


def lines(sizes: Sequence[int], weights: Sequence[float]) -> tuple[Pool, np.ndarray]:
    """Linear regressions that disagree, some much steeper than the others, and what minimises their weighted losses."""
    shards, rows, values = [], [], []
    for node, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        x = (1.2 if node % 2 else 0.4) * rand(size, 2, seed=node).numpy()
        target = (-1.0 if node % 2 else 2.0) * x.sum(1, keepdims=True) + node
        shards.append(Shard(node, str(node), "train", x, np.zeros(size, np.int64), target, np.arange(size)))
        root = (weight / size) ** 0.5
        rows.append(root * np.concatenate([x, np.ones((size, 1))], axis=1))
        values.append(root * target[:, 0])
    return pool_of(shards, 1), np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]


def all_rows(round_: int) -> Callable[[Pool], TaskIndices]:
    """Eight steps, in each of which a node takes all of its rows equally often."""

    def sample(pool: Pool) -> TaskIndices:
        rows = [start + np.resize(np.arange(n), 40) for start, n in zip(pool.row_start, pool.row_count, strict=True)]
        lead = (len(rows), 8, 1)
        query = np.broadcast_to(np.stack(rows)[:, None, None], (*lead, 40)).copy()
        return TaskIndices(query[..., :0], query, np.ones(lead[:2], bool), np.zeros(lead, np.int64))

    return sample


@pytest.mark.parametrize("combine", [UNIFORM, BY_ROWS], ids=["uniform", "rows"])
@pytest.mark.parametrize("half", [False, True])
def test_scaffold_ends_at_the_joint_optimum_and_fedavg_does_not(combine: Callable, half: bool) -> None:
    sizes = (8, 40, 20, 10)
    pool, best = lines(sizes, (1, 1, 1, 1) if combine is UNIFORM else sizes)
    assert pool.x.dtype == torch.float64
    learner = learner_of(SUPERVISED, model_of(("mlp", {"hidden": []}), (2,), 1), SQUARED_ERROR)
    draw = np.random.default_rng(0)
    chosen = [sorted(draw.choice(4, 2 if half else 4, replace=False).tolist()) for _ in range(90)]

    def end(drift: str) -> np.ndarray:
        algo = Algorithm(learner, OPTIMIZERS["sgd"](lr=0.15), "reset", DRIFTS[drift](), PERSONAL["none"]())
        shared, _ = play(algo, pool, len(chosen), all_rows, combine, chosen, block=4)
        return np.append(shared["meta/head.weight"].numpy().ravel(), shared["meta/head.bias"].numpy())

    assert np.abs(end("none") - best).max() > 0.1
    assert np.abs(end("scaffold") - best).max() < 1e-4


def test_scaffold_leaves_what_stays_at_the_node_alone() -> None:
    shared, own = beginning(algorithm(drift=("scaffold", {}), personal=("fedrep", {})), POOL)
    body = {"layer0.weight", "layer0.bias"}
    assert set(tree.part(shared, "control")) == set(tree.part(own, "node")) == body


# ------------------------------------------------------------------------------------------- FedMeta and Per-FedAvg


def support_and_query(plan: TaskIndices, i: int, s: int, t: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    assert plan.labels is not None
    (a, b), (y, z) = (
        (torch.from_numpy(p[i, s, t]) for p in (plan.support, plan.query)),
        map(torch.from_numpy, plan.labels),
    )
    return (POOL.x[a], y), (POOL.x[b], z)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("combine", [UNIFORM, BY_ROWS], ids=["uniform", "rows"])
def test_fedmeta_is_central_adam_on_the_mean_meta_gradient(first_order: bool, combine: Callable) -> None:
    alpha, server = 0.4, OPTIMIZERS["adam"](lr=0.05)
    learner: Case = ("maml", {"inner_lr": alpha, "inner_steps": 2, "first_order": first_order})
    algo = algorithm(learner, outer=OPTIMIZERS["sgd"](lr=1.0))
    ours, _ = play(algo, POOL, 5, partial(tasks, steps=1), combine, server=server)

    like = first_params()
    w = flat(like).requires_grad_()
    adam = torch.optim.Adam([w], lr=0.05)
    weights = [1 / len(SIZES)] * len(SIZES) if combine is UNIFORM else [size / sum(SIZES) for size in SIZES]
    for round_ in range(1, 6):
        plan, total = tasks(round_, 1)(POOL), torch.zeros(())
        for i in EVERYBODY:
            for t in range(2):
                support, query = support_and_query(plan, i, 0, t)
                adapted = w
                for _ in range(2):
                    g = torch.autograd.grad(loss_of(shaped(adapted, like), *support), adapted, create_graph=True)[0]
                    adapted = adapted - alpha * (g.detach() if first_order else g)
                total = total + weights[i] / 2 * loss_of(shaped(adapted, like), *query)
        adam.zero_grad()
        total.backward()
        adam.step()
    assert gap(flat(tree.part(ours, "meta")), w.detach()) < 1e-10


@pytest.mark.parametrize(("first_order", "within"), [(True, 1e-12), (False, 1e-8)])
def test_per_fedavg(first_order: bool, within: float) -> None:
    """Fallah et al. 2020: w - beta (I - alpha H) grad f(w - alpha grad f(w)), H by differences; several local steps."""
    alpha, beta = 0.4, LR
    learner: Case = ("maml", {"inner_lr": alpha, "first_order": first_order})
    ours, _ = play(algorithm(learner), POOL, 3, partial(tasks, count=1))

    like = first_params()
    w = flat(like)
    for round_ in range(1, 4):
        plan, ends = tasks(round_, count=1)(POOL), []
        for i in EVERYBODY:
            y = w
            for s in range(3):
                support, query = support_and_query(plan, i, s, 0)
                outer = gradient(y - alpha * gradient(y, like, *support), like, *query)
                if not first_order:
                    ahead, behind = (gradient(y + d * outer, like, *support) for d in (1e-5, -1e-5))
                    outer = outer - alpha * (ahead - behind) / 2e-5
                y = y - beta * outer
            ends.append(y)
        w = torch.stack(ends).mean(0)
    assert gap(flat(tree.part(ours, "meta")), w) < within


# ------------------------------------------------------------------------------------------------------------ FedBN


def running(params: Params, stats: Params, x: Tensor) -> Params:
    """Running mean and mean square before the normalisation, as they go on."""
    hidden = F.linear(x, params["layer0.weight"], params["layer0.bias"])
    seen = {"norm0.mean": hidden.mean(0), "norm0.square": hidden.square().mean(0)}
    return {k: 0.9 * stats[k] + 0.1 * v for k, v in seen.items()}


@pytest.mark.parametrize("state", ["reset", "keep", "average"])
@pytest.mark.parametrize("chosen", [None, SOME], ids=["all", "half"])
def test_fedbn_is_fedavg_but_for_the_normalisation(state: str, chosen: list[list[int]] | None) -> None:
    outer = OPTIMIZERS["momentum"](lr=0.1, beta=0.8)
    algo = algorithm(personal=("fedbn", {}), outer=outer, state=state, model=NORMED)
    ours, owns = play(algo, POOL, 4, combine=BY_ROWS, chosen=chosen)
    assert not [k for k in ours if "norm" in k]

    shared, _ = beginning(algorithm(model=NORMED), POOL)
    like, stats = tree.part(shared, "meta"), tree.part(shared, "stats")
    stays = mask(like, "norm")
    everybodys, momentum = flat(like), torch.zeros_like(flat(like))
    w, m, stats_of = [everybodys] * len(SIZES), [momentum] * len(SIZES), [stats] * len(SIZES)
    for round_ in range(1, 5):
        plan, places = batches(round_)(POOL), EVERYBODY if chosen is None else chosen[round_ - 1]
        for i in places:
            w[i] = torch.where(stays, w[i], everybodys)
            m[i] = {"reset": 0 * m[i], "keep": m[i], "average": torch.where(stays, m[i], momentum)}[state]
            for s in range(4):
                x, y = batch(plan, i, s)
                stats_of[i] = running(shaped(w[i], like), stats_of[i], x)
                m[i] = 0.8 * m[i] + gradient(w[i], like, x, y)
                w[i] = w[i] - 0.1 * m[i]
        everybodys, momentum = by_rows([w[i] for i in places], places), by_rows([m[i] for i in places], places)
    for i in EVERYBODY:
        meta, running_ = algo.model(ours, owns[i])
        assert gap(flat(meta), torch.where(stays, w[i], everybodys)) < 1e-12
        assert gap(running_, stats_of[i]) < 1e-12
        moments = tree.part(ours | owns[i], "outer")
        expected = {"reset": None, "keep": m[i], "average": torch.where(stays, m[i], momentum)}[state]
        found = tree.part(moments, "first/m") | tree.part(
            moments, "rest/m"
        )  # the node's own part has a state of its own
        assert gap(flat({k: found[k] for k in like}), expected) < 1e-12 if expected is not None else moments == {}
    assert gap(algo.model(ours, owns[0])[0]["norm0.scale"], algo.model(ours, owns[1])[0]["norm0.scale"]) > 1e-3


# ----------------------------------------------------------------------------------------------------------- FedRep


def in_turn(
    oracle: Callable, like: Params, head_steps: int, sample: Sample, rounds: int, mu: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """FedRep by torch.optim: a head and a body with an optimiser each, new in every round, and the loss's own mu."""
    stays = mask(like, "head")
    body = flat(like)
    heads = [body] * len(SIZES)
    for round_ in range(1, rounds + 1):
        plan, ends = sample(round_)(POOL), []
        for i in EVERYBODY:
            w = torch.where(stays, heads[i], body)
            parts = [w[stays].requires_grad_(), w[~stays].requires_grad_()]
            head_turn, body_turn = (oracle([part]) for part in parts)
            for s in range(steps_of(plan, i)):
                whole = torch.empty_like(w).masked_scatter(stays, parts[0]).masked_scatter(~stays, parts[1])
                loss = loss_of(shaped(whole, like), *batch(plan, i, s))
                loss = loss + mu / 2 * (parts[1] - body[~stays]).square().sum()
                for part, g in zip(parts, torch.autograd.grad(loss, parts), strict=True):
                    part.grad = g
                for optimizer, its in ((head_turn, s < head_steps), (body_turn, s >= head_steps)):
                    if its or head_steps == 0:
                        optimizer.step()
            w = torch.empty_like(w).masked_scatter(stays, parts[0].detach()).masked_scatter(~stays, parts[1].detach())
            heads[i] = w
            ends.append(w)
        body = by_rows(ends, EVERYBODY)
    return body[~stays], [h[stays] for h in heads]


@pytest.mark.parametrize("head_steps", [0, 1, 3])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("sample", [batches, passes])
def test_fedrep_is_a_loop_of_head_and_then_body(head_steps: int, name: str, sample: Sample) -> None:
    oracle = {
        "sgd": partial(torch.optim.SGD, lr=0.1),
        "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "adam": partial(torch.optim.Adam, lr=0.1),
    }[name]
    algo = algorithm(personal=("fedrep", {"head_steps": head_steps}), outer=OPTIMIZERS[name](lr=0.1))
    ours, owns = play(algo, sample=sample, combine=BY_ROWS)
    body, heads = in_turn(oracle, first_params(), head_steps, sample, 3)
    assert set(ours) == {"meta/layer0.weight", "meta/layer0.bias"}
    assert gap(flat(tree.part(ours, "meta")), body) < 1e-12
    for i in EVERYBODY:
        assert set(owns[i]) == {"meta/head.weight", "meta/head.bias"}
        assert gap(flat(tree.part(owns[i], "meta")), heads[i]) < 1e-12


def test_fedrep_with_fedprox_holds_the_body_alone() -> None:
    algo = algorithm(SUPERVISED, ("fedprox", {"mu": 0.7}), ("fedrep", {}), OPTIMIZERS["sgd"](lr=0.1))
    ours, owns = play(algo, combine=BY_ROWS)
    body, heads = in_turn(partial(torch.optim.SGD, lr=0.1), first_params(), 0, batches, 3, mu=0.7)
    assert gap(flat(tree.part(ours, "meta")), body) < 1e-12
    assert max(gap(flat(tree.part(owns[i], "meta")), heads[i]) for i in EVERYBODY) < 1e-12


@pytest.mark.parametrize("state", ["reset", "keep", "average"])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("block", [1, 6])
def test_fedrep_moves_one_part_at_a_time(state: str, name: str, block: int) -> None:
    """Step by step, moments too: for two steps the head alone, then everything but the head, in every round."""
    learner: Case = ("maml", {"learn_rates": True})
    algo = algorithm(learner, NONE, ("fedrep", {"head_steps": 2}), OPTIMIZERS[name](lr=0.1), state)
    shared, own = beginning(algo, POOL)
    for round_ in (1, 2):
        ends = {}
        for steps in range(5):
            (update, *_) = apart(run_nodes(algo, shared, lambda n: own, POOL, tasks(round_, steps), block))  # noqa: B023
            ends[steps] = update.shared | update.own
        for steps in range(1, 5):
            now, before = ends[steps], ends[steps - 1]
            moved = {k for k in now if "." in k and gap(now[k], before[k]) > 1e-9}
            heads = {k for k in now if "head." in k}
            assert moved == (heads if steps <= 2 else {k for k in now if "." in k} - heads)
        shared, own = update.shared, update.own


# ------------------------------------------------------------------------------------------------------------ Ditto


@pytest.mark.parametrize("pull", [0.0, 0.7])
@pytest.mark.parametrize("chosen", [None, [*SOME[:2], SOME[1]]], ids=["all", "half"])
@pytest.mark.parametrize("model", [PLAIN, NORMED], ids=name_of)
def test_ditto_is_a_second_loop(pull: float, chosen: list[list[int]] | None, model: Case) -> None:
    algo = algorithm(personal=("ditto", {"pull": pull}), model=model)
    ours, owns = play(algo, combine=BY_ROWS, chosen=chosen)

    first, _ = beginning(algorithm(model=model), POOL)
    like, stats = tree.part(first, "meta"), tree.part(first, "stats")
    w, w_stats = flat(like), stats
    v: list[Tensor | None] = [None] * len(SIZES)
    v_stats = [stats] * len(SIZES)
    for round_ in range(1, 4):
        plan, places = batches(round_)(POOL), EVERYBODY if chosen is None else chosen[round_ - 1]
        ends, end_stats = [], []
        for i in places:
            y, y_stats = w, w_stats
            mine, mine_stats = (w, w_stats) if v[i] is None else (v[i], v_stats[i])
            for s in range(4):
                rows = batch(plan, i, s)
                if stats:
                    y_stats, mine_stats = (
                        running(shaped(u, like), t, rows[0]) for u, t in ((y, y_stats), (mine, mine_stats))
                    )
                y = y - LR * gradient(y, like, *rows)
                mine = mine - LR * (gradient(mine, like, *rows) + pull * (mine - w))
            ends.append(y)
            end_stats.append(flat(y_stats) if stats else y[:0])
            v[i], v_stats[i] = mine, mine_stats
        w = by_rows(ends, places)
        w_stats = shaped(by_rows(end_stats, places), stats) if stats else stats
    assert gap(flat(tree.part(ours, "meta")), w) < 1e-12
    for i in EVERYBODY:
        meta, running_ = algo.model(ours, owns[i])
        never = v[i] is None
        assert never == (chosen is not None and i == 4)
        assert gap(flat(meta), w if never else v[i]) < 1e-12
        assert gap(running_, w_stats if never else v_stats[i]) < 1e-12
        assert never or gap(v[i], w) > 1e-2


def test_ditto_without_pull_is_training_alone() -> None:
    """Rounds that a node shares with nobody: the same steps from the same beginning."""
    _, owns = play(algorithm(personal=("ditto", {"pull": 0.0})))
    like = first_params()
    for i in EVERYBODY:
        w = flat(like)
        for round_ in range(1, 4):
            plan = batches(round_)(POOL)
            for s in range(4):
                w = w - LR * gradient(w, like, *batch(plan, i, s))
        assert gap(flat(tree.part(owns[i], "mine/meta")), w) < 1e-12


@pytest.mark.parametrize("learner", CONTRACT_LEARNERS, ids=name_of)
@pytest.mark.parametrize("drift", DRIFT_CASES, ids=name_of)
def test_dittos_shared_model_is_the_plain_one_to_the_bit(learner: Case, drift: Case) -> None:
    state = state_of(learner, drift, NONE)
    make = partial(algorithm, learner, drift, outer=OPTIMIZERS["adam"](lr=0.05), state=state, model=NORMED)
    (ours, owns), (plain, plain_owns) = (
        play(make(personal=p), FLOAT, 2, tasks, chosen=SOME) for p in (("ditto", {"pull": 0.3}), NONE)
    )
    assert same(ours, plain)
    for i in EVERYBODY:
        assert same({k: x for k, x in owns[i].items() if not k.startswith("mine/")}, plain_owns[i])


def test_a_correction_of_drift_is_not_for_dittos_own_model() -> None:
    """In the first round, where the shared models are still the same."""
    ends = [
        play(algorithm(drift=drift, personal=("ditto", {})), FLOAT, 1)[1][0]
        for drift in (NONE, ("fedprox", {"mu": 5.0}))
    ]
    assert same(*(tree.part(own, "mine") for own in ends))


# -------------------------------------------------------------------------- what holds for every method and learner


every_learner = pytest.mark.parametrize("learner", CONTRACT_LEARNERS, ids=name_of)
every_drift = pytest.mark.parametrize("drift", DRIFT_CASES, ids=name_of)
every_personal = pytest.mark.parametrize("personal", PERSONAL_CASES, ids=name_of)
every_state = pytest.mark.parametrize("state", ["reset", "keep", "average"])
# Every correction with every personal part for one learner; for the others nothing at all, and the most there can be.
in_training = pytest.mark.parametrize(
    ("learner", "drift", "personal"),
    slow_unless(
        lambda learner, drift, personal: (
            learner == SUPERVISED or (drift[0], personal[0]) in {("none", "none"), ("scaffold", "ditto")}
        ),
        CONTRACT_LEARNERS,
        DRIFT_CASES,
        PERSONAL_CASES,
    ),
    ids=name_of,
)


def test_every_method_is_here() -> None:
    assert covered(DRIFT_CASES, DRIFTS)
    assert covered(PERSONAL_CASES, PERSONAL)


def updates_of(algo: Algorithm, pool: Pool, block: int = 1, steps: int = 3) -> list[One]:
    shared, own = beginning(algo, pool)
    return apart(run_nodes(algo, shared, lambda n: own, pool, tasks(1, steps), block))


@every_learner
@every_drift
@every_personal
@every_state
def test_open_and_close_are_inverse(learner: Case, drift: Case, personal: Case, state: str) -> None:
    """Before any step; from the start and from leaves in general position."""
    algo = algorithm(learner, drift, personal, OPTIMIZERS["adam"](), state, NORMED)
    shared, own = algo.start(torch.Generator().manual_seed(0))
    assert not set(shared) & set(own)
    again = algo.close(algo.open(shared, own))
    flag = {"mine/met": torch.ones(())} if "mine/met" in own else {}  # from now on the node has a model of its own
    assert same(again[0], shared)
    assert same(again[1], own | flag)
    shared, own = jitter(shared), jitter(own, 7) | flag
    again = algo.close(algo.open(shared, own))
    assert same(again[0], shared)
    assert same(again[1], own)


@every_learner
@every_drift
@every_personal
@every_state
def test_no_local_step_leaves_everything(learner: Case, drift: Case, personal: Case, state: str) -> None:
    algo = algorithm(learner, drift, personal, OPTIMIZERS["adam"](), state, NORMED)
    start = beginning(algo, FLOAT)
    for update in updates_of(algo, FLOAT.take(np.array([0, 1])), 2, steps=0):
        assert same(update.shared, start[0])
        assert same(*(dict(algo.model(*pair)[0]) for pair in (start, (update.shared, update.own))))


@every_learner
@every_drift
@every_personal
@every_state
def test_a_round_returns_what_the_templates_say(learner: Case, drift: Case, personal: Case, state: str) -> None:
    """Names, shapes and kinds, by which checkpoints and state files are checked; and a model by all its names."""
    algo = algorithm(learner, drift, personal, OPTIMIZERS["adam"](), state, NORMED)
    template = beginning(algo, FLOAT)
    two = FLOAT.take(np.array([0, 1]))
    for update in (updates_of(algo, two, 1, 1)[0], updates_of(algo, two, 2, 1)[1]):
        for got, wanted in zip((update.shared, update.own), template, strict=True):
            assert {k: (v.shape, v.dtype) for k, v in got.items()} == {k: (v.shape, v.dtype) for k, v in wanted.items()}
        for shared, own in (template, (update.shared, update.own)):
            meta, stats = algo.model(shared, own)
            first, first_stats = algo.learner.init(torch.Generator())
            assert (set(meta), set(stats)) == (set(first), set(first_stats))
        kept = {"fedbn": "norm", "fedrep": "head"}.get(personal[0])
        assert not [k for k in update.shared if kept and k.rpartition("/")[2].startswith(kept)]


def state_of(learner: Case, drift: Case, personal: Case) -> str:
    """One for each combination, so that every pair of entries meets every state."""
    places = CONTRACT_LEARNERS.index(learner) + DRIFT_CASES.index(drift) + PERSONAL_CASES.index(personal)
    return ["reset", "keep", "average"][places % 3]


@in_training
def test_blocks_agree(learner: Case, drift: Case, personal: Case) -> None:
    """Two rounds, the second with half of the nodes, so that they come with different belongings."""
    state = state_of(learner, drift, personal)
    algo = algorithm(learner, drift, personal, OPTIMIZERS["adam"](lr=0.05), state, GROUPED)
    chosen = [[0, 1, 2, 3, 4], [0, 4, 5]]
    one, *others = (play(algo, POOL, 2, tasks, BY_ROWS, chosen, block=block) for block in (1, 2, 5))
    for shared, owns in others:
        assert gap(shared, one[0]) < 1e-11
        assert max(gap(owns[i], one[1][i]) for i in EVERYBODY) < 1e-11


@every_learner
@every_drift
@every_personal
@every_state
def test_an_inactive_step_changes_nothing(learner: Case, drift: Case, personal: Case, state: str) -> None:
    algo = algorithm(learner, drift, personal, OPTIMIZERS["adam"](), state, NORMED)
    shared, own = beginning(algo, FLOAT)
    start = algo.open(shared, own)
    plan = tasks(1)(FLOAT)
    e = Episode(*(leaf[0] for leaf in gather(FLOAT, plan.support[:, 0], plan.query[:, 0], plan.labels)))
    task_seeds, step = torch.from_numpy(plan.seeds[0, 0]), torch.tensor(0)
    ran, _ = node_step(algo, start, e, task_seeds, torch.tensor(True), step)
    for carry in (start, ran):
        idle, _ = node_step(algo, carry, e, task_seeds, torch.tensor(False), step)
        assert all(same(one, two) for one, two in zip(idle[:-1], carry[:-1], strict=True))
        assert torch.equal(idle.count, carry.count)
    assert not same(ran.meta, start.meta)
    assert int(ran.count) == 1


@in_training
def test_identical_nodes_do_the_same(learner: Case, drift: Case, personal: Case) -> None:
    """And one that works beside other nodes does what it does alone."""
    state = state_of(learner, drift, personal)
    algo = algorithm(learner, drift, personal, OPTIMIZERS["adam"](lr=0.05), state, GROUPED)
    (alone,) = updates_of(algo, POOL.take(np.array([1])))
    for block, within in ((1, 0.0), (3, 1e-11)):
        for update in updates_of(algo, POOL.take(np.array([1, 1, 1])), block):
            assert gap(update.shared, alone.shared) <= within
            assert gap(update.own, alone.own) <= within
        beside = updates_of(algo, POOL.take(np.array([0, 1, 2])), block)[1]
        assert gap(beside.shared | beside.own, alone.shared | alone.own) <= within


@every_drift
@every_personal
def test_a_node_that_sits_out_keeps_what_it_has(drift: Case, personal: Case) -> None:
    algo = algorithm(SUPERVISED, drift, personal, state="keep", model=NORMED)
    (_, one), (_, two) = (play(algo, POOL, rounds, chosen=SOME) for rounds in (1, 2))
    for i in EVERYBODY:
        assert same(one[i], two[i]) == (i not in SOME[1] or not one[i])
