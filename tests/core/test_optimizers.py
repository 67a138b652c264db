"""The optimisers against torch.optim, and two properties that averaging relies on."""

from __future__ import annotations

import pytest
import torch
from maths import EPS, OPTIMIZER_CASES, Case, covered, double, gap, name_of, rand, same
from torch import Tensor
from torch.func import vmap

from metadist_cli.core import tree
from metadist_cli.core.optimizers import OPTIMIZERS, Optimizer
from metadist_cli.core.schedules import schedule
from metadist_cli.core.tree import Params

every = pytest.mark.parametrize("case", OPTIMIZER_CASES, ids=name_of)


def of(case: Case) -> Optimizer:
    return OPTIMIZERS[case[0]](**case[1])


def params(dtype: torch.dtype = torch.float64) -> Params:
    return {"w": rand(4, 3, seed=1).to(dtype), "b": rand(3, seed=2).to(dtype)}


def directions(steps: int) -> list[Params]:
    """Of very different sizes, some of them zero."""
    sizes = torch.tensor([1e-6, 1.0, 1e3], dtype=torch.float64)
    made = [{"w": rand(4, 3, seed=10 + s) * sizes, "b": rand(3, seed=50 + s) * sizes} for s in range(steps)]
    made[3]["b"].zero_()
    return made


def test_every_optimizer_is_tested() -> None:
    assert covered(OPTIMIZER_CASES, OPTIMIZERS)


@every
def test_pure_and_the_same_under_vmap(case: Case) -> None:
    optimizer, start = of(case), params()
    old = {k: v.clone() for k, v in start.items()}
    direction = directions(4)[1]
    new, state = optimizer.update(direction, optimizer.init(start), start, 0)
    assert same(start, old)
    assert {k: (v.shape, v.dtype) for k, v in new.items()} == {k: (v.shape, v.dtype) for k, v in start.items()}
    assert set(state) == set(optimizer.init(start))
    assert tree.finite(new)
    assert tree.finite(state)
    assert gap(new, start) > 0

    many = tree.stack([start, {k: 2 * v for k, v in start.items()}])
    both = vmap(lambda p: optimizer.update(direction, optimizer.init(p), p, torch.tensor(0)))(many)
    for i in range(2):
        alone = optimizer.update(direction, optimizer.init(tree.index(many, i)), tree.index(many, i), 0)
        assert gap(tree.index(both[0], i), alone[0]) < 1e-14
        assert gap(tree.index(both[1], i), alone[1]) < 1e-14


@every
def test_toward_is_update_with_the_difference(case: Case) -> None:
    optimizer, old, new = of(case), params(), {"w": rand(4, 3, seed=3), "b": rand(3, seed=4)}
    state = optimizer.init(old)
    within = 4 * EPS if "factor" in case[1] else 1e-14  # a decayed step size is a float32
    for step in range(3):
        one, state_one = optimizer.toward(new, state, old, step)
        two, state_two = optimizer.update(tree.apply(torch.sub, old, new), state, old, step)
        assert gap(one, two) < within
        assert gap(state_one, state_two) < within
        old, state = one, state_one


ORACLES = [
    (("sgd", {"lr": 0.1}), lambda p: torch.optim.SGD(p, lr=0.1)),
    (("momentum", {"lr": 0.1, "beta": 0.8}), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
    (("adam", {"lr": 0.1}), lambda p: torch.optim.Adam(p, lr=0.1)),
    (("adam", {"lr": 0.1, "beta1": 0.0}), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.999))),
    (
        ("adam", {"lr": 0.01, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3}),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9), eps=1e-3),
    ),
]


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-11), (torch.float32, 8 * EPS)])
@pytest.mark.parametrize(("case", "oracle"), ORACLES, ids=[name_of(case) for case, _ in ORACLES])
def test_equals_torch_over_20_steps(case: Case, oracle, dtype: torch.dtype, within: float) -> None:
    """Torch's in float64; within: the error of a step, of what the parameters and their moves come to."""
    optimizer, ours = of(case), params(dtype)
    state = optimizer.init(ours)
    theirs = {k: v.double().clone().requires_grad_() for k, v in ours.items()}
    torch_optimizer, room = oracle(list(theirs.values())), 0.0
    for step, direction in enumerate(directions(20)):
        direction = {k: d.to(dtype) for k, d in direction.items()}
        for k, leaf in theirs.items():
            leaf.grad = direction[k].double().clone()
        torch_optimizer.step()
        ours, state = optimizer.update(direction, state, ours, step)
        room += within * (1 + max(float(v.detach().abs().max()) for v in theirs.values()))
        assert gap(double(ours), {k: v.detach() for k, v in theirs.items()}) < room


