"""The steps of meta_steps.py in JAX: all tasks, nodes and local steps as one XLA program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from meta_workloads import BATCHES, Workload, data, experiment

from metadist_cli.core import tree
from metadist_cli.experiment import initial_state

LR = 1e-3  # Adam's, as everywhere
Arrays = dict[str, Any]
Batch = tuple[Any, Any]
"""x (tasks, support + query, ...) and y of a step."""


def steps(w: Workload) -> tuple[Callable[[int], None], float]:
    """(what takes n steps, or n rounds of many nodes, 1)."""
    jax, jnp = import_module("jax"), import_module("jax.numpy")
    params = {k: jnp.asarray(v.numpy()) for k, v in tree.part(initial_state(experiment(w))[0], "meta").items()}
    x, y = (jnp.asarray(each.numpy()) for each in data(w))
    slope = meta_gradient(w, "relu")

    def step(state: tuple[Arrays, Arrays, Arrays, Any], batch: Batch) -> tuple[Arrays, Arrays, Arrays, Any]:
        p, mean, square, k = state
        g, k = slope(p, batch), k + 1
        mean = {n: 0.9 * mean[n] + 0.1 * g[n] for n in g}
        square = {n: 0.999 * square[n] + 0.001 * g[n] ** 2 for n in g}
        near, root = 1 - 0.9**k, jnp.sqrt(1 - 0.999**k)
        p = {n: p[n] - LR * mean[n] / near / (jnp.sqrt(square[n]) / root + 1e-8) for n in g}
        return p, mean, square, k

    zero = {n: jnp.zeros_like(v) for n, v in params.items()}
    if w.nodes == 1:
        one, batches = jax.jit(step), [(x[0, i], y[0, i]) for i in range(BATCHES)]
        state = (params, zero, zero, jnp.float32(0))

        def take(n: int) -> None:
            nonlocal state
            for i in range(n):
                state = one(state, batches[i % BATCHES])
            state[3].block_until_ready()

        return take, 1

    def node(x: Any, y: Any) -> Arrays:
        def local(state: Any, i: Any) -> tuple[Any, None]:
            return step(state, (x[i % BATCHES], y[i % BATCHES])), None

        return jax.lax.scan(local, (params, zero, zero, jnp.float32(0)), jnp.arange(w.local_steps))[0][0]

    round_ = jax.jit(jax.vmap(node))

    def rounds(n: int) -> None:
        for _ in range(n):
            jax.block_until_ready(round_(x, y))

    return rounds, 1


def meta_gradient(w: Workload, activation: str) -> Callable[[Arrays, Batch], Arrays]:
    """The meta-gradient of the mean loss of a step's tasks."""
    jax, jnp = import_module("jax"), import_module("jax.numpy")
    act = getattr(jax.nn, activation)

    def forward(p: Arrays, x: Any) -> Any:
        if "layer0.weight" in p:
            return act(x @ p["layer0.weight"].T + p["layer0.bias"]) @ p["head.weight"].T + p["head.bias"]
        x, across = x[..., None], ("NHWC", "OIHW", "NHWC")
        for i in range(4):
            x = jax.lax.conv_general_dilated(
                x, p[f"conv{i}.weight"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=across
            )
            x = x + p[f"conv{i}.bias"]
            far = x - x.mean((0, 1, 2))
            x = far * jax.lax.rsqrt((far**2).mean((0, 1, 2)) + 1e-5)
            x = act(x * p[f"norm{i}.scale"] + p[f"norm{i}.shift"])
        return x.mean((1, 2)) @ p["head.weight"].T + p["head.bias"]

    def loss(p: Arrays, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(p, x)), y[:, None], 1).mean()

    def task(p: Arrays, x: Any, y: Any) -> Any:
        n, fast = w.support, p
        for _ in range(w.steps):
            slope = jax.grad(loss)(fast, x[:n], y[:n])
            slope = jax.lax.stop_gradient(slope) if w.first_order else slope
            fast = {k: fast[k] - w.lr * slope[k] for k in fast}
        return loss(fast, x[n:], y[n:])

    def each(p: Arrays, batch: Batch) -> Any:
        if w.model == "mlp":
            return jax.vmap(task, (None, 0, 0))(p, *batch)
        return jax.lax.map(lambda one: task(p, *one), batch)  # vmap takes twice as long

    return jax.grad(lambda p, batch: each(p, batch).mean())


def gradient(w: Workload, params: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """The meta-gradient at these parameters, in float64, with a smooth activation."""
    jax, jnp = import_module("jax"), import_module("jax.numpy")
    with jax.enable_x64(True):
        arrays = {k: jnp.asarray(v.detach().numpy()) for k, v in params.items()}
        found = jax.jit(meta_gradient(w, "softplus"))(arrays, (jnp.asarray(x.numpy()), jnp.asarray(y.numpy())))
        return [torch.from_numpy(np.array(found[k])) for k in params]
