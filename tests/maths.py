"""What the tests of the mathematics share: entries of every registry, tasks and pools, and ways to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from metadist_cli.core import seeds, tree
from metadist_cli.core.losses import CROSS_ENTROPY, Loss
from metadist_cli.core.optimizers import Optimizer
from metadist_cli.core.schedules import schedule
from metadist_cli.core.tree import Params
from metadist_cli.federated.aggregators import AGGREGATORS, Aggregator
from metadist_cli.federated.local_training import Algorithm
from metadist_cli.federated.node_training import MemoryLimit, NodeWork
from metadist_cli.federated.node_training import run_nodes as _run_nodes
from metadist_cli.federated.rounds import Server, first_models
from metadist_cli.federated.updates import Updates
from metadist_cli.federated.uplink.types import IDENTITY
from metadist_cli.learners import LEARNERS, Learner
from metadist_cli.models import MODELS, Model
from metadist_cli.partition.shards import Shard, pool
from metadist_cli.tasks.episodes import Pool
from metadist_cli.tasks.types import Episode

Case = tuple[str, dict[str, Any]]

# A new entry of a registry is added here and meets the whole suite; `covered` is False until it is.
MODEL_CASES: list[Case] = [
    ("mlp", {"hidden": [6]}),
    ("mlp", {"hidden": []}),
    ("mlp", {"hidden": [6, 5], "norm": "batch", "affine": "shift", "init": "truncated"}),
    ("mlp", {"hidden": [6, 5], "norm": "batch_running", "activation": "softplus"}),
    ("mlp", {"hidden": [6], "norm": "group", "activation": "tanh"}),
    ("conv4", {"width": 4}),
    ("conv4", {"width": 4, "pool": "max", "head": "flatten", "affine": "both"}),
    ("conv4", {"width": 4, "norm": "batch_running", "affine": "both", "activation": "softplus"}),
    ("conv4", {"width": 4, "norm": "group", "affine": "none", "activation": "tanh"}),
    ("conv4", {"width": 4, "norm": "none"}),
    ("conv4", {"width": [3, 4, 5, 6], "head": "last_two", "activation": "leaky_relu"}),
    ("conv1d", {"width": 4, "depth": 2}),
    ("conv1d", {"width": 4, "depth": 2, "norm": "batch_running", "affine": "both", "activation": "softplus"}),
    ("conv1d", {"width": 4, "depth": 1, "norm": "group", "affine": "none", "activation": "tanh"}),
    ("conv1d", {"width": 4, "depth": 2, "norm": "none"}),
    ("lstm", {"vocabulary": 9, "embedding": 3, "hidden": 5}),
    ("lstm", {"vocabulary": 9, "embedding": 3, "hidden": 4, "layers": 1}),
    ("logistic", {"init": "uniform"}),  # the default draws nothing
]
# One of each kind, and one whose normalisation keeps statistics
FEW_MODELS: list[Case] = [
    ("mlp", {"hidden": [6]}),
    ("mlp", {"hidden": [6, 5], "norm": "batch_running", "activation": "softplus"}),
    ("conv4", {"width": 4}),
    ("conv1d", {"width": 4, "depth": 2}),
    ("lstm", {"vocabulary": 9, "embedding": 3, "hidden": 4, "layers": 1}),
    ("logistic", {"init": "uniform"}),
]
SMOOTH: list[Case] = [
    ("mlp", {"hidden": [7, 6], "activation": "softplus"}),
    *(("conv4", {"width": 4, "activation": "softplus", "affine": "both", "norm": n}) for n in ("batch", "group")),
    ("conv4", {"width": 4, "activation": "softplus", "affine": "both", "norm": "batch_running"}),
    ("mlp", {"hidden": [7], "activation": "softplus", "norm": "batch"}),
]
LEARNER_CASES: list[Case] = [
    ("maml", {}),
    ("maml", {"first_order": True, "inner_steps": 2}),
    ("maml", {"adapt_norm": False, "inner_steps": 2}),
    ("maml", {"learn_rates": True, "multi_step": 4, "inner_steps": 2}),
    ("anil", {"inner_steps": 2}),
    ("meta_sgd", {}),
    ("meta_sgd", {"first_order": True, "inner_steps": 2}),
    ("prototypical", {}),
    ("ridge", {}),
    ("ridge", {"learn_penalty": True, "learn_scale": False, "scale": 1.0}),
    ("svm", {}),
    ("reptile", {"inner_steps": 3, "inner_batch": 4}),
    ("reptile", {"inner_optimizer": "sgd", "inner_lr": 0.1, "inner_steps": 2}),
    ("supervised", {}),
]
FALLING = schedule("linear", 0, 7, 0.0)
OPTIMIZER_CASES: list[Case] = [
    ("sgd", {}),
    ("sgd", {"lr": 0.3, "factor": FALLING}),
    ("momentum", {}),
    ("adam", {}),
    ("adam", {"lr": 0.1, "beta1": 0.0, "factor": FALLING}),
]
DRIFT_CASES: list[Case] = [("none", {}), ("fedprox", {"mu": 0.3}), ("scaffold", {})]
PERSONAL_CASES: list[Case] = [
    ("none", {}),
    ("fedbn", {}),
    ("fedrep", {}),
    ("fedrep", {"head_steps": 2}),
    ("ditto", {"pull": 0.3}),
]
AGGREGATOR_CASES: list[Case] = [("mean", {}), ("mean", {"weight_by": "uniform"})]

SHAPE, WAY = (16, 16), 3
EPS = torch.finfo(torch.float32).eps
STEP, SEED = torch.tensor(0), torch.tensor(5)


def covered(cases: list[Case], registry: Mapping[str, object]) -> bool:
    return {name for name, _ in cases} == set(registry)


def slow_unless(quick: Callable[..., bool], *axes: Iterable[Any]) -> list[Any]:
    """The product of some axes for pytest's parametrize; what is not quick is slow."""
    return [pytest.param(*point, marks=[] if quick(*point) else [pytest.mark.slow]) for point in product(*axes)]


