"""Operations on trees of tensors.

A tree is a flat dict of tensors by name (`Params`): the parameters of a model, the state of an optimiser, a checkpoint.
Nested trees share one dict, with names such as "meta/w".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Params = dict[str, Tensor]


def apply(f: Callable[..., Tensor], *trees: Params) -> Params:
    """Map a function over the leaves of one or more trees.

    Args:
        f: Function of one leaf from each tree.
        *trees: Trees that contain the names of the first one.

    Returns:
        The results under the names of the first tree.
    """
    return {k: f(*(t[k] for t in trees)) for k in trees[0]}


def prefixed(**trees: Params) -> Params:
    """Merge trees into one, each under its own prefix: prefixed(meta={"w": t}) is {"meta/w": t}."""
    return {f"{name}/{k}": v for name, tree in trees.items() for k, v in tree.items()}


def part(tree: Params, name: str) -> Params:
    """The leaves below a prefix, with the prefix removed: the inverse of `prefixed`."""
    return {k[len(name) + 1 :]: v for k, v in tree.items() if k.startswith(name + "/")}


def stack(trees: Iterable[Params]) -> Params:
    """Stack N trees: leaves of shape (...) become (N, ...); {} if there are no trees."""
    trees = list(trees)
    return {k: torch.stack([t[k] for t in trees]) for k in trees[0]} if trees else {}


def join(trees: Sequence[Params]) -> Params:
    """Concatenate the leaves along their first axis."""
    return {k: torch.cat([t[k] for t in trees]) for k in trees[0]}


def index(tree: Params, i: int) -> Params:
    """Entry i along the first axis of every leaf."""
    return {k: v[i] for k, v in tree.items()}


def expand(tree: Params, n: int) -> Params:
    """Repeat every leaf n times along a new first axis, without a copy: (...) becomes (n, ...)."""
    return {k: v.expand(n, *v.shape) for k, v in tree.items()}


def mean(tree: Params) -> Params:
    """Mean of every leaf over its first axis."""
    return {k: v.mean(0) for k, v in tree.items()}


def consensus(tree: Params) -> Params:
    """Mean over the first axis that reproduces equal entries bit for bit.

    Computed as x0 + mean(x - x0): the plain mean of 3 equal float32 values can differ from that value.

    Args:
        tree: Leaves of shape (N, ...). Integer and boolean leaves give their first entry.

    Returns:
        Leaves of shape (...).
    """
    return {k: v[0] + (v - v[0]).mean(0) if v.is_floating_point() else v[0] for k, v in tree.items()}


def where(condition: Tensor, yes: Params, no: Params) -> Params:
    """Select whole trees by a boolean scalar, which works under vmap."""
    return {k: torch.where(condition, v, no[k]) for k, v in yes.items()}


def size(tree: Params) -> int:
    """Total number of elements."""
    return sum(v.numel() for v in tree.values())


def finite(tree: Params) -> bool:
    """Whether every floating-point value is finite."""
    leaves = [v for v in tree.values() if v.is_floating_point()]
    # a sum takes a third of the time; it rarely overflows if all values are finite
    return all(bool(v.sum().isfinite()) or bool(v.isfinite().all()) for v in leaves)
