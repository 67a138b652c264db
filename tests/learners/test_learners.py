"""Every learner keeps the contract with every model; MAML, Reptile and plain steps are what torch computes.

test_meta_gradients.py measures the direction of every learner.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from maths import (
    LEARNER_CASES,
    MODEL_CASES,
    SEED,
    SMOOTH,
    STEP,
    WAY,
    Case,
    at,
    covered,
    crossed,
    double,
    episode,
    episode_of,
    gap,
    gradient_of,
    learner_of,
    model_of,
    name_of,
    rand,
    same,
    started,
)
from torch import Tensor
from torch.func import vmap

from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import Problem
from metadist_cli.core.losses import CROSS_ENTROPY, LOSSES, SQUARED_ERROR
from metadist_cli.core.optimizers import sgd
from metadist_cli.core.tree import Params
from metadist_cli.learners import LEARNERS, WHOLE_EPISODE
from metadist_cli.learners.inner_loop import InnerLoop, descend
from metadist_cli.learners.types import Adapted, last
from metadist_cli.models import Model
from metadist_cli.tasks.types import Episode, Examples

SOLVED = {"prototypical", "ridge", "svm"}
NO_FEATURES: list[Case] = [c for c in MODEL_CASES if c[0] == "logistic" or c[1].get("hidden") == []]
PAIRS = [
    p for p in crossed(LEARNER_CASES, MODEL_CASES) if not (p.values[0][0] in SOLVED and p.values[1] in NO_FEATURES)
]

everywhere = pytest.mark.parametrize(("case", "model_case"), PAIRS, ids=lambda case: name_of(case))


def test_every_learner_is_tested() -> None:
    assert covered(LEARNER_CASES, LEARNERS)
    assert set(LEARNERS) >= WHOLE_EPISODE
    for name, options in LEARNER_CASES:
        assert learner_of((name, options), model_of(MODEL_CASES[0])).splits == (name not in WHOLE_EPISODE)


# ---------------------------------------------------------------------------------------------------- contract


@everywhere
def test_init_depends_on_the_generator_alone(case: Case, model_case: Case) -> None:
    learner = learner_of(case, model_of(model_case))
    one, two, other = (learner.init(seeds.generator(s)) for s in (1, 1, 2))
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert not same(one[0], other[0])


@everywhere
def test_adapt_yields_before_and_after_each_step(case: Case, model_case: Case) -> None:
    model, e = model_of(model_case), episode_of(model_case)
    learner = learner_of(case, model)
    meta, stats = started(learner)
    items = list(learner.adapt(meta, stats, e.support, SEED, 3, None))
    assert len(items) == 4
    shapes = {k: v.shape for k, v in model.init(seeds.generator(0))[0].items()}
    assert all({k: v.shape for k, v in i.params.items()} == shapes for i in items)  # the model's own parameters
    assert all(same({k: i.params[k]}, {k: v}) for k, v in meta.items() if k in shapes for i in items[:1])
    assert learner.solves == (case[0] in SOLVED)
    moves = [gap(a.params, b.params) > 0 for a, b in pairwise(items)]
    assert moves == ([True, False, False] if learner.solves else [True] * 3)
    assert [len(list(learner.adapt(meta, stats, e.support, SEED, n, 4))) for n in (0, 1)] == [1, 2]
    for item in items:
        out = learner.predict(item, e.query_x)
        assert out.shape == (len(e.query_y), WAY)
        assert out.isfinite().all()
    trained = [model.apply(*item, e.support_x, True, SEED)[0] for item in (items[0], items[-1])]
    before, after = (float(CROSS_ENTROPY.value(out, e.support_y)) for out in trained)
    assert after < before or learner.solves  # whose outputs, on untrained features, may be sure and wrong


@everywhere
def test_meta_gradient_keeps_names_and_stays_finite(case: Case, model_case: Case) -> None:
    learner, e = learner_of(case, model_of(model_case)), episode_of(model_case)
    meta, stats = started(learner)
    copies = [{k: v.clone() for k, v in leaves.items()} for leaves in (meta, stats)]
    direction, new_stats, metrics = learner.meta_gradient(meta, stats, e, STEP, SEED)
    for old, new in ((meta, direction), (stats, new_stats)):
        assert {k: (v.shape, v.dtype) for k, v in new.items()} == {k: (v.shape, v.dtype) for k, v in old.items()}
    assert tree.finite(direction)
    assert tree.finite(new_stats)
    assert any(v.any() for v in direction.values())
    assert set(metrics) == {"loss", "accuracy"}
    assert all(v.shape == () for v in metrics.values())
    assert 0 <= float(metrics["accuracy"]) <= 1
    assert same(meta, copies[0])
    assert same(stats, copies[1])


@everywhere
def test_vmap_over_nodes_and_tasks_is_the_loop(case: Case, model_case: Case) -> None:
    # 6 examples of 4 features leave the dual of the SVM singular, which magnifies rounding; test_solvers has 1e-12
    within = 1e-7 if case[0] == "svm" and "width" in model_case[1] else 1e-12
    learner, tasks = learner_of(case, model_of(model_case)), episode_of(model_case, 2, 3)
    nodes = [started(learner, seed) for seed in range(2)]
    task_seeds = torch.arange(6).reshape(2, 3)
    stacked = [tree.stack(leaves) for leaves in zip(*nodes, strict=True)]

    def node(meta: Params, stats: Params, tasks: Episode, task_seeds: Tensor):
        one = lambda e, s: learner.meta_gradient(meta, stats, e, STEP, s)  # noqa: E731
        return vmap(one)(tasks, task_seeds)

    batched = vmap(node, in_dims=(0, 0 if stacked[1] else None, 0, 0))(*stacked, tasks, task_seeds)
    for i, start in enumerate(nodes):
        for t in range(3):
            alone = learner.meta_gradient(*start, at(tasks, i, t), STEP, task_seeds[i, t])
            for many, one in zip(batched, alone, strict=True):
                assert gap({k: v[i, t] for k, v in many.items()}, one) < within


@pytest.mark.parametrize("case", [c for c in LEARNER_CASES if c[0] in SOLVED], ids=name_of)
@pytest.mark.parametrize("model_case", NO_FEATURES, ids=name_of)
def test_a_solved_head_needs_features_to_learn(case: Case, model_case: Case) -> None:
    with pytest.raises(Problem, match="the only one in this model"):
        learner_of(case, model_of(model_case))


@pytest.mark.parametrize("name", ["prototypical", "svm"])
def test_heads_for_classes_refuse_a_regression(name: str) -> None:
    with pytest.raises(Problem, match="is for classification"):
        learner_of((name, {}), model_of(("mlp", {"hidden": [8]}), (1,), 2), SQUARED_ERROR)


@pytest.mark.parametrize("case", [c for c in LEARNER_CASES if c[0] not in ("prototypical", "svm")], ids=name_of)
def test_regression(case: Case) -> None:
    learner = learner_of(case, model_of(("mlp", {"hidden": [8], "activation": "tanh"}), (1,), 2), SQUARED_ERROR)
    meta, stats = started(learner)
    x, y = rand(10, 1), rand(10, 2, seed=1)
    direction, _, metrics = learner.meta_gradient(meta, stats, Episode(x[:4], y[:4], x[4:], y[4:]), STEP, SEED)
    assert set(metrics) == {"loss", "mse"}
    assert float(metrics["loss"]) == pytest.approx(float(metrics["mse"]))
    assert gap(direction, {k: torch.zeros_like(v) for k, v in meta.items()}) > 0


# -------------------------------------------------------------------------------------------------------- MAML

LONG = {"inner_lr": 0.5, "inner_steps": 3}


def plain_forward(params: Params, x: Tensor, kind: str, norm: str) -> Tensor:
    """The two models again, with torch's own layers and batch norm."""
    depth = sum(k.endswith("weight") for k in params) - 1
    for i in range(depth):
        if kind == "conv4":
            x = x.reshape(len(x), -1, *x.shape[-2:])
            x = F.conv2d(x, params[f"conv{i}.weight"], params[f"conv{i}.bias"], stride=2, padding=1)
        else:
            x = F.linear(x.flatten(1), params[f"layer{i}.weight"], params[f"layer{i}.bias"])
        if norm == "batch":
            x = F.batch_norm(x, None, None, params.get(f"norm{i}.scale"), params.get(f"norm{i}.shift"), training=True)
        x = F.softplus(x)
    x = x.mean((-2, -1)) if kind == "conv4" else x.flatten(1)
    return F.linear(x, params["head.weight"], params["head.bias"])


