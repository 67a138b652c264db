"""Recordings: the function's own bits for every learner and model; what cannot be recorded is called instead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from maths import (
    LEARNER_CASES,
    MODEL_CASES,
    Case,
    One,
    apart,
    close_round,
    first_global,
    first_own,
    inputs_of,
    learner_of,
    model_of,
    nodes_of,
    run_nodes,
    same,
    shape_of,
)
from torch import Tensor
from torch.func import grad, vmap

from metadist_cli.core import replay
from metadist_cli.core.optimizers import OPTIMIZERS
from metadist_cli.core.replay import Replayed
from metadist_cli.core.schedules import schedule
from metadist_cli.federated.aggregators import AGGREGATORS
from metadist_cli.federated.drift_corrections import DRIFTS
from metadist_cli.federated.local_training import Algorithm
from metadist_cli.federated.personalization import PERSONAL
from metadist_cli.tasks.episodes import Pool, TaskIndices, episodic

MANY = 20


class Counted:
    """A function that counts its calls."""

    def __init__(self, f: Callable[..., Any]):
        self.f, self.calls = f, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.f(*args)


def played(f: Callable[..., Any], *each: Callable[[int], Any]) -> Counted:
    """f after MANY replayed calls with different arguments, each of which gave f's result."""
    counted = Counted(f)
    replayed = Replayed(counted)
    for i in range(MANY):
        want, got = f(*[a(i) for a in each]), replayed(*[a(i) for a in each])
        assert torch.equal(want, got)
        assert want.stride() == got.stride()
    return counted


def rand(*shape: int) -> Callable[[int], Tensor]:
    return lambda i: torch.randn(*shape, generator=torch.Generator().manual_seed(i))


KEPT = torch.zeros(3)


def step(w: Tensor, x: Tensor) -> Tensor:
    return vmap(grad(lambda w, x: (w @ x).tanh().sum()), in_dims=(None, 0))(w, x)


def gated(x: Tensor) -> Tensor:
    """Several results of one operation, one of them left out; views of a view; a constant; a view of a constant."""
    left, _, right = x.t()[1:].split(2)
    values, places = right.max(0)
    return left * torch.tensor([[1.0, 2.0]]).t() + values.expand(2, -1) * (places + torch.arange(5)[0])


@pytest.mark.parametrize(
    ("f", "each"),
    [
        (step, (rand(3, 4), rand(5, 4, 2))),
        (gated, (rand(6, 7),)),
        (lambda x: x, (rand(2),)),
        (lambda x: x.exp().unsqueeze_(0).add_(x[:1]).mul_(x.sum()).mT, (rand(4, 1),)),
        (lambda x: x.view(torch.int32)[1:].view(torch.float32)[1:] + x[2:], (rand(5),)),
    ],
    ids=["gradients", "views", "nothing", "in place", "other type"],
)
def test_a_recording_is_the_function(f: Callable[..., Any], each: tuple[Callable[[int], Any], ...]) -> None:
    counted = played(f, *each)
    assert counted.calls < MANY / 2 + 2  # later calls were replayed


def test_arguments_may_start_anywhere_in_their_storage() -> None:
    whole = torch.randn(MANY, 8, 6)
    counted = played(lambda x: x.t()[1:, 2:] * 2 + x.t()[:-1, 1:-1], lambda i: whole[i])
    assert counted.calls < MANY / 2 + 2


def test_trees_of_arguments_and_of_results() -> None:
    f = lambda leaves, rest: ({"sum": leaves["a"] + leaves["b"]}, (rest[0], leaves["a"].mean()))  # noqa: E731
    replayed = Replayed(f)
    for i in range(MANY):
        leaves = {"a": torch.full((3,), float(i)), "b": torch.ones(3)}
        if i % 2:
            leaves = dict(reversed(leaves.items()))  # another order is another signature
        sums, (rest, mean) = replayed(leaves, (torch.tensor(i),))
        assert sums["sum"].tolist() == [i + 1.0] * 3
        assert (int(rest), float(mean)) == (i, i)


