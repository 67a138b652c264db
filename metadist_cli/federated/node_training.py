"""Local training of many nodes: how many are one program, and what each sends and keeps.

One process, workers, ranks and `train --nodes` all call `run_nodes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli.core import seeds, tree
from metadist_cli.core.errors import SYSTEM, Diverged, Problem
from metadist_cli.core.replay import Replayed
from metadist_cli.core.threads import side_by_side
from metadist_cli.core.tree import Params
from metadist_cli.federated.local_training import Algorithm, Carry, node_step
from metadist_cli.federated.updates import Updates
from metadist_cli.federated.uplink.types import IDENTITY, Uplink, encode_all
from metadist_cli.tasks.episodes import Pool, TaskIndices
from metadist_cli.tasks.gathering import gather
from metadist_cli.tasks.types import Episode

_GATHERED = 1 << 20  # values of the rows that are gathered at a time


class NodeWork(NamedTuple):
    """What every node does in a round.

    start: the shared leaves of the global model, on the device. sample(pool) -> the tasks of the pool's nodes.
    steps_before: local steps in earlier rounds (the global step of schedules). uplink_seed: of this round.
    """

    algorithm: Algorithm
    start: Params
    sample: Callable[[Pool], TaskIndices]
    steps_before: int = 0
    uplink: Uplink = IDENTITY
    uplink_seed: int = 0


class MemoryLimit:
    """How many nodes fit into memory as one program: a block, halved whenever memory runs out."""

    def __init__(self, block: int, nodes: int | None = None, warn: Callable[[int], None] = lambda nodes: None):
        """
        Args:
            block: nodes of a block.
            nodes: nodes that are known to fit; None: the block.
            warn: called with the new number after each halving.
        """
        self.block, self.nodes, self._warn = block, min(block, nodes or block), warn

    def lower(self, nodes: int) -> None:
        """Take fewer nodes at a time from now on."""
        if nodes < self.nodes:
            self.nodes = nodes
            self._warn(nodes)

    @contextmanager
    def trying(self, nodes: int) -> Iterator[None]:
        """Where memory runs out for this many nodes, go on with half as the limit. Raises Problem for a single node."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # torch has a class of its own for GPUs only
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            if nodes == 1:
                hint = "lower execution.tasks_at_once, train.meta_batch or the model's width"
                raise Problem("out of memory while training a single node", "execution.memory", hint, SYSTEM) from None
            self.lower(nodes // 2)


def in_blocks(nodes: list[int], size: int) -> list[list[int]]:
    """The nodes of each block, in order. A block's size decides the last bits, so cuts are multiples of it."""
    return [nodes[begin : begin + size] for begin in range(0, len(nodes), size)]


def run_nodes(
    work: NodeWork, pool: Pool, kept: Callable[[int], Params], limit: MemoryLimit, threads: int = 1
) -> Iterator[Updates]:
    """Train the pool's nodes, one block at a time as one program.

    Args:
        work: what each node does.
        pool: the nodes' rows.
        kept: (node) -> what the node kept from its last round.
        limit: the size of a block (1 is the plain loop over nodes), and how many nodes memory has proved to hold; a
            larger block is computed in parts.
        threads: blocks that are computed side by side, which changes no bit.

    Yields:
        The updates of a block or of a part of it, in the pool's order, encoded by the uplink.

    Raises:
        Diverged: a node's parameters are no longer finite.
        Problem: a node does not fit into memory by itself.
    """
    batched = limit.block > 1 or work.algorithm.compiled

    def one_block(block: Pool) -> list[Updates]:
        parts: list[Updates] = []
        begin, count = 0, len(block.nodes)
        while begin < count:
            part = block.take(np.arange(begin, min(begin + limit.nodes, count)))
            with limit.trying(len(part.nodes)):
                parts.append(train_block(work, part, kept, batched))
                begin += len(part.nodes)
        return parts

    count = len(pool.nodes)
    blocks = (pool.take(np.arange(at, min(at + limit.block, count))) for at in range(0, count, limit.block))
    for parts in side_by_side(one_block, blocks, threads):
        yield from parts


def train_block(work: NodeWork, pool: Pool, kept: Callable[[int], Params], batched: bool) -> Updates:
    """The updates of all of the pool's nodes, trained as one program. batched: leaves have an axis of nodes."""
    algorithm, nodes = work.algorithm, pool.nodes.tolist()
    own = kept(nodes[0])
    if own and batched:  # 1,000 nodes that keep nothing take 1.4 ms to say so
        own = tree.stack(map(kept, nodes))
    carry, metrics = _local_steps(work, pool, own, batched)
    ends = algorithm.close(carry)
    shared, own_end = ends if batched else (tree.expand(end, 1) for end in ends)
    figures = {name: values.tolist() for name, values in metrics.items()}
    updates = Updates(nodes, shared, own_end, pool.row_count.tolist(), figures)
    _check_finite(updates)
    state = tree.part(own, "uplink")
    state = state if batched else tree.expand(state, 1)
    node_seeds = torch.from_numpy(seeds.positive(work.uplink_seed, pool.nodes)).to(pool.x.device)
    payload, state = encode_all(work.uplink, shared, work.start, state, node_seeds)
    return updates._replace(shared=payload, own=own_end | tree.prefixed(uplink=state))


def _check_finite(updates: Updates) -> None:
    if _finite(updates):
        return
    node = next(node for i, node in enumerate(updates.nodes) if not _finite(updates.take([i])))
    problem = Diverged("training diverged: the parameters or the loss are no longer finite numbers", f"node {node}")
    problem.node = node
    raise problem


def _finite(updates: Updates) -> bool:
    figures = np.isfinite(list(updates.metrics.values())).all()
    return bool(figures) and tree.finite(updates.shared) and tree.finite(updates.own)


def _local_steps(work: NodeWork, pool: Pool, own: Params, batched: bool) -> tuple[Carry, dict[str, np.ndarray]]:
    """All local steps of the pool's nodes: the carry and, by name, each node's mean over its active steps, (B,)."""
    algorithm, device, plan = work.algorithm, pool.x.device, work.sample(pool)
    by_step = (np.ascontiguousarray(np.swapaxes(v, 0, 1)) for v in (*plan[:2], plan.seeds, plan.active))
    support, query, task_seeds, active = by_step
    numbers, mask = torch.from_numpy(task_seeds).to(device), torch.from_numpy(active).to(device)
    few = max(1, _GATHERED // max(1, (support[:1].size + query[:1].size) * pool.x[:1].numel()))
    steps = torch.arange(work.steps_before, work.steps_before + len(active), device=device)
    which = slice(None) if batched else 0
    # where several tasks go one by one they are large: thousands of operations, and torch.func's cost is nothing there
    small = algorithm.tasks_at_once != 1 or task_seeds.shape[-1] == 1
    form = _Form(batched, opens=False, masked=algorithm.compiled, replayed=algorithm.replayed and small)
    seen: list[dict[str, Tensor]] = []
    carry: Any = own
    if algorithm.compiled or not len(active):
        carry = _opened(algorithm, work.start, own, len(pool.nodes) if batched else None)
    for begin in range(0, len(active), few):
        now = slice(begin, begin + few)
        episodes = gather(pool, support[now], query[now], plan.labels)
        episodes = algorithm.augment(episodes, task_seeds[now])
        for s in range(begin, min(begin + few, len(active))):
            tasks = Episode(*(leaf[s - begin, which] for leaf in episodes))
            if not algorithm.compiled:  # which compiles one program, for all steps
                form = form._replace(opens=s == 0, masked=not active[s].all())
            start = work.start if form.opens else {}
            step = _step_program(algorithm, form)
            carry, metrics = step(start, carry, tasks, numbers[s, which], mask[s, which], steps[s])
            seen.append(metrics if batched else tree.expand(metrics, 1))
    weight = active / np.maximum(active.sum(0), 1)  # (S, B)
    whole = {k: torch.stack([m[k] for m in seen]).cpu().double().numpy() for k in (seen[0] if seen else ())}
    return carry, {k: (values * weight).sum(0) for k, values in whole.items()}


def _opened(algorithm: Algorithm, start: Params, own: Params, nodes: int | None) -> Carry:
    """The carry at the beginning, for those that do not open it with the first step. nodes: None for one alone."""
    if nodes is None:
        return algorithm.open(start, own)
    carry = vmap(lambda own, _: algorithm.open(start, own))(own, torch.empty(nodes))
    # without the strides of what is expanded, which would be another kernel's
    return Carry._make(v.contiguous() if isinstance(v, Tensor) else tree.apply(Tensor.contiguous, v) for v in carry)


class _Form(NamedTuple):
    """What a step's program is made for.

    batched: everything but the global parameters has an axis of nodes. opens: it opens the carry from the parameters,
    in one program, so that all nodes have one set of weights in the first product. masked: some nodes of the block
    have done all of their steps. replayed: it is recorded once and replayed.
    """

    batched: bool
    opens: bool
    masked: bool
    replayed: bool


Program = Callable[[Params, Any, Episode, Tensor, Tensor, Tensor], tuple[Carry, dict[str, Tensor]]]
"""(start, carry, episodes, seeds, active, step) -> (carry, metrics): of a block's nodes, or of one without an axis."""


@lru_cache(maxsize=32)
def _step_program(algorithm: Algorithm, form: _Form) -> Program:
    """A step of a block, compiled, replayed or as it is. Compiling takes 30 s to 50 s for each size of a block."""

    def step(start: Params, carry: Any, episodes: Episode, task_seeds: Tensor, active: Tensor, number: Tensor):
        opened = algorithm.open(start, carry) if form.opens else carry
        return node_step(algorithm, opened, episodes, task_seeds, active if form.masked else None, number)

    program = vmap(step, in_dims=(None, 0, 0, 0, 0, None)) if form.batched else step
    if algorithm.compiled:
        return torch.compile(program, dynamic=False)
    return Replayed(program) if form.replayed else program