@pytest.mark.parametrize("model_case", [c for c in SMOOTH if c[1].get("norm") in (None, "batch")], ids=name_of)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapt_norm", [True, False])
def test_maml_is_a_plain_autograd_loop(model_case: Case, first_order: bool, adapt_norm: bool) -> None:
    """torch.autograd with create_graph, F.batch_norm and F.cross_entropy; the mean over the tasks as rounds take it."""
    kind, norm = model_case[0], model_case[1].get("norm", "none")
    learner = learner_of(("maml", LONG | {"first_order": first_order, "adapt_norm": adapt_norm}), model_of(model_case))
    meta, stats = started(learner)
    tasks = episode(4)
    ours = tree.mean(vmap(lambda e: gradient_of(learner, meta, stats, e))(tasks))

    leaves = {k: v.clone().requires_grad_() for k, v in meta.items()}
    losses = []
    for t in range(4):
        e, phi = at(tasks, t), dict(leaves)
        for _ in range(3):
            free = [k for k in phi if adapt_norm or not k.startswith("norm")]
            loss = F.cross_entropy(plain_forward(phi, e.support_x, kind, norm), e.support_y)
            grads = torch.autograd.grad(loss, [phi[k] for k in free], create_graph=not first_order)
            for k, g in zip(free, grads, strict=True):
                phi[k] = phi[k] - 0.5 * g  # first order: g is a constant, so d phi / d meta = 1
        losses.append(F.cross_entropy(plain_forward(phi, e.query_x, kind, norm), e.query_y))
    theirs = dict(zip(leaves, torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values())), strict=True))
    assert gap(ours, theirs) < 1e-12


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_maml_on_a_quadratic(first_order: bool, steps: int) -> None:
    """Linear regression y = w x + b in one unknown has a closed form.

    The support loss is the mean of (w x - y)^2 with b = 0 held by x's symmetry: w' = w - a 2 (m w - c), m = mean x^2,
    c = mean x y. So w_J = r^J w + const with r = 1 - 2 a m, and d/dw of the query loss is r^J 2 (M w_J - C).
    """
    rate = 0.1
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]).double()
    support_y, query_y = 3 * x, -x + torch.tensor([[0.5], [0.0], [0.0], [-0.5]]).double()  # odd in x: b stays 0
    model = model_of(("mlp", {"hidden": []}), (1,), 1)
    learner = learner_of(
        ("maml", {"inner_lr": rate, "inner_steps": steps, "first_order": first_order}), model, SQUARED_ERROR
    )
    meta = {"head.weight": torch.tensor([[0.7]], dtype=torch.float64), "head.bias": torch.zeros(1).double()}
    direction = gradient_of(learner, meta, {}, Episode(x, support_y, x, query_y))

    m, c, query_c = 2.5, 7.5, float((x * query_y).mean())
    w = 0.7
    for _ in range(steps):
        w -= rate * 2 * (m * w - c)
    factor = 1.0 if first_order else (1 - 2 * rate * m) ** steps
    assert float(direction["head.weight"]) == pytest.approx(factor * 2 * (m * w - query_c), abs=1e-12)
    assert float(direction["head.bias"]) == pytest.approx(0, abs=1e-12)