def test_other_sizes_and_strides_have_their_own_recordings() -> None:
    kinds = [rand(3, 4), rand(5, 4), lambda i: rand(4, 3)(i).t(), lambda i: rand(3, 4)(i).double()]
    counted = Counted(lambda x: x.reshape(-1) * 2)
    replayed = Replayed(counted)
    for i in range(MANY):
        for kind in kinds:
            x = kind(i)
            assert torch.equal(replayed(x), x.reshape(-1) * 2)
    assert counted.calls < len(kinds) * (MANY / 2 + 2)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * float(x.sum()),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: KEPT.copy_(x) * 1,
        lambda x: x.mul_(2) * 1,
        lambda x: x + 0 * torch.rand(3),
        lambda x: x[x > 0].sum() + x,
        lambda x: x * len(x.nonzero()),
        lambda x: sum((x * i for i in range(replay._MAX_OPERATIONS)), x),
    ],
    ids=["number", "branch", "a constant", "an argument", "random", "mask", "size", "too long"],
)
def test_what_cannot_be_recorded_is_called(f: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MAX_OPERATIONS", 50)
    assert played(f, rand(3)).calls == MANY


def test_a_recording_that_is_not_the_function_is_not_used() -> None:
    """A value recorded as a constant was not constant."""
    seen = Counted(lambda x: x)
    counted = played(lambda x: x + 0 * seen.calls, rand(3))  # a constant after all
    assert counted.calls < MANY
    number = iter(range(100))
    counted = Counted(lambda x: x + next(number))
    replayed = Replayed(counted)
    assert [int(replayed(torch.zeros(()))) for _ in range(MANY)] == list(range(MANY))


def test_arguments_that_are_one_tensor_now_may_be_two_later() -> None:
    """Like the moments of Adam: one tensor in the first round, two in later ones."""
    counted = Counted(lambda a, b: a + 10 * b.t().t())
    replayed = Replayed(counted)
    for i in range(MANY):
        a = torch.full((2, 3), float(i))
        assert torch.equal(replayed(a, a), 11 * a)
        assert torch.equal(replayed(a, a + 1), 11 * a + 10)
    assert counted.calls < MANY / 2 + 2


def test_an_error_of_a_replayed_operation_is_raised() -> None:
    replayed = Replayed(lambda a: torch.linalg.solve(a, torch.ones(2)))
    for i in range(MANY):
        replayed(torch.eye(2) * (i + 1))
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        replayed(torch.zeros(2, 2))


def test_signatures_are_limited_and_a_failed_recording_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MAX_SIGNATURES", 2)
    counted = Counted(lambda x: x + 1)
    replayed = Replayed(counted)
    for size in (1, 2, 3):
        for _ in range(MANY):
            assert replayed(torch.zeros(size)).tolist() == [1.0] * size
    assert counted.calls == 2 * (replay._PLAIN_CALLS + 2) + MANY

    record, tried = replay.record, []

    def lacking(f: Callable[..., Any], args: Any) -> Any:
        tried.append(args)
        if len(tried) == 1:
            raise MemoryError
        return record(f, args)

    monkeypatch.setattr(replay, "record", lacking)
    replayed = Replayed(lambda x: x + 1)
    for i in range(MANY):
        with pytest.raises(MemoryError) if i == replay._PLAIN_CALLS else contextlib.nullcontext():
            replayed(torch.zeros(1))
    assert len(tried) == 2


def test_several_threads() -> None:
    replayed = Replayed(step)
    arguments = [(rand(3, 4)(i), rand(5, 4, 2)(i)) for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda args: replayed(*args), arguments))
    assert all(torch.equal(one, step(*args)) for one, args in zip(found, arguments, strict=True))


def pool_of(model: Case) -> Pool:
    """Three nodes with rows for a model."""
    rows = nodes_of([18, 30, 24], shape=shape_of(model))
    return rows._replace(x=inputs_of(model, len(rows.x)).float())


def algorithm(case: Case, model: Case, personal: str = "none", drift: str = "none", outer: str = "adam") -> Algorithm:
    learner, opt = learner_of(case, model_of(model)), OPTIMIZERS[outer](schedule("linear", 0, 30, 0.0), lr=0.05)
    return Algorithm(learner, opt, "average", DRIFTS[drift](), PERSONAL[personal]())


