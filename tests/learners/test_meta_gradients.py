"""The direction of every learner, against finite differences and torch.autograd, and what is special to each.

All in float64, with smooth models. What the direction must be the derivative of is written out once more here, in plain
loops and formulas. Reptile's is no derivative: test_learners.py has its loop with torch.optim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from maths import (
    LEARNER_CASES,
    SEED,
    SMOOTH,
    WAY,
    Case,
    double,
    episode,
    episode_of,
    float32_error,
    gap,
    gradient_of,
    learner_of,
    model_of,
    name_of,
    rand,
    single,
    slope,
    started,
)
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch import Tensor

from metadist_cli.core import seeds, solvers, tree
from metadist_cli.core.losses import SQUARED_ERROR
from metadist_cli.core.tree import Params
from metadist_cli.learners import LEARNERS, Learner
from metadist_cli.learners.types import last
from metadist_cli.models import Model
from metadist_cli.tasks.types import Episode, Examples

STEP = torch.tensor(1)  # of 4 in which the multi-step loss fades out
LR, C = 0.5, 0.3  # strong enough that a term left out shows
SMOOTHER: list[Case] = [*SMOOTH, ("lstm", {"vocabulary": 9, "embedding": 3, "hidden": 5})]
KINKED: list[Case] = [("conv1d", {"width": 4, "depth": 2}), ("conv4", {"width": 4, "pool": "max", "head": "flatten"})]
MORE: list[Case] = [
    ("maml", {"inner_steps": 3}),
    ("maml", {"learn_rates": True, "adapt_norm": False, "inner_steps": 2}),
    ("maml", {"learn_rates": True, "first_order": True, "inner_steps": 2}),
    ("anil", {"first_order": True}),
    ("ridge", {"penalty": 0.2, "learn_scale": False, "scale": 1.0}),
    ("svm", {"learn_scale": False, "scale": 1.0}),
    ("maml", {"clip": 0.2, "inner_steps": 2}),
    ("maml", {"clip": 0.2, "first_order": True, "adapt_norm": False}),
    ("anil", {"clip": 0.1, "inner_steps": 2}),
    ("meta_sgd", {"clip": 0.2}),
]


# ------------------------------------------------------------------------------------- what each learner adapts with


def maml_rate(meta: Params, name: str, step: int, options: dict[str, Any]) -> Tensor | float:
    if name.startswith("norm") and not options.get("adapt_norm", True):
        return 0.0
    learned = meta.get(f"rate/{name}")
    return LR if learned is None else learned[min(step, len(learned) - 1)]


RATES: dict[str, Callable[[Params, str, int, dict[str, Any]], Tensor | float]] = {
    "maml": maml_rate,
    "anil": lambda meta, name, step, options: LR * name.startswith("head."),
    "meta_sgd": lambda meta, name, step, options: meta[f"rate/{name}"],
}


def distances(meta: Params, support: Tensor, y: Tensor, query: Tensor, options: dict[str, Any]) -> Tensor:
    """(Q, W): minus the squared distance to the mean of each class; of a class without examples, to that of all."""
    centres = [support[y == k].mean(0) if (y == k).any() else support.mean(0) for k in range(WAY)]
    return torch.stack([-((query - centre) ** 2).sum(-1) for centre in centres], 1)


def least_squares(meta: Params, support: Tensor, y: Tensor, query: Tensor, options: dict[str, Any]) -> Tensor:
    """Ridge as plain least squares with sqrt(penalty) I below the features, by torch's QR."""
    penalty = meta["log_penalty"].exp() if "log_penalty" in meta else support.new_tensor(options.get("penalty", 1.0))
    width = support.shape[1]
    rows = torch.cat([support, penalty.sqrt() * torch.eye(width).double()])
    targets = torch.cat([F.one_hot(y, WAY).double(), torch.zeros(width, WAY).double()])
    return query @ torch.linalg.lstsq(rows, targets).solution * meta.get("scale", 1.0)


def margins(meta: Params, support: Tensor, y: Tensor, query: Tensor, options: dict[str, Any]) -> Tensor:
    alpha = solvers.crammer_singer(support @ support.T, F.one_hot(y, WAY), C)
    return query @ support.T @ alpha * meta.get("scale", 1.0)


HEADS = {"prototypical": distances, "ridge": least_squares, "svm": margins}