def test_first_order_is_the_gradient_at_the_adapted_point() -> None:
    model, e = model_of(SMOOTH[1]), episode()
    learner = learner_of(("maml", LONG | {"first_order": True}), model)
    meta, stats = started(learner)
    adapted = last(learner.adapt(meta, stats, e.support, SEED, 3, None))
    leaves = {k: v.detach().requires_grad_() for k, v in adapted.params.items()}
    loss = F.cross_entropy(plain_forward(leaves, e.query_x, "conv4", "batch"), e.query_y)
    loss.backward()
    assert gap(gradient_of(learner, meta, stats, e), {k: v.grad for k, v in leaves.items()}) < 1e-12


def test_adapt_norm_false_holds_normalisation_still_but_still_learns_it() -> None:
    learner = learner_of(("maml", LONG | {"adapt_norm": False}), model_of(SMOOTH[1]))
    meta, stats = started(learner)
    e = episode()
    params = last(learner.adapt(meta, stats, e.support, SEED, 3, None)).params
    direction = gradient_of(learner, meta, stats, e)
    norms = [k for k in meta if k.startswith("norm")]
    assert norms
    for k in norms:
        assert torch.equal(params[k], meta[k])
        assert direction[k].abs().max() > 1e-6
    assert gap(params, meta) > 1e-3


# ------------------------------------------------------------------------------------------------------ Reptile