def crossed(learners: Iterable[Case], models: Iterable[Case]) -> list[Any]:
    """All pairs; slow but for those of each learner with a few models, and of each model with plain MAML."""
    return slow_unless(lambda learner, model: model in FEW_MODELS or learner == ("maml", {}), learners, models)


def name_of(case: Case) -> str:
    """A test id."""
    return " ".join([case[0], *(f"{k}={getattr(v, '__name__', v)}" for k, v in case[1].items())])


def shape_of(case: Case) -> tuple[int, ...]:
    """Of the rows that a model is tested with."""
    return {"conv1d": (2, 17), "lstm": (6,)}.get(case[0], SHAPE)


def inputs_of(case: Case, *lead: int, seed: int = 0) -> Tensor:
    """Rows for a model in float64, (*lead, *shape): characters in all of its vocabulary, or normal numbers."""
    x = rand(*lead, *shape_of(case), seed=seed)
    return (x.abs() * 1e6).floor() % case[1]["vocabulary"] if case[0] == "lstm" else x


def model_of(case: Case, shape: tuple[int, ...] | None = None, outputs: int = WAY) -> Model:
    return MODELS[case[0]](shape_of(case) if shape is None else shape, outputs, **case[1])


def learner_of(case: Case, model: Model, loss: Loss = CROSS_ENTROPY) -> Learner:
    return LEARNERS[case[0]](model, loss, **case[1])


def double(tree: Params) -> Params:
    return {k: v.double() if v.is_floating_point() else v for k, v in tree.items()}


def single(tree: Params) -> Params:
    return {k: v.float() if v.is_floating_point() else v for k, v in tree.items()}


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(shape, generator=seeds.generator("test", seed), dtype=torch.float64)


def jitter(tree: Params, seed: int = 0, by: float = 0.1) -> Params:
    """A tree in general position: no zero biases, no ones."""
    return {k: v + by * rand(*v.shape, seed=seed + i).abs().to(v.dtype) for i, (k, v) in enumerate(tree.items())}


def episode(*lead: int, n: int = 6, shape: tuple[int, ...] = SHAPE, way: int = WAY, seed: int = 0) -> Episode:
    """Tasks of n support and n + 2 query rows in float64, every class in both."""
    return _episode(rand(*lead, 2 * n + 2, *shape, seed=seed), lead, n, way)


def episode_of(case: Case, *lead: int, n: int = 6, way: int = WAY, seed: int = 0) -> Episode:
    """`episode` with rows that a model can read."""
    return _episode(inputs_of(case, *lead, 2 * n + 2, seed=seed), lead, n, way)


def _episode(x: Tensor, lead: tuple[int, ...], n: int, way: int) -> Episode:
    def labels(count: int) -> Tensor:
        return (torch.arange(count) % way).expand(*lead, count)

    return Episode(*_split(x, n, len(lead), labels(n), labels(n + 2)))


def _split(x: Tensor, n: int, axis: int, *labels: Tensor) -> tuple[Tensor, ...]:
    return x.narrow(axis, 0, n), labels[0], x.narrow(axis, n, x.shape[axis] - n), labels[1]


def at(e: Episode, *place: int) -> Episode:
    return Episode(*(leaf[place] for leaf in e))


def nodes_of(sizes: list[int], classes: int = WAY, shape: tuple[int, ...] = (4,), seed: int = 0) -> Pool:
    """A float64 pool: node i has sizes[i] rows of classes in turn, each row different; node numbers 3, 5, 7...

    Its numbers are float32's, so that in float32 it is the same pool.
    """
    shards = []
    for i, size in enumerate(sizes):
        label = np.sort(np.arange(size) % classes)
        x = rand(size, *shape, seed=seed + i).numpy() + label.reshape(-1, *(1,) * len(shape))
        x = x.astype(np.float32).astype(np.float64)
        shards.append(Shard(3 + 2 * i, f"node-{i}", "train", x, label, None, np.arange(size)))
    return pool(shards, 1)


