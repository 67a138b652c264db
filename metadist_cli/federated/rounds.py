"""One round, one code: what a node does, how many nodes are run as one program, and how a round is closed.

`metadist run`, `train`, `train --nodes` and `aggregate` all call `run_nodes` and `close_round`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import SYSTEM, Problem
from metadist_cli.core.optimizers import Optimizer
from metadist_cli.core.replay import Replayed
from metadist_cli.core.threads import side_by_side
from metadist_cli.core.tree import Params
from metadist_cli.federated.aggregators import Aggregator, Updates
from metadist_cli.federated.local_training import Algorithm, Carry, node_step
from metadist_cli.tasks.episodes import Plan, Pool, gather
from metadist_cli.tasks.types import Episode

_GATHERED = 1 << 20  # values of the rows that are gathered at a time


class Room:
    """How many nodes fit into memory as one program: the block, halved whenever memory runs out."""

    def __init__(self, nodes: int, say: Callable[[int], None] = lambda nodes: None):
        """say: is told of every halving."""
        self.nodes, self._say = nodes, say

    def lower(self, nodes: int) -> None:
        if nodes < self.nodes:
            self.nodes = nodes
            self._say(nodes)

    @contextmanager
    def tried(self, nodes: int) -> Iterator[None]:
        """Goes on where memory ran out over so many nodes, to be tried again with half. Raises Problem for a single."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # torch has a class of its own for GPUs only
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            if nodes == 1:
                hint = "lower execution.tasks_at_once, train.meta_batch or the model's width"
                raise Problem("memory ran out over a single node", "execution.memory", hint, SYSTEM) from None
            self.lower(nodes // 2)


def run_nodes(
    algorithm: Algorithm,
    shared: Params,
    own_of: Callable[[int], Params],
    pool: Pool,
    sample: Callable[[Pool], Plan],
    block: int,
    steps_before: int = 0,
    threads: int = 1,
    room: Room | None = None,
) -> Iterator[Updates]:
    """The local rounds of the pool's nodes, `block` nodes at a time as one program; yields a block's updates, in order.

    shared: the global parameters that every node starts from. own_of(node): what the node kept from its last round.
    sample(pool) -> plan of the nodes' tasks, drawn block by block so that memory is bounded by the block.
    block 1 is the plain loop over nodes. Blocks are cut at multiples of `block` in the pool's list of nodes.
    steps_before: local steps before this round (the global step of schedules). threads: blocks that are computed side
    by side, which changes no bit. room: how many nodes memory has proved to hold; a block that is larger is computed in
    parts. Raises Problem where a node diverges, or is too large for memory by itself.
    """
    room = room or Room(block)
    batched = block > 1 or algorithm.compiled

    def one_block(mine: Pool) -> list[Updates]:
        parts: list[Updates] = []
        begin, count = 0, len(mine.nodes)
        while begin < count:
            some = mine.take(np.arange(begin, min(begin + room.nodes, count)))
            with room.tried(len(some.nodes)):
                parts.append(_block_updates(algorithm, shared, own_of, some, sample(some), batched, steps_before))
                begin += len(some.nodes)
        return parts

    count = len(pool.nodes)
    blocks = (pool.take(np.arange(begin, min(begin + block, count))) for begin in range(0, count, block))
    for parts in side_by_side(one_block, blocks, threads):
        yield from parts


def _block_updates(
    algorithm: Algorithm,
    shared: Params,
    own_of: Callable[[int], Params],
    pool: Pool,
    plan: Plan,
    batched: bool,
    steps_before: int,
) -> Updates:
    """The updates of the pool's nodes, which are one block."""
    nodes = pool.nodes.tolist()
    own = own_of(nodes[0])
    if own and batched:  # 1,000 nodes that keep nothing take 1.4 ms to say so
        own = tree.stack(map(own_of, nodes))
    carry, metrics = _run_block(algorithm, shared, own, pool, plan, batched, steps_before)
    ends = algorithm.close(carry)
    update, kept = ends if batched else (tree.expand(end, 1) for end in ends)
    figures = {name: values.tolist() for name, values in metrics.items()}
    done = Updates(nodes, update, kept, pool.row_count.tolist(), figures)
    if not _finite(done):
        node = next(node for i, node in enumerate(nodes) if not _finite(done.take([i])))
        raise Problem(
            "training diverged: its parameters or its loss are no longer finite numbers",
            f"node {node}",
            "lower train.outer.lr, or learner.inner_lr where there is one, or look at the node's rows",
        )
    return done


def _finite(updates: Updates) -> bool:
    figures = np.isfinite(list(updates.metrics.values())).all()
    return bool(figures) and tree.finite(updates.shared) and tree.finite(updates.own)


def _run_block(
    algorithm: Algorithm, shared: Params, own: Params, pool: Pool, plan: Plan, batched: bool, steps_before: int
) -> tuple[Carry, dict[str, np.ndarray]]:
    """All steps of the pool's nodes. Returns the carry and, by name, each node's mean over its active steps, (B,)."""
    device = pool.x.device
    by_step = (np.ascontiguousarray(np.swapaxes(v, 0, 1)) for v in (*plan[:2], plan.seeds, plan.active))
    support, query, task_seeds, active = by_step
    numbers, mask = torch.from_numpy(task_seeds).to(device), torch.from_numpy(active).to(device)
    few = max(1, _GATHERED // max(1, (support[:1].size + query[:1].size) * pool.x[:1].numel()))
    steps = torch.arange(steps_before, steps_before + len(active), device=device)
    which = slice(None) if batched else 0
    # where several tasks go one by one they are large: thousands of operations, and torch.func's cost is nothing there
    replayed = algorithm.tasks_at_once != 1 or task_seeds.shape[-1] == 1
    seen: list[dict[str, Tensor]] = []
    carry: Any = own
    if algorithm.compiled or not len(active):
        carry = _opened(algorithm, shared, own, len(pool.nodes) if batched else None)
    for begin in range(0, len(active), few):
        now = slice(begin, begin + few)
        episodes = gather(pool, support[now], query[now], plan.labels)
        episodes = algorithm.augment(episodes, task_seeds[now])
        for s in range(begin, min(begin + few, len(active))):
            tasks = Episode(*(leaf[s - begin, which] for leaf in episodes))
            first = s == 0 and not algorithm.compiled
            everywhere = bool(active[s].all()) and not algorithm.compiled  # which compiles one program
            program = _program(algorithm, first, everywhere, batched, replayed)
            carry, metrics = program(shared if first else {}, carry, tasks, numbers[s, which], mask[s, which], steps[s])
            seen.append(metrics if batched else tree.expand(metrics, 1))
    weight = active / np.maximum(active.sum(0), 1)  # (S, B)
    whole = {k: torch.stack([m[k] for m in seen]).cpu().double().numpy() for k in (seen[0] if seen else ())}
    return carry, {k: (values * weight).sum(0) for k, values in whole.items()}


def _opened(algorithm: Algorithm, shared: Params, own: Params, nodes: int | None) -> Carry:
    """The carry at the beginning, for those that do not open it with the first step. nodes: None for one alone."""
    if nodes is None:
        return algorithm.open(shared, own)
    carry = vmap(lambda own, _: algorithm.open(shared, own))(own, torch.empty(nodes))
    # without the strides of what is expanded, which would be another kernel's
    return Carry._make(v.contiguous() if isinstance(v, Tensor) else tree.apply(Tensor.contiguous, v) for v in carry)


Program = Callable[[Params, Any, Episode, Tensor, Tensor, Tensor], tuple[Carry, dict[str, Tensor]]]
"""(shared, carry, episodes, seeds, active, step) -> (carry, metrics): of a block's nodes, or of one without an axis."""


@lru_cache(maxsize=32)
def _program(algorithm: Algorithm, first: bool, everywhere: bool, batched: bool, replayed: bool) -> Program:
    """A step of a block, compiled, replayed or as it is. Compiling takes 30 s to 50 s for each size of a block.

    first: it opens the carry from the parameters, in one program, so that all nodes have one set of weights in the
    first product. everywhere: all nodes take this step.
    """

    def step(shared: Params, carry: Any, episodes: Episode, task_seeds: Tensor, active: Tensor, number: Tensor):
        begun = algorithm.open(shared, carry) if first else carry
        return node_step(algorithm, begun, episodes, task_seeds, None if everywhere else active, number)

    program = vmap(step, in_dims=(None, 0, 0, 0, 0, None)) if batched else step
    if algorithm.compiled:
        return torch.compile(program, dynamic=False)
    return Replayed(program) if replayed else program


def close_round(
    aggregator: Aggregator,
    server: Optimizer,
    old: Params,
    updates: Iterable[Updates],
    round_: int,
    rows: Sequence[int] = (),
) -> Params:
    """The next global checkpoint: the combined updates, and the server's step from the old parameters towards them.

    old and the result: "meta/", "stats/", "outer/", "control/" and "server/" leaves. Statistics and the nodes'
    optimiser state are taken over as combined; SCAFFOLD's control variate by the weight of those that took part in that
    of all nodes (rows: theirs; () where all took part). Server sgd with lr 1 returns the mean's own bits.
    """
    used = 0

    def weighed() -> Iterator[Updates]:
        nonlocal used
        for some in updates:
            used += sum(map(aggregator.weight, some.weights))
            yield some

    combined = aggregator.combine(weighed())
    share = used / (sum(map(aggregator.weight, rows)) or used)
    before = tree.part(old, "control")
    control = tree.apply(lambda c, new: (1 - share) * c + share * new, before, tree.part(combined, "control"))
    meta, state = server.toward(
        tree.part(combined, "meta"), tree.part(old, "server"), tree.part(old, "meta"), round_ - 1
    )
    return combined | tree.prefixed(meta=meta, control=control, server=state)


def first_global(algorithm: Algorithm, server: Optimizer, seed: int) -> Params:
    """Round 0: the initial parameters and the server's state."""
    shared, _ = algorithm.start(seeds.generator(seed, "init"))
    return shared | tree.prefixed(server=server.init(tree.part(shared, "meta")))


def first_own(algorithm: Algorithm, seed: int) -> Params:
    """What every node owns before its first round."""
    return algorithm.start(seeds.generator(seed, "init"))[1]


def choose(seed: int, round_: int, nodes: list[int], per_round: str | int | float) -> list[int]:
    """The nodes of a round, ascending: all, a count, or a fraction (at least 1), drawn by hash of seed and round."""
    size = count(len(nodes), per_round)
    if size == len(nodes):
        return nodes
    return sorted(nodes[i] for i in seeds.subset(seeds.key(seed, "nodes", round_), of=len(nodes), size=size))


def count(nodes: int, per_round: str | int | float) -> int:
    """How many of so many nodes a round has."""
    if per_round == "all":
        return nodes
    return min(nodes, per_round if isinstance(per_round, int) else max(1, round(float(per_round) * nodes)))