def minibatches(seed: Tensor, n: int, batch: int | None, steps: int) -> list[Tensor]:
    """Rows of each step: whole permutations one after the other, cut into batches."""
    if batch is None:
        return [torch.arange(n)] * steps
    order = torch.cat([seeds.shuffle(seed, i, n) for i in range(-(-steps * batch // n))])
    return list(order[: steps * batch].split(batch))


def shortened(leaves: Params, limit: float | None) -> None:
    """Make the gradients at most so long, all of them together."""
    norm = sum(float(v.grad.square().sum()) for v in leaves.values()) ** 0.5
    for leaf in leaves.values():
        leaf.grad *= min(1.0, limit / norm) if limit else 1.0


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("batch", [None, 4, 5])
@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.999))),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01)),
    ],
)
def test_reptile_is_meta_minus_what_torch_ends_with(
    kind: str, oracle: Callable, batch: int | None, clip: float | None
) -> None:
    """Two tasks one after the other: weights are set back, Adam's second moment goes on (the released code)."""
    model = model_of(("mlp", {"hidden": [7], "activation": "softplus"}))
    options = {"inner_optimizer": kind, "inner_lr": 0.01, "inner_steps": 5, "inner_batch": batch, "clip": clip}
    learner = learner_of(("reptile", options), model)
    meta, stats = learner.init(seeds.generator(0))
    meta, stats = double(meta), double(stats)
    leaves = {k: v.clone().requires_grad_() for k, v in meta.items()}
    torch_optimizer = oracle(list(leaves.values()))
    for task in range(2):
        e, seed = episode(seed=task), torch.tensor(task)
        x, y = torch.cat([e.support_x, e.query_x]), torch.cat([e.support_y, e.query_y])
        direction, stats, _ = learner.meta_gradient(meta, stats, e, STEP, seed)
        for k, leaf in leaves.items():
            leaf.data = meta[k].clone()
        for rows in minibatches(seed, 14, batch, 5):
            torch_optimizer.zero_grad()
            F.cross_entropy(plain_forward(leaves, x[rows], "mlp", "none"), y[rows]).backward()
            shortened(leaves, clip)
            torch_optimizer.step()
        assert gap(direction, {k: meta[k] - v.detach() for k, v in leaves.items()}) < 1e-12


def test_minibatches_pass_through_all_rows_in_turn() -> None:
    """5 rows in batches of 2: 5 steps are two passes, each row twice, and a pass repeats no row."""
    model = model_of(("mlp", {"hidden": []}), (5,), 1)
    params = {"head.weight": torch.zeros(1, 5).double(), "head.bias": torch.zeros(1).double()}
    x, y = torch.eye(5).double(), torch.ones(5, 1).double()
    items = list(
        descend(InnerLoop(model, SQUARED_ERROR, sgd(lr=1e-6)), (Adapted(params, {}), {}), Examples(x, y), SEED, 5, 2)
    )
    weights = torch.cat([adapted.params["head.weight"] for adapted, _ in items])
    seen = (weights.diff(dim=0) / 1e-6).round()  # a row of the batch moves its own weight by lr * 2 / 2
    assert seen.sum(1).tolist() == [2] * 5
    assert (seen[:2].sum(0) <= 1).all()
    assert seen.sum(0).tolist() == [2] * 5


def test_reptile_shares_its_second_moment_as_a_statistic() -> None:
    learner = learner_of(("reptile", {"inner_steps": 3}), model_of(("mlp", {"hidden": [4], "norm": "batch_running"})))
    meta, stats = learner.init(seeds.generator(0))
    assert {f"inner/v/{k}" for k in meta} <= set(stats)
    assert {"model/norm0.mean", "model/norm0.square"} <= set(stats)
    _, new, _ = learner.meta_gradient(double(meta), double(stats), episode(), STEP, SEED)
    assert float(new["inner/count"]) == 3


# --------------------------------------------------------------------------------------- supervised, and the losses


@pytest.mark.parametrize("model_case", [SMOOTH[0], SMOOTH[1]], ids=name_of)
def test_supervised_is_the_gradient_of_all_rows(model_case: Case) -> None:
    learner, e = learner_of(("supervised", {}), model_of(model_case)), episode()
    meta, stats = started(learner)
    leaves = {k: v.clone().requires_grad_() for k, v in meta.items()}
    out = plain_forward(leaves, torch.cat([e.support_x, e.query_x]), model_case[0], model_case[1].get("norm", "none"))
    labels = torch.cat([e.support_y, e.query_y])
    loss = F.cross_entropy(out, labels)
    loss.backward()
    direction, _, metrics = learner.meta_gradient(meta, stats, e, STEP, SEED)
    assert gap(direction, {k: v.grad for k, v in leaves.items()}) < 1e-12
    assert float(metrics["loss"]) == pytest.approx(float(loss.detach()), abs=1e-12)
    assert float(metrics["accuracy"]) == pytest.approx(float((out.argmax(-1) == labels).double().mean()))