class One(NamedTuple):
    """What one node returns from a round."""

    node: int
    shared: Params
    own: Params
    weight: int
    metrics: dict[str, float]


def apart(updates: Iterable[Updates]) -> list[One]:
    """Node by node."""
    return [
        One(node, tree.index(u.shared, i), tree.index(u.own, i), u.weights[i], {k: v[i] for k, v in u.metrics.items()})
        for u in updates
        for i, node in enumerate(u.nodes)
    ]


def beside(ones: Sequence[One]) -> Updates:
    """The inverse of `apart`, as one block."""
    shared, own = tree.stack(one.shared for one in ones), tree.stack(one.own for one in ones)
    metrics = {name: [one.metrics[name] for one in ones] for name in ones[0].metrics}
    return Updates([one.node for one in ones], shared, own, [one.weight for one in ones], metrics)


def server_of(aggregator: Aggregator, optimizer: Optimizer) -> Server:
    """A server that gets updates as they are."""
    return Server(IDENTITY, aggregator, optimizer)


def first_global(algorithm: Algorithm, optimizer: Optimizer, seed: int) -> Params:
    """Round 0's global model."""
    server = server_of(AGGREGATORS["mean"](), optimizer)
    return first_models(algorithm, server, seeds.generator(seed, "init"))[0]


def first_own(algorithm: Algorithm, seed: int) -> Params:
    """What a node keeps before its first round."""
    return algorithm.start(seeds.generator(seed, "init"))[1]


def run_nodes(
    algorithm: Algorithm,
    start: Params,
    kept: Callable[[int], Params],
    pool: Pool,
    sample: Callable[[Pool], Any],
    block: int | MemoryLimit,
    steps_before: int = 0,
) -> Iterator[Updates]:
    """The updates of a pool's nodes, as they are."""
    limit = MemoryLimit(block) if isinstance(block, int) else block
    return _run_nodes(NodeWork(algorithm, start, sample, steps_before), pool, kept, limit)


def combined(aggregator: Aggregator, old: Params, updates: Iterable[Updates]) -> Params:
    """What a rule makes of updates, from its first state."""
    work = aggregator.open(old, aggregator.init(old))
    for some in updates:
        work = aggregator.add(work, some)
    return aggregator.close(work)[0]


def close_round(
    aggregator: Aggregator,
    optimizer: Optimizer,
    old: Params,
    updates: Iterable[Updates],
    number: int,
    rows: Sequence[int] = (),
) -> Params:
    """The next global model."""
    server = server_of(aggregator, optimizer)
    so_far = server.open(old)
    for some in updates:
        so_far = server.add(so_far, old, some)
    return server.close(so_far, old, number, rows)


def gap(one: Params | Tensor, two: Params | Tensor) -> float:
    """The largest difference; infinite where names, shapes or kinds differ."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape != two.shape or one.dtype != two.dtype:
            return float("inf")
        return float((one - two).abs().max()) if one.numel() else 0.0
    if isinstance(one, Tensor) or isinstance(two, Tensor) or set(one) != set(two):
        return float("inf")
    return max((gap(v, two[k]) for k, v in one.items()), default=0.0)


def same(one: Params, two: Params) -> bool:
    """Equal bit for bit (but for the sign of a zero)."""
    return set(one) == set(two) and all(v.dtype == two[k].dtype and torch.equal(v, two[k]) for k, v in one.items())


def float32_error(answer: Callable[..., Params], *inputs: Params) -> float:
    """How far float32 arithmetic may come from a float64 answer, whatever CPU's kernels do it.

    64 times what errors of float32's size in the inputs do to the answer (its condition). The errors of this CPU's
    kernels, with vector instructions and without, are 0.2 to 9 times that effect.
    """

    def shaken(tree: Params, draw: int) -> Params:
        noise = {k: rand(*v.shape, seed=100 * draw + i) for i, (k, v) in enumerate(tree.items())}
        return {k: v * (1 + EPS * noise[k].clamp(-1, 1)) if v.is_floating_point() else v for k, v in tree.items()}

    exact = answer(*inputs)
    return 64 * max(gap(answer(*(shaken(part, draw) for part in inputs)), exact) for draw in (1, 2, 3))


def slope(f: Callable[[Params], Tensor], at: Params, direction: Params, h: float = 1e-5) -> float:
    """Central difference of fourth order of a scalar function along a direction, in float64."""

    def value(steps: int) -> float:
        return float(f({k: v + steps * h * direction[k] for k, v in at.items()}))

    return (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * h)


def started(learner: Learner, seed: int = 0) -> tuple[Params, Params]:
    """Float64 meta and stats, in general position; a count stays a count."""
    meta, stats = learner.init(seeds.generator(seed))
    return jitter(double(meta), seed), jitter(double(stats), seed + 100)


def gradient_of(learner: Learner, meta: Params, stats: Params, e: Episode) -> Params:
    return learner.meta_gradient(meta, stats, e, STEP, SEED)[0]
