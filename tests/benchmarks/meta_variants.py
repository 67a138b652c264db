"""The ways in which meta_steps.py takes its steps: metadist's, a plain autograd loop's, and those of libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import count

import meta_jax
import torch
import torch.nn.functional as F
from meta_loop import accumulate
from meta_workloads import BATCHES, Workload, data, experiment, plan, pool, tasks_of
from torch import Tensor, nn

from metadist_cli.core import tree
from metadist_cli.experiment import initial_state
from metadist_cli.federated.node_training import MemoryLimit, NodeWork, run_nodes
from metadist_cli.runtime.execution import settle, sizes
from metadist_cli.tasks.types import Episode

FEW = 4  # nodes of their own that a loop cycles through; its time is linear in them
Take = Callable[[int], None]
"""take(n): n units of work."""


def metadist(w: Workload, threads: int, compiled: bool = False) -> tuple[Take, float]:
    """run_nodes as a run calls it. For several threads a single node's tasks are dealt to as many blocks of a node."""
    settle()
    dealt = w.nodes == 1
    w = w._replace(nodes=threads, tasks=w.tasks // threads) if dealt else w
    made, rows = experiment(w), pool(*data(w))
    shared, own = initial_state(made)
    block, few = sizes(made, torch.device("cpu"))
    block = 1 if dealt else block
    algorithm = made.algorithm._replace(tasks_at_once=few, compiled=compiled)

    def take(n: int) -> None:
        for _ in range(n if w.local_steps > 1 else 1):
            steps = w.local_steps if w.local_steps > 1 else n
            work = NodeWork(algorithm, shared, plan(w, steps))
            for _ in run_nodes(work, rows, lambda node: own, MemoryLimit(block), threads):
                pass

    return take, 1


Route = tuple[Sequence[Tensor], Callable[[Sequence[Episode]], None]]
"""(parameters, what adds the meta-gradient of some tasks to their `grad`)."""


def loop(w: Workload) -> Route:
    meta = tree.part(initial_state(experiment(w))[0], "meta")
    params = {k: v.requires_grad_() for k, v in meta.items()}
    return list(params.values()), lambda tasks: accumulate(w, params, tasks)


def network(w: Workload) -> nn.Module:
    """The same model for libraries that take modules."""
    if w.model == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, w.way))
    blocks: list[nn.Module] = [nn.Unflatten(1, (1, 28))]
    for i in range(4):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        blocks += [nn.Conv2d(64 if i else 1, 64, 3, 2, 1), norm, nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, w.way))


def learn2learn(w: Workload) -> Route:
    maml = import_module("learn2learn").algorithms.MAML(network(w), lr=w.lr, first_order=w.first_order)

    def work(tasks: Sequence[Episode]) -> None:
        for task in tasks:
            fast = maml.clone()
            for _ in range(w.steps):
                fast.adapt(F.cross_entropy(fast(task.support_x), task.support_y))
            (F.cross_entropy(fast(task.query_x), task.query_y) / len(tasks)).backward()

    return list(maml.parameters()), work


def higher(w: Workload) -> Route:
    innerloop_ctx, model = import_module("higher").innerloop_ctx, network(w)
    params, inner = list(model.parameters()), torch.optim.SGD(model.parameters(), lr=w.lr)
    options = {"copy_initial_weights": False, "track_higher_grads": not w.first_order}

    def work(tasks: Sequence[Episode]) -> None:
        for task in tasks:
            with innerloop_ctx(model, inner, **options) as (fast, adapt):
                for _ in range(w.steps):
                    adapt.step(F.cross_entropy(fast(task.support_x), task.support_y))
                loss = F.cross_entropy(fast(task.query_x), task.query_y) / len(tasks)
                if w.first_order:  # the fast weights are leaves then
                    for p, slope in zip(params, torch.autograd.grad(loss, list(fast.parameters())), strict=True):
                        p.grad = slope if p.grad is None else p.grad + slope
                else:
                    loss.backward()

    return params, work


ROUTES: dict[str, Callable[[Workload], Route]] = {"loop": loop, "learn2learn": learn2learn, "higher": higher}
LIBRARIES = ("learn2learn", "higher", "jax")