@pytest.mark.parametrize("empty", ["support", "query"])
@pytest.mark.parametrize("name", sorted(WHOLE_EPISODE))
def test_either_side_may_be_empty_where_both_are_one(name: str, empty: str) -> None:
    learner, e = learner_of((name, {}), model_of(("mlp", {"hidden": [4]}))), episode()
    meta, stats = started(learner)
    x, y = torch.cat([e.support_x, e.query_x]), torch.cat([e.support_y, e.query_y])
    cut = 0 if empty == "support" else len(x)
    assert same(
        gradient_of(learner, meta, stats, Episode(x[:cut], y[:cut], x[cut:], y[cut:])),
        gradient_of(learner, meta, stats, e),
    )


@pytest.mark.parametrize("model_case", SMOOTH, ids=name_of)
@pytest.mark.parametrize("name", ["maml", "supervised"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_fine_tuning_is_gradient_descent(name: str, model_case: Case, clip: float | None) -> None:
    """The same for MAML and for FedAvg, so that their figures can stand side by side."""
    model, e = model_of(model_case), episode()
    learner = learner_of((name, {"inner_lr": 0.3, "clip": clip}), model)
    meta, stats = started(learner)
    params, running = dict(meta), stats
    for item in learner.adapt(meta, stats, e.support, SEED, 2, None):
        assert gap(item.params, params) < 1e-12
        assert gap(item.stats, running) < 1e-12
        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        out, running = model.apply(leaves, running, e.support_x, True, SEED)
        F.cross_entropy(out, e.support_y).backward()
        shortened(leaves, clip)
        params = {k: v.detach() - 0.3 * v.grad for k, v in leaves.items()}


@pytest.mark.parametrize("c", [0.03, 1.0])
def test_a_pulled_logistic_model_is_scikit_learns_penalised_one(c: float) -> None:
    """From zero weights: C is 1 / pull, the intercept is free; the more rows, the less the pull counts."""
    from sklearn.linear_model import LogisticRegression

    model = model_of(("logistic", {}), (3,), 2)
    learner = learner_of(("supervised", {"inner_lr": 1.0, "pull": 1 / c}), model)
    x, y = rand(40, 3), (rand(40, seed=1) + rand(40, 3)[:, 0] > 0.4).long()
    meta, stats = learner.init(seeds.generator(0))
    params, _ = last(learner.adapt(double(meta), stats, Examples(x, y), SEED, 3000, None))
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    assert gap(params["head.weight"], torch.from_numpy(theirs.coef_)) < 1e-6
    assert gap(params["head.bias"], torch.from_numpy(theirs.intercept_)) < 1e-6
    assert params["head.weight"].abs().max() > 0.05


def test_losses_are_those_of_torch() -> None:
    out, y = 5 * rand(9, 4), torch.arange(9) % 4
    assert float(LOSSES["classification"].value(out, y)) == pytest.approx(float(F.cross_entropy(out, y)), abs=1e-14)
    huge = torch.tensor([[1e4, -1e4]])
    assert float(LOSSES["classification"].value(huge, torch.tensor([1]))) == pytest.approx(2e4)
    assert LOSSES["classification"].score(out, y).tolist() == (out.argmax(-1) == y).float().tolist()
    target = rand(9, 4, seed=1)
    assert float(LOSSES["regression"].value(out, target)) == pytest.approx(float(F.mse_loss(out, target)), abs=1e-14)
    assert gap(LOSSES["regression"].score(out, target), ((out - target) ** 2).mean(1)) < 1e-14


def test_models_need_not_be_ours() -> None:
    """A model is a few functions: one of a single number."""

    def apply(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        return params["w"] * x, {}

    model = Model(lambda generator: ({"w": torch.zeros(())}, {}), apply, apply, 1, "one")
    learner = learner_of(("maml", {"inner_lr": 0.25, "inner_steps": 1}), model, SQUARED_ERROR)
    one = torch.ones(1, 1)
    direction = gradient_of(learner, {"w": torch.tensor(1.0)}, {}, Episode(one, 3 * one, one, 0 * one))
    assert float(direction["w"]) == pytest.approx(0.5 * 2 * 2)  # w' = w - 0.25 * 2 (w - 3) = 2; d = (1 - 0.5) 2 w'
