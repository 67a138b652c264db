"""The output-layer solvers against SciPy's SLSQP and scikit-learn's liblinear and Ridge."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from maths import float32_error
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.func import grad, jacrev, vmap

from metadist_cli.core.errors import Problem
from metadist_cli.core.solvers import crammer_singer, duality_gap, ridge
from metadist_cli.core.tree import Params

C, FEATURES = 0.1, 32
CASES = [(5, 1), (5, 5), (20, 1), (2, 3)]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tasks(way: int, shot: int, count: int = 4, features: int = FEATURES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x (count, n, features), classes around centres of their own; y (n, way)."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.eye(way).repeat(shot, 1)
    centre = torch.randn(count, way, features, generator=generator)
    return (torch.randn(count, way * shot, features, generator=generator) + y @ centre) / features**0.5, y


def solve(x: Tensor, y: Tensor, c: float = C) -> Tensor:
    return crammer_singer(x @ x.mT, y, c)


def weight(x: Tensor, y: Tensor, c: float = C) -> Tensor:
    return solve(x, y, c).mT @ x


def gap(x: Tensor, y: Tensor, c: float, alpha: Tensor) -> float:
    return float(duality_gap(x @ x.mT, y, c, alpha))


def dual(x: Tensor, y: Tensor, alpha: Tensor) -> float:
    return float((alpha * y).sum() - 0.5 * (alpha.mT @ x).square().sum())


def slsqp(x: Tensor, y: Tensor, c: float) -> Tensor:
    """The dual by SciPy, in the entries off the class, which are <= 0 and sum to >= -c in each row."""
    kernel, one_hot = (x @ x.mT).numpy(), y.numpy()
    off = one_hot == 0

    def alpha(free: np.ndarray) -> np.ndarray:
        a = np.zeros_like(one_hot)
        a[off] = -free
        return a - one_hot * a.sum(1, keepdims=True)

    def value(free: np.ndarray) -> tuple[float, np.ndarray]:
        a = alpha(free)
        slope = kernel @ a - one_hot
        return 0.5 * (a * (kernel @ a)).sum() - (a * one_hot).sum(), ((slope * one_hot).sum(1)[:, None] - slope)[off]

    size, each = off.sum(), off.shape[1] - 1
    rows = np.kron(np.eye(len(one_hot)), np.ones(each))
    limits = {"type": "ineq", "fun": lambda free: c - rows @ free, "jac": lambda free: -rows}
    start, options = np.full(size, c / (each + 1)), {"ftol": 1e-15, "maxiter": 500}
    found = minimize(value, start, jac=True, bounds=[(0, None)] * size, constraints=[limits], options=options)
    return torch.from_numpy(alpha(found.x))


@pytest.mark.parametrize(("way", "shot"), [(5, 1), (5, 3), (2, 3), (7, 1)])
@pytest.mark.parametrize("c", [C, 3.0])
def test_svm_is_as_good_as_slsqp_and_at_the_same_place(way, shot, c):
    x, y = tasks(way, shot, count=1)
    ours, theirs = solve(x[0], y, c), slsqp(x[0], y, c)
    assert gap(x[0], y, c, theirs) < 1e-4  # the oracle found it too
    assert dual(x[0], y, ours) >= dual(x[0], y, theirs) - 1e-7
    torch.testing.assert_close(ours.mT @ x[0], theirs.mT @ x[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("way", "shot"), CASES)
def test_svm_is_liblinears(way, shot):
    x, y = tasks(way, shot, count=2)
    query = torch.randn(50, FEATURES, generator=torch.Generator().manual_seed(1))
    for one in x:
        machine = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=C, tol=1e-10, max_iter=100_000)
        theirs = torch.from_numpy(machine.fit(one.numpy(), y.argmax(1).numpy()).coef_)
        ours = weight(one, y)
        if way == 2:  # liblinear returns the difference of the two
            ours, theirs = ours[1] - ours[0], theirs[0]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        predicted = (query @ ours > 0).long() if way == 2 else (query @ ours.mT).argmax(1)
        assert predicted.tolist() == machine.predict(query.numpy()).tolist()


@pytest.mark.parametrize(("way", "shot"), [*CASES, (5, 15), (20, 5)])
def test_svm_has_no_gap_and_keeps_its_constraints(way, shot):
    x, y = tasks(way, shot)
    for one, alpha in zip(x, vmap(solve, (0, None))(x, y), strict=True):
        assert abs(gap(one, y, C, alpha)) <= 1e-9
        assert abs(alpha.sum(1)).max() <= 1e-15
        assert (alpha - C * y).max() <= 1e-15
    assert gap(x[0], y, C, 0.9 * solve(x[0], y)) > 1e-4  # the gap detects it


def test_svm_with_duplicates_with_and_against_their_label():
    x, y = tasks(5, 3, count=1)
    x = x[0].clone()
    x[5:10] = x[:5]  # the same label
    x[1] = x[2] = x[0]  # other labels
    alpha = solve(x, y)
    assert abs(gap(x, y, C, alpha)) <= 1e-9
    assert grad(lambda x: weight(x, y).square().sum())(x).isfinite().all()
    x, y = tasks(5, 2, count=1)
    twice = weight(x[0].repeat(2, 1), y.repeat(2, 1))
    torch.testing.assert_close(twice, weight(x[0], y, 2 * C), rtol=0, atol=1e-7)  # each example counts twice


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-4, 1e2, 1e4, 1e8])
def test_svm_at_any_scale_of_features(scale):
    x, y = tasks(5, 2, count=1)
    alpha = solve(scale * x[0], y)
    assert abs(gap(scale * x[0], y, C, alpha)) <= 1e-8
    assert grad(lambda x: solve(x, y).square().sum())(scale * x[0]).isfinite().all()


def test_svm_of_features_of_large_norm_is_that_of_the_widest_margin():
    x, y = tasks(5, 2, count=1)
    machine = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=1e3, tol=1e-10, max_iter=100_000)
    expected = torch.from_numpy(machine.fit(x[0].numpy(), y.argmax(1).numpy()).coef_)
    for scale in (1e2, 1e4, 1e8):
        torch.testing.assert_close(scale * weight(scale * x[0], y), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("way", "shot"), CASES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e2])
def test_svm_gradient_is_that_of_finite_differences(way, shot, scale):
    x, y = tasks(way, shot, count=6)
    generator = torch.Generator().manual_seed(2)
    query, pull = torch.randn(9, FEATURES, generator=generator), torch.randn(9, way, generator=generator)
    step = 1e-5 * torch.randn(x.shape, generator=generator)

    def loss(x: Tensor) -> Tensor:
        return ((query @ weight(scale * x, y).mT) * pull).sum()

    def inside(x: Tensor) -> Tensor:
        return (C * y - vmap(solve, (0, None))(scale * x, y)) > 1e-9 * C

    before, after = inside(x - step), inside(x + step)
    smooth = (before == after).all(-1).all(-1)
    assert smooth.sum() >= 4
    expected = (vmap(loss)(x + step) - vmap(loss)(x - step)) / 2
    found = (vmap(grad(loss))(x) * step).sum((-2, -1))
    # 1e-5: the third order of a step of 1e-5 is near 1e-8; the rest is rounding of the difference
    torch.testing.assert_close(found[smooth], expected[smooth], rtol=1e-5, atol=0)


def test_svm_gradient_sees_bounds():
    """The tasks of the test above have entries at the bounds and off them, so that both sides of the rule are met."""
    x, y = tasks(5, 5)
    slack = C * y - vmap(solve, (0, None))(x, y)
    assert (slack > 1e-6).any()
    assert (slack < 1e-12).any()
    assert abs(C * y - slack)[:, y == 1].max() > C - 1e-12  # a support vector beyond its margin, a = c


def test_svm_gradient_of_one_example_as_of_all_its_entries():
    x, y = tasks(5, 1, count=1, features=6)
    jacobian = jacrev(lambda x: weight(x, y))(x[0])
    for i in range(x[0].numel()):
        step = torch.zeros(30).index_fill(0, torch.tensor([i]), 1e-5).reshape(5, 6)
        expected = (weight(x[0] + step, y) - weight(x[0] - step, y)) / 2e-5
        torch.testing.assert_close((jacobian * (step / 1e-5)).sum((-2, -1)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("way", "shot"), CASES)
def test_svm_under_vmap_is_a_loop(way, shot):
    x, y = tasks(way, shot, count=6)
    kernels = x @ x.mT
    kernels[1] *= 1e4  # needs more iterations than the rest

    def loss(kernel: Tensor) -> Tensor:
        return crammer_singer(kernel, y, C).square().sum()

    alphas, gradients = vmap(lambda k: crammer_singer(k, y, C))(kernels), vmap(grad(loss))(kernels)
    nested = vmap(vmap(grad(loss)))(kernels.reshape(2, 3, *kernels.shape[1:]))
    torch.testing.assert_close(nested.flatten(0, 1), gradients, rtol=1e-12, atol=1e-12)
    for kernel, alpha, gradient in zip(kernels, alphas, gradients, strict=True):
        torch.testing.assert_close(crammer_singer(kernel, y, C), alpha, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(grad(loss)(kernel), gradient, rtol=1e-12, atol=1e-12)
    last = vmap(grad(loss), in_dims=2, out_dims=2)(kernels.movedim(0, 2))
    torch.testing.assert_close(last.movedim(2, 0), gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("way", "shot"), [*CASES, (3, 3)])
@pytest.mark.parametrize("head", [weight, lambda x, y: ridge(x, y, 0.5), lambda x, y: ridge(x[:, :3], y, 0.5)])
def test_bits_do_not_depend_on_the_neighbours(way, shot, head):
    x, y = tasks(way, shot, count=7)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return vmap(lambda x: head(x, y))(x), vmap(grad(lambda x: head(x, y).square().sum()))(x)

    together = both(x)
    for part in (slice(0, 1), slice(3, 4), slice(2, 7)):
        assert all(torch.equal(whole[part], alone) for whole, alone in zip(together, both(x[part]), strict=True))


def test_svm_with_labels_of_each_task():
    x, y = tasks(5, 1, count=3)
    labels = torch.stack([y, y.roll(1, 0), y.roll(2, 0)])
    shared = vmap(solve, (None, 0))(x[0], labels)
    for alpha, label in zip(shared, labels, strict=True):
        torch.testing.assert_close(alpha, solve(x[0], label), rtol=1e-12, atol=1e-12)


def test_svm_of_a_broken_task_is_nan_and_of_its_neighbours_is_not():
    x, y = tasks(5, 1, count=4)
    kernels = x @ x.mT
    kernels[1, 0, 0], kernels[2] = torch.nan, torch.inf
    alphas = vmap(lambda k: crammer_singer(k, y, C))(kernels)
    gradients = vmap(grad(lambda k: crammer_singer(k, y, C).square().sum()))(kernels)
    for found in (alphas, gradients):
        assert found.isnan().flatten(1).all(1).tolist() == [False, True, True, False]
        assert found[[0, 3]].isfinite().all()


def test_svm_refuses_a_second_derivative():
    x, y = tasks(5, 1)

    def inner(x: Tensor) -> Tensor:
        return grad(lambda x: weight(x, y).square().sum())(x).square().sum()

    for second in (grad(inner), lambda x: vmap(grad(inner))(x[None])):
        with pytest.raises(Problem, match="differentiated twice"):
            second(x[0])


def test_float32_in_float32_out():
    x, y = (v.float() for v in tasks(5, 5))
    for head in (weight, lambda x, y: ridge(x, y, 0.5), lambda x, y: ridge(x[:, :8], y, 0.5)):
        found, gradient = head(x[0], y), grad(lambda x, head=head: head(x, y).square().sum())(x[0])
        assert found.dtype == gradient.dtype == torch.float32

        def answer(rows: Params, head: Callable = head) -> Params:
            return {"weight": head(rows["x"], y.double())}

        rows = {"x": x[0].double()}
        assert float((found - answer(rows)["weight"]).abs().max()) < float32_error(answer, rows)


RIDGE = [(5, 1, 32), (5, 5, 32), (5, 5, 8), (5, 5, 7), (5, 5, 25), (1, 3, 4)]


@pytest.mark.parametrize(("way", "shot", "features"), RIDGE)
def test_ridge_is_scikit_learns(way, shot, features):
    x, y = tasks(way, shot, count=1, features=features)
    for targets in (y, torch.randn(y.shape, generator=torch.Generator().manual_seed(3))):
        theirs = Ridge(alpha=0.7, fit_intercept=False, solver="svd").fit(x[0].numpy(), targets.numpy()).coef_
        expected = torch.from_numpy(theirs).reshape(way, features)
        torch.testing.assert_close(ridge(x[0], targets, 0.7), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("way", "shot", "features"), RIDGE)
def test_ridge_gradients_are_those_of_finite_differences(way, shot, features):
    x, y = tasks(way, shot, count=1, features=features)
    inputs = tuple(v.clone().requires_grad_() for v in (x[0], y, torch.tensor(0.7)))
    assert torch.autograd.gradcheck(ridge, inputs)
    assert torch.autograd.gradgradcheck(ridge, inputs)


def test_ridge_under_vmap_is_a_loop():
    x, y = tasks(5, 5, count=4)
    penalties = torch.tensor([0.1, 1.0, 10.0, 100.0])
    gradients = grad(lambda x, p: ridge(x, y, p).square().sum(), argnums=(0, 1))
    nested = vmap(vmap(gradients))(x.reshape(2, 2, 25, FEATURES), penalties.reshape(2, 2))
    for i in range(4):
        for found, expected in zip(nested, gradients(x[i], penalties[i]), strict=True):
            torch.testing.assert_close(found.flatten(0, 1)[i], expected, rtol=1e-12, atol=1e-12)