def one_by_one(route: str, w: Workload, threads: int) -> tuple[Take, float]:
    """A way that takes tasks in turn. Of many nodes, few are stepped in turn, and the time is scaled to all."""
    torch.set_num_threads(threads)
    some = w._replace(nodes=min(w.nodes, FEW))
    x, y = data(some)
    work = [ROUTES[route](some) for _ in range(some.nodes)]
    adams = [torch.optim.Adam(params, lr=1e-3, fused=True) for params, _ in work]
    tasks = [[tasks_of(w, x[node, batch], y[node, batch]) for batch in range(BATCHES)] for node in range(some.nodes)]
    number = count()

    def take(n: int) -> None:
        for _ in range(n):
            step, node = divmod(next(number), some.nodes)
            adams[node].zero_grad()
            work[node][1](tasks[node][step % BATCHES])
            adams[node].step()

    return take, w.nodes * w.local_steps


def missing(route: str) -> bool:
    """Whether it is a library's that is not installed."""
    return route in LIBRARIES and find_spec(route) is None


def library_gap(route: str, w: Workload) -> float:
    """How far a library's meta-gradient of two tasks is from the loop's, relative, in float64."""
    torch.set_num_threads(1)
    w = w._replace(nodes=1, tasks=2, local_steps=1)
    first = tree.part(initial_state(experiment(w))[0], "meta")
    params = {k: first[k].double().requires_grad_() for k in sorted(first, key=_place)}
    x, y = data(w)
    x, y = x[0, 0].double(), y[0, 0]
    smooth = route == "jax"  # its kinks are not where torch's are, by rounding
    accumulate(w, params, tasks_of(w, x, y), "softplus" if smooth else "relu")
    if smooth:
        found = meta_jax.gradient(w, params, x, y)
    else:
        theirs, work = ROUTES[route](w)
        for p, value in zip(theirs, params.values(), strict=True):
            p.data = value.detach().clone()
        work(tasks_of(w, x, y))
        found = [p.grad for p in theirs if p.grad is not None]
    right = torch.cat([p.grad.flatten() for p in params.values() if p.grad is not None])
    return float((torch.cat([v.flatten() for v in found]) - right).norm() / right.norm())


def _place(name: str) -> tuple[bool, str, str, bool]:
    """Sorts parameters as `network` has them: block by block, bias and shift last."""
    layer, _, kind = name.partition(".")
    return layer == "head", layer[-1], layer, kind in ("bias", "shift")


def gradient_gap(w: Workload, learned: Workload | None = None) -> float:
    """How far metadist's meta-gradient is from the loop's, relative, in float64 and with a smooth activation.

    At two nodes of two tasks, one by one and side by side; learned: metadist's own workload, if it is another.
    """
    torch.set_num_threads(1)
    w, own = (each._replace(nodes=2, tasks=2, local_steps=1) for each in (w, learned or w))
    made = experiment(own, "softplus", name="sgd", lr=1.0)  # so that a step is minus the gradient
    draw = torch.Generator().manual_seed(0)
    first = {k: v.double() for k, v in initial_state(made)[0].items()}
    shared = {k: v + 0.1 * torch.randn(v.shape, generator=draw, dtype=v.dtype) for k, v in first.items()}
    x, y = data(w)
    rows = pool(x.double(), y)
    largest = 0.0
    for at_once in (1, 2):
        algorithm = made.algorithm._replace(tasks_at_once=at_once)
        work = NodeWork(algorithm, shared, plan(w, 1))
        updates = run_nodes(work, rows, lambda node: {}, MemoryLimit(at_once))
        for node, update in enumerate(tree.index(u.shared, i) for u in updates for i in range(len(u.nodes))):
            params = {k: v.clone().requires_grad_() for k, v in tree.part(shared, "meta").items()}
            accumulate(w, params, tasks_of(w, x[node, 0].double(), y[node, 0]), "softplus")
            right = torch.cat([p.grad.flatten() for p in params.values() if p.grad is not None])
            taken = tree.apply(torch.sub, tree.part(shared, "meta"), tree.part(update, "meta"))
            found = torch.cat([v.flatten() for v in taken.values()])
            largest = max(largest, float((found - right).norm() / right.norm()))
    return largest