def loss_of(case: Case, model: Model, learner: Learner, stats: Params, e: Episode) -> Callable[..., Tensor]:
    """(leaves, constant) -> the loss that the learner's outer loop descends.

    constant: what is learned from the support is no function of the leaves.
    """
    name, options = case

    def forward(params: Params, x: Tensor) -> Tensor:
        return model.apply(params, stats, x, True, SEED)[0]

    def descended(meta: Params, constant: bool) -> Tensor:
        params, losses = {k: v for k, v in meta.items() if not k.startswith("rate/")}, []
        for step in range(learner.inner_steps):
            value = F.cross_entropy(forward(params, e.support_x), e.support_y)
            slopes = torch.autograd.grad(value, list(params.values()), create_graph=not constant)
            rates = {k: RATES[name](meta, k, step, options) for k in params}
            short = shortening(
                [s for s, rate in zip(slopes, rates.values(), strict=True) if torch.as_tensor(rate).any()], options
            )
            moves = zip(params.items(), slopes, strict=True)
            params = {k: v - rates[k] * short * slope for (k, v), slope in moves}
            losses.append(F.cross_entropy(forward(params, e.query_x), e.query_y))
        weights = multi_step_weights(learner.inner_steps, options.get("multi_step", 0), int(STEP))
        return sum(w * loss for w, loss in zip(weights, losses, strict=True))

    def solved(meta: Params, constant: bool) -> Tensor:
        support, query = (model.features(meta, stats, x, True, SEED)[0] for x in (e.support_x, e.query_x))
        support = support.detach() if constant else support
        return F.cross_entropy(HEADS[name](meta, support, e.support_y, query, options), e.query_y)

    def plain(meta: Params, constant: bool) -> Tensor:
        x, y = torch.cat([e.support_x, e.query_x]), torch.cat([e.support_y, e.query_y])
        return F.cross_entropy(forward(meta, x), y)

    return descended if name in RATES else solved if name in HEADS else plain


def shortening(slopes: list[Tensor], options: dict[str, Any]) -> Tensor | float:
    """What makes a gradient at most `clip` long."""
    norm = torch.linalg.vector_norm(torch.cat([s.flatten() for s in slopes]))
    return options["clip"] / norm if norm > options.get("clip", torch.inf) else 1.0


def multi_step_weights(steps: int, fading: int, step: int) -> list[float]:
    """MAML++: 1/S each at first, in the end the last loss alone."""
    early = (1 - step / fading) / steps if step < fading else 0.0
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


# ----------------------------------------------------------------------------------------- directions are derivatives


def strong(case: Case) -> Case:
    return case[0], case[1] | ({"inner_lr": LR} if case[0] in RATES else {"c": C} if case[0] == "svm" else {})


CASES = [strong(case) for case in LEARNER_CASES + MORE if case[0] != "reptile"]
FIRST_ORDER = [case for case in CASES if case[1].get("first_order")]


def leaves_of(meta: Params) -> Params:
    return {k: v.detach().clone().requires_grad_() for k, v in meta.items()}


