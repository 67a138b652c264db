"""Operations on Params, flat dictionaries of tensors: what a model, an optimiser state or a checkpoint is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Params = dict[str, Tensor]


def apply(f: Callable[..., Tensor], *trees: Params) -> Params:
    """f leaf by leaf; all trees have the names of the first."""
    return {k: f(*(t[k] for t in trees)) for k in trees[0]}


def prefixed(**trees: Params) -> Params:
    """One flat tree of several: {meta: {w}} -> {"meta/w"}."""
    return {f"{name}/{k}": v for name, tree in trees.items() for k, v in tree.items()}


def part(tree: Params, name: str) -> Params:
    """The leaves under a prefix, without it: the inverse of `prefixed`."""
    return {k[len(name) + 1 :]: v for k, v in tree.items() if k.startswith(name + "/")}


def stack(trees: Iterable[Params]) -> Params:
    """Leaves stacked along a new first axis."""
    trees = list(trees)
    return {k: torch.stack([t[k] for t in trees]) for k in trees[0]} if trees else {}


def join(trees: Sequence[Params]) -> Params:
    """Leaves one after the other along their first axis."""
    return {k: torch.cat([t[k] for t in trees]) for k in trees[0]}


def index(tree: Params, i: int) -> Params:
    """Entry i of the first axis of every leaf."""
    return {k: v[i] for k, v in tree.items()}


def expand(tree: Params, n: int) -> Params:
    """Every leaf repeated n times along a new first axis, without a copy."""
    return {k: v.expand(n, *v.shape) for k, v in tree.items()}


def mean(tree: Params) -> Params:
    """Mean over the first axis."""
    return {k: v.mean(0) for k, v in tree.items()}


def consensus(tree: Params) -> Params:
    """Mean over the first axis that returns equal entries bit for bit; integers and booleans: the first entry.

    Written as x0 + mean(x - x0): the plain mean of 3 equal float32 values need not be that value.
    """
    return {k: v[0] + (v - v[0]).mean(0) if v.is_floating_point() else v[0] for k, v in tree.items()}


def where(condition: Tensor, yes: Params, no: Params) -> Params:
    """Leaf by leaf choice by a boolean scalar."""
    return {k: torch.where(condition, v, no[k]) for k, v in yes.items()}


def size(tree: Params) -> int:
    """Number of values."""
    return sum(v.numel() for v in tree.values())


def finite(tree: Params) -> bool:
    """True where every floating-point value is finite."""
    leaves = [v for v in tree.values() if v.is_floating_point()]
    # a sum takes a third of the time, and of finite numbers it overflows rarely
    return all(bool(v.sum().isfinite()) or bool(v.isfinite().all()) for v in leaves)
