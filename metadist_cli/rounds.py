"""One round, one code: what a node does, how many nodes are run as one program, and how a round is closed.

`metadist run`, `train`, `train --nodes` and `aggregate` all call `run_nodes` and `close_round`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli import seeds, tree
from metadist_cli.aggregators import Aggregator, NodeUpdate
from metadist_cli.algorithm import Algorithm, Carry, node_step
from metadist_cli.episodes import Plan, Pool, gather
from metadist_cli.errors import Problem
from metadist_cli.learners.types import Episode
from metadist_cli.optim import Optimizer
from metadist_cli.parallel import side_by_side
from metadist_cli.tree import Params


def run_nodes(
    algorithm: Algorithm,
    shared: Params,
    own_of: Callable[[int], Params],
    pool: Pool,
    sample: Callable[[Pool], Plan],
    block: int,
    steps_before: int = 0,
    threads: int = 1,
) -> Iterator[NodeUpdate]:
    """The local rounds of the pool's nodes, `block` nodes at a time as one program; yields their updates in order.

    shared: the global parameters that every node starts from. own_of(node): what the node kept from its last round.
    sample(pool) -> plan of the nodes' tasks, drawn block by block so that memory is bounded by the block.
    block 1 is the plain loop over nodes. Blocks are cut at multiples of `block` in the pool's list of nodes.
    steps_before: local steps before this round (the global step of schedules). threads: blocks that are computed side
    by side, which changes no bit. Raises Problem where a node diverges.
    """

    def one_block(mine: Pool) -> list[NodeUpdate]:
        return list(_block_updates(algorithm, shared, own_of, mine, sample(mine), block > 1, steps_before))

    count = len(pool.nodes)
    blocks = (pool.take(np.arange(begin, min(begin + block, count))) for begin in range(0, count, block))
    for updates in side_by_side(one_block, blocks, threads):
        yield from updates


def _block_updates(
    algorithm: Algorithm,
    shared: Params,
    own_of: Callable[[int], Params],
    pool: Pool,
    plan: Plan,
    batched: bool,
    steps_before: int,
) -> Iterator[NodeUpdate]:
    """The updates of the pool's nodes, which are one block."""
    nodes = [int(n) for n in pool.nodes]
    owns = [own_of(n) for n in nodes]
    if batched:
        carry = vmap(algorithm.open)(tree.expand(shared, len(nodes)), tree.stack(owns))
    else:
        carry = algorithm.open(shared, owns[0])
    carry, metrics = _run_block(algorithm, carry, pool, plan, batched, steps_before)
    new_shared, new_own = algorithm.close(carry)
    for i, node in enumerate(nodes):
        update, kept = (tree.index(new_shared, i), tree.index(new_own, i)) if batched else (new_shared, new_own)
        figures = {name: float(values[i]) for name, values in metrics.items()}
        if not (tree.finite(update) and tree.finite(kept) and np.isfinite(list(figures.values())).all()):
            raise Problem(
                "training diverged: its parameters or its loss are no longer finite numbers",
                f"node {node}",
                "lower train.outer.lr, or learner.inner_lr where there is one, or look at the node's rows",
            )
        yield NodeUpdate(node, update, kept, int(pool.row_count[i]), figures)


def _run_block(
    algorithm: Algorithm, carry: Carry, pool: Pool, plan: Plan, batched: bool, steps_before: int
) -> tuple[Carry, dict[str, np.ndarray]]:
    """All steps of the pool's nodes. Returns the carry and, by name, each node's mean over its active steps, (B,)."""
    device = pool.x.device
    active = plan.active
    steps = active.shape[1]
    task_seeds = torch.from_numpy(plan.seeds).to(device)
    mask = torch.from_numpy(active).to(device)
    one = partial(node_step, algorithm)
    run = vmap(one, in_dims=(0, 0, 0, 0, None)) if batched else one
    seen: list[dict[str, Tensor]] = []
    for s in range(steps):
        episodes = gather(pool, plan.support[:, s], plan.query[:, s], plan.labels)
        now = (carry, episodes, task_seeds[:, s], mask[:, s])
        if not batched:
            now = (carry, Episode(*(leaf[0] for leaf in episodes)), task_seeds[0, s], mask[0, s])
        step = torch.tensor(steps_before + s, device=device)
        carry, metrics = run(*now, step)
        seen.append({k: v if batched else v[None] for k, v in metrics.items()})
    names = seen[0] if seen else {}
    weight = active.T / np.maximum(active.sum(1), 1)  # (S, B)
    means = {k: (torch.stack([m[k] for m in seen]).cpu().double().numpy() * weight).sum(0) for k in names}
    return carry, means


def close_round(
    aggregator: Aggregator,
    server: Optimizer,
    old: Params,
    updates: Iterable[NodeUpdate],
    round_: int,
    rows: Sequence[int] = (),
) -> Params:
    """The next global checkpoint: the combined updates, and the server's step from the old parameters towards them.

    old and the result: "meta/", "stats/", "outer/", "control/" and "server/" leaves. Statistics and the nodes'
    optimiser state are taken over as combined; SCAFFOLD's control variate by the weight of those that took part in that
    of all nodes (rows: theirs; () where all took part). Server sgd with lr 1 returns the mean's own bits.
    """
    used = 0

    def weighed() -> Iterator[NodeUpdate]:
        nonlocal used
        for update in updates:
            used += aggregator.weight(update.weight)
            yield update

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
    if per_round == "all":
        return nodes
    size = per_round if isinstance(per_round, int) else max(1, round(float(per_round) * len(nodes)))
    picks = seeds.subset(seeds.key(seed, "nodes", round_), of=len(nodes), size=min(size, len(nodes)))
    return sorted(nodes[i] for i in picks)