def autograd(loss: Callable[..., Tensor], meta: Params, constant: bool) -> Params:
    leaves = leaves_of(meta)
    slopes = torch.autograd.grad(loss(leaves, constant), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


def lines(meta: Params) -> Iterator[tuple[str, Params]]:
    """A direction of each leaf alone."""
    for name in meta:
        yield name, {k: rand(*v.shape, seed=9) * (k == name) for k, v in meta.items()}


def along(direction: Params, line: Params) -> float:
    return sum(float((direction[k] * line[k]).sum()) for k in line)


def test_every_learner_has_its_oracle() -> None:
    assert {*RATES, *HEADS, "supervised", "reptile"} == set(LEARNERS)


# Autograd's derivative of the same loss is compared on all models below; differences of the loss itself are slower.
DIFFERENCED = [pytest.param(m, marks=[] if m in (SMOOTH[0], SMOOTH[3]) else [pytest.mark.slow]) for m in SMOOTHER]


@pytest.mark.parametrize("case", [case for case in CASES if case not in FIRST_ORDER], ids=name_of)
@pytest.mark.parametrize("model_case", DIFFERENCED, ids=name_of)
def test_the_direction_is_the_derivative(case: Case, model_case: Case) -> None:
    """Central differences leaf by leaf: 1e-6 of the slope, or 1e-8 where there is none (a bias before batch norm)."""
    model, e = model_of(model_case), episode_of(model_case)
    learner = learner_of(case, model)
    meta, stats = started(learner)
    loss = loss_of(case, model, learner, stats, e)
    direction = learner.meta_gradient(meta, stats, e, STEP, SEED)[0]
    without_adaptation = autograd(loss, meta, constant=True)
    measured, misses = {}, [0.0]
    for name, line in lines(meta):
        measured[name] = slope(lambda at: loss(leaves_of(at), False).detach(), meta, line)
        assert along(direction, line) == pytest.approx(measured[name], rel=1e-6, abs=1e-8), name
        misses.append(abs(along(without_adaptation, line) - measured[name]))
    assert case[0] == "supervised" or max(misses) > 1e-3  # the part through the support is no rounding error
    for kind in ("rate/", "scale", "log_penalty"):
        learned = [abs(v) for k, v in measured.items() if k.startswith(kind)]
        assert not learned or max(learned) > 1e-5, kind


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("model_case", SMOOTHER + KINKED, ids=name_of)
def test_the_direction_is_torch_autograds(case: Case, model_case: Case) -> None:
    """A plain loop with create_graph, or in the first order with gradients that are constants: to 1e-12.

    Ridge goes another way to the same weights: to 1e-8. The SVM's kernel is singular where features are few: to 1e-6.
    """
    model, e = model_of(model_case), episode_of(model_case)
    learner = learner_of(case, model)
    meta, stats = started(learner)
    loss = loss_of(case, model, learner, stats, e)
    direction = learner.meta_gradient(meta, stats, e, STEP, SEED)[0]
    theirs = autograd(loss, meta, constant=case in FIRST_ORDER)
    assert gap(direction, theirs) < {"ridge": 1e-8, "svm": 1e-6}.get(case[0], 1e-12)
    if case in FIRST_ORDER:
        assert gap(direction, autograd(loss, meta, constant=False)) > 1e-3


def active(support: Tensor, y: Tensor) -> Tensor:
    """(n, W) booleans: where the dual variable of the support vector machine lies at its bound."""
    hot = F.one_hot(y, WAY)
    return C * hot - solvers.crammer_singer(support @ support.T, hot, C) < 1e-6 * C


@pytest.mark.parametrize("model_case", SMOOTHER, ids=name_of)
def test_the_svm_is_measured_away_from_changes_of_its_active_set(model_case: Case) -> None:
    """At every point of `slope` the same variables are at their bounds, and some are free, so that alpha moves."""
    model, e = model_of(model_case), episode_of(model_case)
    meta, stats = started(learner_of(("svm", {"c": C}), model))

    def bounds(meta: Params) -> Tensor:
        return active(model.features(meta, stats, e.support_x, True, SEED)[0], e.support_y)

    base = bounds(meta)
    assert (~base).sum(1).max() >= 2  # a row sums to 0, so a single free variable stays where it is
    for _, line in lines(meta):
        for h in (-2e-5, -1e-5, 1e-5, 2e-5):
            assert torch.equal(bounds({k: v + h * line[k] for k, v in meta.items()}), base)


# ------------------------------------------------------------------------------------------------------------ MAML++

MLP, CONV = SMOOTH[0], SMOOTH[1]
LINEAR: Case = ("mlp", {"hidden": []})


@pytest.mark.parametrize(
    ("step", "weights"),
    [
        (0, [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        (6, [1 / 16, 1 / 16, 1 / 16, 13 / 16]),
        (8, [0, 0, 0, 1]),
        (50, [0, 0, 0, 1]),
    ],
)
@pytest.mark.parametrize("first_order", [False, True])
def test_multi_step_weighs_the_losses_after_each_step(first_order: bool, step: int, weights: list[float]) -> None:
    """So its direction is the weighted sum of those of MAML with 1, 2, 3 and 4 steps."""
    model, e = model_of(CONV), episode()
    options = {"inner_lr": LR, "first_order": first_order}
    learner = learner_of(("maml", options | {"inner_steps": 4, "multi_step": 8}), model)
    meta, stats = started(learner)
    direction, _, metrics = learner.meta_gradient(meta, stats, e, torch.tensor(step), SEED)
    plain = [learner_of(("maml", options | {"inner_steps": n}), model) for n in (1, 2, 3, 4)]
    each = tree.stack(gradient_of(learner, meta, stats, e) for learner in plain)
    expected = {k: torch.tensordot(torch.tensor(weights).double(), v, 1) for k, v in each.items()}
    assert gap(direction, expected) < 1e-12
    assert gap(tree.index(each, 0), tree.index(each, 3)) > 1e-2
    assert gap(metrics, plain[-1].meta_gradient(meta, stats, e, STEP, SEED)[2]) < 1e-12  # those of the last step


@pytest.mark.parametrize("adapt_norm", [True, False])
def test_rates_are_learned_for_each_tensor_and_step(adapt_norm: bool) -> None:
    """Further steps than were trained take the last rate."""
    model, e = model_of(CONV), episode()
    options = {"inner_lr": LR, "inner_steps": 2, "learn_rates": True, "adapt_norm": adapt_norm}
    learner = learner_of(("maml", options), model)
    fresh, _ = learner.init(seeds.generator(0))
    moving = {k for k in model.init(seeds.generator(0))[0] if adapt_norm or not k.startswith("norm")}
    rates = tree.part(fresh, "rate")
    assert set(rates) == moving
    assert all(rate.tolist() == [LR, LR] for rate in rates.values())

    meta, stats = started(learner)
    assert len({float(v) for rate in tree.part(meta, "rate").values() for v in rate}) == 2 * len(moving)
    params = {k: v for k, v in meta.items() if not k.startswith("rate/")}
    for step, item in enumerate(learner.adapt(meta, stats, e.support, SEED, 4, None)):
        assert gap(item.params, params) < 1e-12
        leaves = leaves_of(params)
        F.cross_entropy(model.apply(leaves, stats, e.support_x, True, SEED)[0], e.support_y).backward()
        for k in moving:
            params[k] = params[k] - meta[f"rate/{k}"][min(step, 1)] * leaves[k].grad


# -------------------------------------------------------------------------------------------------- Meta-SGD and ANIL


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("model_case", SMOOTH, ids=name_of)
def test_meta_sgd_with_equal_rates_is_maml(model_case: Case, first_order: bool) -> None:
    model, e = model_of(model_case), episode()
    options = {"inner_lr": LR, "inner_steps": 3, "first_order": first_order}
    learner, maml = learner_of(("meta_sgd", options), model), learner_of(("maml", options), model)
    meta, stats = started(maml)
    rates = {f"rate/{k}": torch.full_like(v, LR) for k, v in meta.items()}
    fresh = learner.init(seeds.generator(0))[0]
    assert all(torch.equal(fresh[k], v.float()) for k, v in rates.items())
    ours = gradient_of(learner, meta | rates, stats, e)
    assert set(ours) == set(meta) | set(rates)
    assert gap({k: ours[k] for k in meta}, gradient_of(maml, meta, stats, e)) < 1e-12


@pytest.mark.parametrize("model_case", SMOOTH, ids=name_of)
def test_anil_moves_the_head_alone_and_learns_all(model_case: Case) -> None:
    learner, e = learner_of(("anil", {"inner_lr": LR}), model_of(model_case)), episode()
    meta, stats = started(learner)
    params = last(learner.adapt(meta, stats, e.support, SEED, 5, None)).params
    assert {k for k in meta if not torch.equal(params[k], meta[k])} == {"head.weight", "head.bias"}
    direction = gradient_of(learner, meta, stats, e)
    assert all(v.abs().max() > 1e-6 for k, v in direction.items() if k.endswith("weight"))


@pytest.mark.parametrize("first_order", [False, True])
def test_anil_without_a_body_is_maml(first_order: bool) -> None:
    model, e = model_of(LINEAR), episode()
    options = {"inner_lr": LR, "inner_steps": 3, "first_order": first_order}
    anil, maml = (learner_of((name, options), model) for name in ("anil", "maml"))
    meta, stats = started(maml)
    assert gap(gradient_of(anil, meta, stats, e), gradient_of(maml, meta, stats, e)) < 1e-15


# -------------------------------------------------------------------------------------------------------- solved heads


def lacking(e: Episode) -> Episode:
    """The task without support of the last class."""
    there = e.support_y != WAY - 1
    return e._replace(support_x=e.support_x[there], support_y=e.support_y[there])


def solved(case: Case, model: Model, e: Episode) -> tuple[Params, Params, Tensor, Tensor, Tensor]:
    """meta, the adapted parameters, outputs of the query; features of support and query as at test."""
    learner = learner_of(case, model)
    meta, stats = started(learner)
    adapted = last(learner.adapt(meta, stats, e.support, SEED, 1, None))
    seen = (model.features(meta, stats, x, False, SEED)[0] for x in (e.support_x, e.query_x))
    return meta, adapted.params, learner.predict(adapted, e.query_x), *seen


@pytest.mark.parametrize("e", [episode(n=7), lacking(episode(n=7))], ids=["", "class missing"])
@pytest.mark.parametrize("model_case", SMOOTH, ids=name_of)
def test_prototypical_outputs_are_distances(model_case: Case, e: Episode) -> None:
    """But for a constant of each query, which a softmax does not see."""
    _, _, out, support, query = solved(("prototypical", {}), model_of(model_case), e)
    expected = distances({}, support, e.support_y, query, {})
    assert gap(out.softmax(-1), expected.softmax(-1)) < 1e-12
    assert gap(out, expected) > 1e-2  # the constant


@pytest.mark.parametrize(
    "e", [episode(n=5), episode(n=40), lacking(episode(n=7))], ids=["few", "many", "class missing"]
)
@pytest.mark.parametrize(
    "options", [{}, {"penalty": 0.3, "learn_scale": False, "scale": 1.0}, {"learn_penalty": True}], ids=str
)
def test_ridge_is_scikit_learns(options: dict[str, Any], e: Episode) -> None:
    meta, _, out, support, query = solved(("ridge", options), model_of(MLP), e)
    penalty = float(meta["log_penalty"].exp()) if "log_penalty" in meta else options.get("penalty", 1.0)
    theirs = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(support, F.one_hot(e.support_y, WAY))
    expected = torch.from_numpy(theirs.predict(query.numpy())) * meta.get("scale", 1.0)
    assert gap(out, expected) < 1e-9


def test_ridge_of_values_is_scikit_learns() -> None:
    model = model_of(("mlp", {"hidden": [8], "activation": "tanh"}), (1,), 2)
    learner = learner_of(("ridge", {"learn_scale": False, "scale": 1.0}), model, SQUARED_ERROR)
    meta, stats = started(learner)
    x, y = rand(10, 1), rand(10, 2, seed=1)
    features = model.features(meta, stats, x, False, SEED)[0].numpy()
    theirs = Ridge(fit_intercept=False, solver="cholesky").fit(features[:6], y[:6])
    out = learner.predict(last(learner.adapt(meta, stats, Examples(x[:6], y[:6]), SEED, 1, None)), x)
    assert gap(out, torch.from_numpy(theirs.predict(features))) < 1e-9


@pytest.mark.parametrize("c", [0.02, 0.1, 1.0])
def test_svm_is_scikit_learns(c: float) -> None:
    """liblinear's solver of the same problem: its weights to 1e-6, and so its predictions."""
    e = episode(n=30)
    centres = rand(WAY, *e.support_x.shape[1:], seed=3) * 2
    e = e._replace(support_x=e.support_x + centres[e.support_y], query_x=e.query_x + centres[e.query_y])
    model = model_of(("mlp", {"hidden": [7], "activation": "tanh"}))
    meta, params, out, support, query = solved(("svm", {"c": c}), model, e)
    theirs = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=c, tol=1e-12, max_iter=10**6)
    theirs.fit(support, e.support_y)
    assert gap(params["head.weight"], torch.from_numpy(theirs.coef_) * meta["scale"]) < 1e-6
    assert out.argmax(-1).tolist() == theirs.predict(query).tolist()
    assert theirs.score(query, e.query_y) > 0.8


@pytest.mark.parametrize("name", sorted(HEADS))
def test_float32_is_enough_for_more_examples_than_features(name: str) -> None:
    """As in local tasks; float32 products of such features have eigenvalues below 0."""
    learner, e = learner_of((name, {}), model_of(MLP)), episode(n=60)
    meta, stats = started(learner)
    meta, rows = single(meta), single({"support_x": e.support_x, "query_x": e.query_x})

    def direction(meta: Params, rows: Params) -> Params:
        return gradient_of(learner, meta, stats, e._replace(**rows))

    inputs = double(meta), double(rows)
    assert gap(double(direction(meta, rows)), direction(*inputs)) < float32_error(direction, *inputs)


@pytest.mark.parametrize("name", sorted(HEADS))
@pytest.mark.parametrize("model_case", [MLP, CONV], ids=name_of)
def test_a_solved_head_has_as_many_classes_as_the_task(model_case: Case, name: str) -> None:
    """What was learned with 3 classes solves tasks of 5, which are but names."""
    narrow, wide = (learner_of((name, {}), model_of(model_case, outputs=n)) for n in (3, 5))
    meta, stats = started(narrow)
    assert {k: v.shape for k, v in wide.init(seeds.generator(0))[0].items()} == {k: v.shape for k, v in meta.items()}
    e = episode(n=10, way=5)
    out = wide.predict(last(wide.adapt(meta, stats, e.support, SEED, 1, None)), e.query_x)
    assert out.shape == (12, 5)
    assert out.isfinite().all()
    turned = [4, 2, 0, 1, 3]
    y = torch.tensor(turned)[e.support_y]
    again = wide.predict(last(wide.adapt(meta, stats, Examples(e.support_x, y), SEED, 1, None)), e.query_x)
    assert gap(again[:, turned], out) < 1e-9