def test_first_adam_step_is_exact_in_float32() -> None:
    """1 - 0.999 in float32 is off by 1.7e-5, but the first step must have length lr for any gradient."""
    adam, start = of(("adam", {"lr": 1.0})), {"w": torch.zeros(3)}
    new, _ = adam.update({"w": torch.tensor([1e-2, -1.0, 1e3])}, adam.init(start), start, 0)
    torch.testing.assert_close(new["w"], torch.tensor([-1.0, 1.0, -1.0]), rtol=16 * EPS, atol=0)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_linear_schedule_falls_to_zero(as_tensor: bool) -> None:
    decay = of(("sgd", {"lr": 0.5, "factor": schedule("linear", 0, 4, 0.0)}))
    at, one = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    steps = [torch.tensor(s) if as_tensor else s for s in (0, 1, 2, 3, 4, 9)]
    assert [float(decay.update(one, {}, at, s)[0]["w"]) for s in steps] == [-0.5, -0.375, -0.25, -0.125, 0, 0]
    assert [float(decay.toward(one, {}, at, s)[0]["w"]) for s in steps] == [0.5, 0.375, 0.25, 0.125, 0, 0]
    for name in ("momentum", "adam"):
        plain, decayed = of((name, {"lr": 0.5})), of((name, {"lr": 0.5, "factor": schedule("linear", 0, 4, 0.0)}))
        full = plain.update(one, plain.init(at), at, steps[3])[0]["w"]
        quarter = decayed.update(one, decayed.init(at), at, steps[3])[0]["w"]
        assert float(quarter) == pytest.approx(float(full) / 4, rel=8 * EPS)


def any_floats(n: int, seed: int) -> Tensor:
    """Finite float32 numbers of every kind: random bits (denormals, huge, tiny), and normal ones."""
    bits = torch.randint(-(2**31), 2**31, (n,), generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    wild = bits.view(torch.float32)
    denormal = (bits & -0x7F800001).view(torch.float32)
    normal = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    kind = torch.arange(n) % 3
    chosen = torch.where(kind == 0, wild, torch.where(kind == 1, denormal, normal))
    return torch.where(chosen.isfinite(), chosen, 0.0)


def test_a_full_step_returns_the_target_to_the_bit() -> None:
    old, new = any_floats(100_000, 1), any_floats(100_000, 2)[torch.randperm(100_000)]
    ratio = (old / new).abs()
    assert int((new.abs() < 1.2e-38).sum()) > 10_000  # denormals are there
    assert float(ratio[ratio.isfinite()].max()) > 1e38
    sgd = of(("sgd", {"lr": 1.0}))
    landed = sgd.toward({"w": new}, {}, {"w": old}, 0)[0]["w"]
    assert torch.equal(landed.view(torch.int32), new.view(torch.int32))

    old, new = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(sgd.toward({"w": new}, {}, {"w": old}, 0)[0]["w"], new)
    missed = sgd.update({"w": old - new}, {}, {"w": old}, 0)[0]["w"] != new
    assert 0.2 < float(missed.float().mean()) < 0.6  # why `toward` is not written as `update(old - new)`
