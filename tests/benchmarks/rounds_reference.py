"""The same federated rounds in plain PyTorch, as short as they can be: no files, no metrics, fixed order of rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

Weights = dict[str, Tensor]
LR, INNER_LR, BATCH = 0.1, 0.05, 32
CHUNK, WHOLE = 1000, 10_000  # nodes that are run at once where there are more


def rows(work: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """x (nodes, rows, 64) and y of the first nodes of a file, or, where metadist makes its own data, drawn again."""
    nodes, each = work["nodes"], work["rows"]
    if work["data"] is None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((nodes, each, 64), dtype=np.float32)
        return torch.from_numpy(x), torch.from_numpy(rng.integers(0, 10, (nodes, each)))
    with np.load(work["data"]) as stored:
        x, y = (torch.from_numpy(stored[name][: nodes * each]) for name in ("x", "y"))
    return x.reshape(nodes, each, 64), y.reshape(nodes, each)


def play(work: dict[str, Any], mark: Callable[[], None]) -> dict[str, Any]:
    """All rounds of a variant; mark is called at the end of each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    first = weights_of(model())
    train = {"vmap": vmap_rounds, "loop": loop_rounds}[work["variant"]]
    last = train(first, *rows(work), work["algorithm"], work["rounds"], LR, mark)
    return ended(first, last)


def weights_of(network: nn.Module) -> Weights:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def ended(first: Weights, last: Weights) -> dict[str, float]:
    """What two variants that start alike are compared by: few rounds change the norm itself by hardly anything."""
    return {"norm": norm(last), "moved": norm({name: last[name] - w for name, w in first.items()})}


def norm(weights: Weights) -> float:
    """Of all parameters together, to see at a glance that two variants did alike."""
    return torch.cat([w.flatten() for w in weights.values()]).norm().item()


def model() -> nn.Module:
    parts = {"layer0": nn.Linear(64, 128), "relu": nn.ReLU(), "head": nn.Linear(128, 10)}
    return nn.Sequential(OrderedDict(parts))


def batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """One epoch of x (nodes, rows, ...); the last batch is filled up with the first rows, as metadist does."""
    count = x.shape[1]
    size = min(count, BATCH)
    order = torch.arange(-(-count // size) * size) % count
    return [(x[:, some], y[:, some]) for some in order.split(size)]


def vmap_rounds(
    weights: Weights, x: Tensor, y: Tensor, algorithm: str, rounds: int, lr: float, mark: Callable[[], None]
) -> Weights:
    """All nodes at once."""
    network = model()

    def loss(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, w, (x,)), y)

    def adapted(w: Weights, x: Tensor, y: Tensor) -> Weights:
        return {name: w[name] - INNER_LR * g for name, g in grad(loss)(w, x, y).items()}

    def first(w: Weights, x: Tensor, y: Tensor) -> Weights:
        half = len(y) // 2
        return grad(loss)(adapted(w, x[:half], y[:half]), x[half:], y[half:])

    def second(w: Weights, x: Tensor, y: Tensor) -> Weights:
        half = len(y) // 2
        return grad(lambda w: loss(adapted(w, x[:half], y[:half]), x[half:], y[half:]))(w)

    step = vmap({"fedavg": grad(loss), "first": first, "second": second}[algorithm])
    nodes = len(x)
    chunk = nodes if nodes <= WHOLE else CHUNK
    chunks = [batches(*some) for some in zip(x.split(chunk), y.split(chunk), strict=True)]
    for _ in range(rounds):
        mean = {name: torch.zeros_like(w) for name, w in weights.items()}
        for epoch in chunks:
            here = len(epoch[0][0])
            local = {name: w.expand(here, *w.shape).clone() for name, w in weights.items()}
            for batch in epoch:
                for name, g in step(local, *batch).items():
                    local[name].sub_(g, alpha=lr)
            share = torch.full((here,), 1 / nodes, dtype=x.dtype)
            for name, w in local.items():
                mean[name] += torch.tensordot(share, w, 1)
        weights = mean
        mark()
    return weights


def loop_rounds(
    weights: Weights, x: Tensor, y: Tensor, algorithm: str, rounds: int, lr: float, mark: Callable[[], None]
) -> Weights:
    """One node after the other."""
    network = model()
    parameters = dict(network.named_parameters())
    nodes = [batches(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    for _ in range(rounds):
        mean = {name: torch.zeros_like(w) for name, w in weights.items()}
        for epoch in nodes:
            with torch.no_grad():
                for name, w in weights.items():
                    parameters[name].copy_(w)
            loop_epoch(network, parameters, algorithm, epoch, lr)
            for name, p in parameters.items():
                mean[name].add_(p.detach(), alpha=1 / len(nodes))
        weights = mean
        mark()
    return weights


def loop_epoch(
    network: nn.Module, parameters: Mapping[str, Tensor], algorithm: str, epoch: list[tuple[Tensor, Tensor]], lr: float
) -> None:
    """Steps of the network's parameters, in place, on the batches (1, rows, ...) of one node."""
    for x, y in epoch:
        found = loop_gradient(network, parameters, algorithm, x[0], y[0])
        with torch.no_grad():
            for p, g in zip(parameters.values(), found, strict=True):
                p.sub_(g, alpha=lr)


def loop_gradient(
    network: nn.Module, parameters: Mapping[str, Tensor], algorithm: str, x: Tensor, y: Tensor
) -> tuple[Tensor, ...]:
    weights = list(parameters.values())
    if algorithm == "fedavg":
        return torch.autograd.grad(cross_entropy(network(x), y), weights)
    half, second = len(y) // 2, algorithm == "second"
    inner = torch.autograd.grad(cross_entropy(network(x[:half]), y[:half]), weights, create_graph=second)
    fast = [w - INNER_LR * g for w, g in zip(weights, inner, strict=True)]
    if not second:
        fast = [w.detach().requires_grad_() for w in fast]
    adapted = dict(zip(parameters, fast, strict=True))
    outer = cross_entropy(functional_call(network, adapted, (x[half:],)), y[half:])
    return torch.autograd.grad(outer, weights if second else fast)
