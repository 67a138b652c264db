"""What one node does in a round: directions, a correction of drift, the outer optimiser, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from metadist_cli.core import tree
from metadist_cli.core.gradients import clipped
from metadist_cli.core.optimizers import Optimizer, in_parts
from metadist_cli.core.tree import Params
from metadist_cli.federated.drift_corrections import Drift
from metadist_cli.federated.personalization import Personal
from metadist_cli.learners.types import Learner
from metadist_cli.tasks.augmentation import Augment, unchanged
from metadist_cli.tasks.types import Episode


class Carry(NamedTuple):
    """What goes from one local step to the next at one node (or, with a leading axis, at a block of nodes).

    drift: the work of the correction. mine: Ditto's second model ("meta/", "stats/", "outer/") and what it is drawn to
    ("start/"). count: local steps of this round so far.
    """

    meta: Params
    stats: Params
    outer: Params
    drift: Params
    mine: Params
    count: Tensor


class Algorithm(NamedTuple):
    """What a node needs to know: the learner, and what a round makes of it.

    outer_state: reset | keep | average, what becomes of the outer optimiser's state between rounds.
    augment: what changes in the tasks before they are trained on. clip: the largest norm of a step's direction.
    A node's leaves are "meta/", "stats/", "outer/" and "control/" (shared, but for what `personal` keeps), "node/" (its
    control variate) and "mine/" (Ditto). tasks_at_once: how many of a step's tasks are one program; None: all.
    compiled: torch.compile makes one kernel of a block's step. replayed: steps are recorded once and replayed, with the
    same bits (core/replay.py).
    """

    learner: Learner
    outer: Optimizer
    outer_state: str
    drift: Drift
    personal: Personal
    augment: Augment = unchanged
    clip: float | None = None
    tasks_at_once: int | None = None
    compiled: bool = False
    replayed: bool = True

    def start(self, generator: torch.Generator) -> tuple[Params, Params]:
        """(shared, own): the first global parameters, and what a node owns before its first round."""
        meta, stats = self.learner.init(generator)
        outer = {} if self.outer_state == "reset" else self.optimizer.init(meta)
        control, node = self.drift.init(self.common(meta))
        mine = tree.prefixed(meta=meta, stats=stats) | {"met": torch.zeros(())} if self._second else {}
        return self._split(tree.prefixed(meta=meta, stats=stats, outer=outer, control=control, node=node, mine=mine))

    def open(self, shared: Params, own: Params) -> Carry:
        """A node's carry at the beginning of a round."""
        leaves = shared | own
        meta, stats, outer = (tree.part(leaves, name) for name in ("meta", "stats", "outer"))
        if self.outer_state == "reset":
            outer = self.optimizer.init(meta)
        work = self.drift.open(self.common(meta), tree.part(leaves, "control"), tree.part(leaves, "node"))
        mine: Params = {}
        if self._second:
            own_meta, own_stats = self.model(shared, own)
            mine = tree.prefixed(meta=own_meta, stats=own_stats, outer=self.optimizer.init(meta), start=meta)
        return Carry(meta, stats, outer, work, mine, torch.zeros((), dtype=torch.int64, device=_device(meta)))

    def close(self, carry: Carry) -> tuple[Params, Params]:
        """(shared, own) at the end of a round: the inverse of `open`."""
        outer = {} if self.outer_state == "reset" else carry.outer
        control, node = self.drift.close(carry.drift)
        mine: Params = {}
        if self._second:
            mine = {k: v for k, v in carry.mine.items() if k.startswith(("meta/", "stats/"))}
            mine["met"] = torch.ones_like(carry.count, dtype=torch.float32)
        leaves = tree.prefixed(meta=carry.meta, stats=carry.stats, outer=outer, control=control, node=node, mine=mine)
        return self._split(leaves)

    def model(self, shared: Params, own: Params) -> tuple[Params, Params]:
        """(meta, stats) that a node is judged with: the shared ones, with what is its own in their place."""
        leaves = shared | own
        meta, stats = tree.part(leaves, "meta"), tree.part(leaves, "stats")
        if not self._second:
            return meta, stats
        met = leaves["mine/met"] > 0  # a node that never took part has the shared model
        return tree.where(met, tree.part(own, "mine/meta"), meta), tree.where(met, tree.part(own, "mine/stats"), stats)

    @property
    def optimizer(self) -> Optimizer:
        """The outer one; a part of the model that stays at the node has a state of its own there, a count too."""
        return in_parts(self.outer, self.personal.keeps) if self.personal.parts else self.outer

    @property
    def _second(self) -> bool:
        return self.personal.pull is not None

    def common(self, leaves: Params) -> Params:
        """The leaves that are shared."""
        return {k: v for k, v in leaves.items() if not self.personal.keeps(k)}

    def _split(self, leaves: Params) -> tuple[Params, Params]:
        stay = ("node/", "mine/", "outer/" if self.outer_state == "keep" else "outer/first/")
        own = {k: v for k, v in leaves.items() if k.startswith(stay) or self.personal.keeps(k)}
        return {k: v for k, v in leaves.items() if k not in own}, own


