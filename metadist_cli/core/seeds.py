"""Stateless randomness: a random number depends only on its purpose, never on earlier draws.

No state has to be saved or restored, and the order of nodes, blocks, processes and devices cannot change a draw.
Initial parameters come from a `generator`. Task indices come from counter-based 64-bit hashes, computed for many nodes,
steps and tasks at once: one generator per node and step would cost more than training a small node.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # increment of splitmix64
_SORT_ABOVE = 12  # picking elements takes size**2 array operations; sorting takes one key per candidate
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key(*parts: object) -> int:
    """Derive a seed from what it is for.

    Args:
        *parts: Anything with a stable str(), such as key(seed, "init", node).

    Returns:
        A 63-bit integer from the SHA-256 of the parts' text, joined by '|'.
    """
    digest = hashlib.sha256("|".join(str(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A torch CPU generator seeded with key(*parts)."""
    return torch.Generator().manual_seed(key(*parts))


def numpy_generator(*parts: object) -> np.random.Generator:
    """A NumPy Philox generator seeded with key(*parts)."""
    return np.random.Generator(np.random.Philox(key(*parts)))


def bits(base: int, *counters: np.ndarray | int) -> np.ndarray:
    """Counter-based random bits: splitmix64 (Steele, Lea, Flood 2014, OOPSLA), applied once per counter.

    Args:
        base: Key, from `key`.
        *counters: Integers or integer arrays, broadcast against each other.

    Returns:
        uint64 array of the broadcast shape.
    """
    with np.errstate(over="ignore"):
        h = _finish(np.uint64(base) + np.uint64(_GOLDEN))
        for c in counters:
            h = _finish((h ^ np.asarray(c).astype(np.uint64)) + np.uint64(_GOLDEN))
    return np.asarray(h)


def _finish(z: np.ndarray | np.uint64) -> np.ndarray:
    z = np.asarray(z, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX2)
    return z ^ (z >> np.uint64(31))


def positive(base: int, *counters: np.ndarray | int) -> np.ndarray:
    """int64 seeds, at least 0, of a key and counters; the counters broadcast."""
    return (bits(base, *counters) >> np.uint64(1)).astype(np.int64)


def uniform(base: int, *counters: np.ndarray | int) -> np.ndarray:
    """float32 values in [0, 1), multiples of 2**-24; arguments and shape as for `bits`."""
    return (bits(base, *counters) >> np.uint64(40)).astype(np.float32) / 2**24


def subset(base: int, *counters: np.ndarray | int, of: np.ndarray | int, size: int) -> np.ndarray:
    """Draw ordered random subsets without repetition; every ordered subset is equally likely.

    Element j is the r-th candidate not yet taken, with r uniform below of - j. The bias of `hash % n` is below
    n / 2**64.

    Args:
        base: Key, from `key`.
        *counters: Integers or integer arrays, broadcast against each other and against `of`.
        of: Number of candidates, at least `size`; smaller values give meaningless results and are not checked.
        size: Elements per subset.

    Returns:
        int64 array (..., size) of integers in [0, of).
    """
    counters = tuple(np.asarray(c) for c in counters)
    of = np.asarray(of)
    shape = np.broadcast_shapes(of.shape, *(c.shape for c in counters))
    if size > _SORT_ABOVE:
        wide = np.arange(int(of.max(initial=size)))
        keys = bits(base, *(np.broadcast_to(c, shape)[..., None] for c in counters), wide)
        keys = np.where(wide < of[..., None], keys, np.uint64(0xFFFFFFFFFFFFFFFF))
        return np.argsort(keys, axis=-1, kind="stable")[..., :size]
    out = np.empty((*shape, size), dtype=np.int64)
    taken = np.empty((*shape, 0), dtype=np.int64)  # kept sorted
    for j in range(size):
        left = np.maximum(of - j, 1).astype(np.uint64)
        pick = np.broadcast_to((bits(base, *counters, j) % left).astype(np.int64), shape).copy()
        for t in range(j):  # skip smaller candidates already taken
            pick += pick >= taken[..., t]
        out[..., j] = pick
        taken = np.sort(np.concatenate([taken, pick[..., None]], -1), -1)
    return out


def shuffle(seed: Tensor, counter: int, n: int) -> Tensor:
    """A random permutation in torch operations, so that it works under vmap.

    Args:
        seed: 0-d int64 tensor.
        counter: Selects one of many permutations for the same seed.
        n: Length.

    Returns:
        (n,) int64 permutation of 0 to n - 1, on the device of `seed`.
    """
    z = seed + _signed(key("shuffle", counter)) + torch.arange(n, device=seed.device) * _signed(_GOLDEN)
    return torch.argsort(_torch_finish(z), stable=True)


def _torch_finish(z: Tensor) -> Tensor:
    def shift(v: Tensor, s: int) -> Tensor:  # logical, not arithmetic
        return (v >> s) & ((1 << (64 - s)) - 1)

    z = (z ^ shift(z, 30)) * _signed(_MIX1)
    z = (z ^ shift(z, 27)) * _signed(_MIX2)
    return z ^ shift(z, 31)


def _signed(v: int) -> int:
    return v - (1 << 64) if v >= 1 << 63 else v
