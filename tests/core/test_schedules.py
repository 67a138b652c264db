"""Schedules of the step size against torch's own, and the norm of a gradient."""

from __future__ import annotations

import warnings

import pytest
import torch
from maths import gap, rand, same, slope
from torch import Tensor
from torch.func import vmap

from metadist_cli.core.gradients import clipped, grad_and_value
from metadist_cli.core.schedules import constant, schedule
from metadist_cli.core.tree import Params

STEPS = 24


def torchs(kind: str, warmup: int, until: int, end: float) -> list[float]:
    """The factors of torch.optim.lr_scheduler: a warm-up, then a fall over the rest, then what is left."""
    sgd, lr = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), torch.optim.lr_scheduler
    falls = {
        "constant": lambda: lr.ConstantLR(sgd, 1.0, until),
        "linear": lambda: lr.LinearLR(sgd, 1.0, end, until - warmup),
        "cosine": lambda: lr.CosineAnnealingLR(sgd, until - warmup, eta_min=end),
    }
    rise = lr.LambdaLR(sgd, lambda step: min(1.0, (step + 1) / max(warmup, 1)))
    parts, at = [rise, falls[kind]()], [warmup]
    if kind != "constant":
        parts.append(lr.LambdaLR(sgd, lambda step: end))
        at.append(until)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on the order of calls
        run = lr.SequentialLR(sgd, parts, at)
        found = []
        for _ in range(STEPS):
            found.append(sgd.param_groups[0]["lr"])
            sgd.step()
            run.step()
    return found


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "until", "end"), [(0, 20, 0.0), (0, 24, 0.25), (6, 20, 0.0), (5, 17, 0.1)])
def test_a_schedule_is_torchs(kind: str, warmup: int, until: int, end: float) -> None:
    factor = schedule(kind, warmup, until, end)
    ours = [float(factor(step)) for step in range(STEPS)]
    assert ours == pytest.approx(torchs(kind, warmup, until, end), abs=1e-6)
    assert ours == [float(factor(torch.tensor(step))) for step in range(STEPS)]


def test_without_a_schedule_the_factor_is_the_number_1() -> None:
    """A tensor would take other kernels, and so other bits."""
    assert schedule("constant", 0, 10, 0.0) is constant
    assert type(constant(3)) is float


@pytest.mark.parametrize(("kind", "warmup", "until"), [("linear", 5, 5), ("cosine", 8, 3), ("linear", 0, 1)])
def test_a_fall_that_ends_within_the_warm_up_comes_after_it(kind: str, warmup: int, until: int) -> None:
    factor = schedule(kind, warmup, until, 0.0)
    ours = [float(factor(step)) for step in range(12)]
    assert ours[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    assert ours[warmup] == 1
    assert ours[warmup + 1 :] == [0.0] * (11 - warmup)


# ------------------------------------------------------------------------------------------------ clipping by norm


def length(gradient: Params) -> float:
    return sum(float(v.double().square().sum()) for v in gradient.values()) ** 0.5


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e25, 1e33])
@pytest.mark.parametrize("limit", [1e-3, 1.0, 50.0])
def test_a_long_gradient_keeps_its_direction_and_a_short_one_its_bits(size: float, limit: float) -> None:
    gradient = {"w": size * rand(4, 3, seed=1).float(), "b": size * rand(3, seed=2).float()}
    before, after = length(gradient), clipped(gradient, limit)
    assert same(clipped(gradient, None), gradient)
    if before <= limit:
        assert same(after, gradient)
        return
    assert length(after) == pytest.approx(limit, rel=1e-6)
    for name, leaf in gradient.items():
        torch.testing.assert_close(after[name] / limit, leaf / before, rtol=1e-5, atol=0)


def test_no_gradient_is_no_gradient_and_no_number_stays_none() -> None:
    zero = {"w": torch.zeros(3)}
    assert same(clipped(zero, 1.0), zero)
    for bad in (float("nan"), float("inf")):
        assert not clipped({"w": torch.tensor([1.0, bad])}, 1.0)["w"].isfinite().all()


def test_each_node_of_a_block_has_its_own_norm() -> None:
    many = {"w": torch.stack([rand(5, seed=1), 100 * rand(5, seed=2), 0 * rand(5, seed=3)])}
    together = vmap(lambda g: clipped(g, 1.0))(many)
    for i in range(3):
        assert gap({"w": together["w"][i]}, clipped({"w": many["w"][i]}, 1.0)) < 1e-15


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_the_derivative_passes_through_the_norm(limit: float) -> None:
    """Against central differences, where the gradient is longer than the limit and where it is not."""
    start, line = {"w": rand(4, seed=1)}, {"w": rand(4, seed=2)}

    def after_a_step(at: Params) -> Tensor:
        inner = grad_and_value(lambda p: ((p["w"] ** 4).sum(), ()))(at)[0]
        return (at["w"] - 0.1 * clipped(inner, limit)["w"]).square().sum()

    direction = grad_and_value(lambda p: (after_a_step(p), ()))(start)[0]
    assert float((direction["w"] * line["w"]).sum()) == pytest.approx(slope(after_a_step, start, line), rel=1e-6)


def test_the_derivative_at_a_gradient_of_zero_is_a_number() -> None:
    def after_a_step(at: Params) -> tuple[Tensor, tuple]:
        inner = grad_and_value(lambda p: ((p["w"] ** 4).sum(), ()))(at)[0]
        return (at["w"] - clipped(inner, 1.0)["w"]).sum(), ()

    assert grad_and_value(after_a_step)({"w": torch.zeros(3)})[0]["w"].tolist() == [1, 1, 1]