def _device(leaves: Params) -> torch.device:
    return next(iter(leaves.values())).device


def node_step(
    algorithm: Algorithm, carry: Carry, episodes: Episode, task_seeds: Tensor, active: Tensor | None, step: Tensor
) -> tuple[Carry, dict[str, Tensor]]:
    """One local step of ONE node: its T tasks' mean meta-gradient, corrected for drift, moves the outer optimizer.

    Args:
        algorithm: what a node does.
        carry: the node's state in this round.
        episodes: leaves (T, n, ...).
        task_seeds: (T,) int64.
        active: 0-d bool; False leaves everything as it is. None: True.
        step: 0-d, the node's global step, for schedules.

    Returns:
        The carry after the step, and the step's metrics, 0-d each.
    """

    gradient = partial(_mean_gradient, algorithm, episodes, task_seeds, step)
    direction, stats, metrics = gradient(carry.meta, carry.stats)
    direction = clipped(direction, algorithm.clip)
    corrected, work = algorithm.drift.correct(algorithm.common(direction), algorithm.common(carry.meta), carry.drift)
    meta, outer = algorithm.optimizer.update(direction | corrected, carry.outer, carry.meta, step)
    if algorithm.personal.part_steps:
        meta, outer = _one_part(algorithm.personal, carry, meta, outer)
    mine = carry.mine
    if algorithm.personal.pull is not None:
        mine = _own_model(algorithm, mine, gradient, step)
    new = Carry(meta, stats, outer, work, mine, carry.count + 1)
    if active is None:
        return new, metrics
    return Carry(*(_where(active, n, o) for n, o in zip(new, carry, strict=True))), metrics


def _mean_gradient(
    algorithm: Algorithm, episodes: Episode, task_seeds: Tensor, step: Tensor, meta: Params, stats: Params
) -> tuple[Params, Params, dict[str, Tensor]]:
    """(direction, stats, metrics), means over the tasks of a step.

    vmap(grad(task)) and then the mean: the other order has given wrong second derivatives of batch norm (torch 2.13).
    """

    def one_task(episode: Episode, seed: Tensor) -> tuple[Params, Params, dict[str, Tensor]]:
        return algorithm.learner.meta_gradient(meta, stats, episode, step, seed)

    at_once = min(algorithm.tasks_at_once or len(task_seeds), len(task_seeds))
    if at_once == 1:  # vmap has its cost: a third of a small node's step
        alone = [one_task(Episode(*(leaf[i] for leaf in episodes)), seed) for i, seed in enumerate(task_seeds)]
        if len(alone) == 1:
            return alone[0]
        direction, new_stats, metrics = map(tree.stack, zip(*alone, strict=True))
    else:
        chunk = at_once if at_once < len(task_seeds) else None  # one chunk of all would be copied
        direction, new_stats, metrics = vmap(one_task, randomness="error", chunk_size=chunk)(episodes, task_seeds)
    return tree.mean(direction), tree.consensus(new_stats), tree.mean(metrics)


def _one_part(personal: Personal, carry: Carry, meta: Params, outer: Params) -> tuple[Params, Params]:
    """FedRep's alternation: the first steps of a round train the node's own part, all later ones the shared part."""
    own_turn = carry.count < personal.part_steps
    meta = {k: torch.where(own_turn if personal.keeps(k) else ~own_turn, v, carry.meta[k]) for k, v in meta.items()}
    turn = {k: own_turn if k.startswith("first/") else ~own_turn for k in outer}
    return meta, {k: torch.where(turn[k], v, carry.outer[k]) for k, v in outer.items()}


def _own_model(algorithm: Algorithm, mine: Params, gradient: Callable, step: Tensor) -> Params:
    """Ditto's step of the node's own model, pulled towards the global one that the round started from."""
    own, stats, start = (tree.part(mine, name) for name in ("meta", "stats", "start"))
    direction, stats, _ = gradient(own, stats)
    pull = algorithm.personal.pull
    direction = tree.apply(lambda d, v, w: d + pull * (v - w), clipped(direction, algorithm.clip), own, start)
    own, outer = algorithm.optimizer.update(direction, tree.part(mine, "outer"), own, step)
    return tree.prefixed(meta=own, stats=stats, outer=outer, start=start)


def _where(active: Tensor, new: Any, old: Any) -> Any:
    return torch.where(active, new, old) if isinstance(new, Tensor) else tree.where(active, new, old)