def rounds_of(algo: Algorithm, pool: Pool, block: int, batch: int = 2) -> list[One]:
    """Three rounds of five steps, of which one node takes three."""
    server = OPTIMIZERS["sgd"](lr=1.0)
    shared, own = first_global(algo, server, 0), first_own(algo, 0)
    owns = {int(n): own for n in pool.nodes}

    def sample(part: Pool) -> TaskIndices:
        plan = episodic(0, 5, batch, way=3, shot=1, query=2)(part, 1)
        return plan._replace(active=plan.active & ((part.nodes != pool.nodes[1])[:, None] | (np.arange(5) < 3)))

    found: list[One] = []
    for number in (1, 2, 3):
        updates = list(run_nodes(algo, shared, owns.__getitem__, pool, sample, block))
        shared = close_round(AGGREGATORS["mean"](), server, shared, updates, number)
        found += apart(updates)
        owns |= {one.node: one.own for one in found}
    return found


NORMED: Case = ("mlp", {"hidden": [5], "norm": "batch_running"})
TWO: Case = ("maml", {"inner_steps": 2})
CASES: list[Any] = [
    *((learner, NORMED, {}, 3, 2) for learner in LEARNER_CASES),
    *(
        pytest.param(learner, NORMED, {}, 1, 1, marks=[] if learner[1] == {} else [pytest.mark.slow])
        for learner in LEARNER_CASES
    ),
    *((TWO, model, {}, 3, 2) for model in MODEL_CASES),
    *((TWO, NORMED, {"drift": drift}, 3, 2) for drift in DRIFTS),
    *((TWO, NORMED, {"personal": personal}, 3, 2) for personal in PERSONAL),
    *((TWO, NORMED, {"outer": outer}, 1, 2) for outer in OPTIMIZERS),
]


@pytest.mark.parametrize(("case", "model", "parts", "block", "tasks"), CASES, ids=str)
def test_every_part_is_recorded_and_keeps_its_bits(
    case: Case, model: Case, parts: dict[str, str], block: int, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, gives = replay.record, replay._reproduces
    recordings: list[Any] = []
    proofs: list[bool] = []

    def watched(f: Callable[..., Any], args: Any) -> Any:
        result, found = record(f, args)
        recordings.append(found)
        return result, found

    monkeypatch.setattr(replay, "record", watched)
    monkeypatch.setattr(replay, "_reproduces", lambda *args: proofs.append(gives(*args)) or proofs[-1])
    monkeypatch.setattr(replay, "_PLAIN_CALLS", 10**9)
    plain = rounds_of(algorithm(case, model, **parts), pool_of(model), block, tasks)
    assert not recordings
    monkeypatch.setattr(replay, "_PLAIN_CALLS", 0)
    for one, two in zip(plain, rounds_of(algorithm(case, model, **parts), pool_of(model), block, tasks), strict=True):
        assert same(one.shared, two.shared)
        assert same(one.own, two.own)
        assert one.metrics == two.metrics
    if case[0] == "svm":  # its solver stops at a tolerance
        assert set(recordings) == {None}
    else:
        assert None not in recordings
        assert len(proofs) >= 2
        assert all(proofs)


@pytest.mark.parametrize("state", ["average", "keep"])
def test_a_run_of_many_blocks_keeps_its_bits(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded and verified in the first round, where the moments of Adam are one tensor of zeros."""
    model: Case = ("mlp", {"hidden": [6]})
    pool = nodes_of([18] * (replay._PLAIN_CALLS + 5), shape=shape_of(model))
    pool = pool._replace(x=pool.x.float())
    made = [algorithm(("supervised", {}), model)._replace(outer_state=state) for _ in range(2)]
    replayed = rounds_of(made[0], pool, 1, 1)
    monkeypatch.setattr(replay, "_PLAIN_CALLS", 10**9)
    for one, two in zip(replayed, rounds_of(made[1], pool, 1, 1), strict=True):
        assert same(one.shared, two.shared)
        assert same(one.own, two.own)
