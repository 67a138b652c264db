"""The rows of sampled tasks, gathered on the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from metadist_cli.tasks.episodes import Pool
from metadist_cli.tasks.types import Episode


def gather(pool: Pool, support: np.ndarray, query: np.ndarray, labels: tuple[np.ndarray, np.ndarray] | None) -> Episode:
    """Gather the data of tasks.

    Args:
        pool: the rows.
        support: (..., n) row indices.
        query: (..., m) row indices.
        labels: as in `TaskIndices`.

    Returns:
        An Episode with leaves (..., n or m, *row shape) on the pool's device, x already divided.
    """
    device = pool.x.device

    def rows(index: np.ndarray) -> tuple[Tensor, Tensor]:
        at, x = torch.from_numpy(np.ascontiguousarray(index)).to(device), stored(pool, index)
        return (x if x.is_floating_point() and pool.divide == 1 else x / pool.divide), _taken(pool.y, at)

    (support_x, support_y), (query_x, query_y) = rows(support), rows(query)
    if pool.by_support is not None:
        support_x, query_x = (_scaled(pool.by_support, support_x, x, support.ndim - 1) for x in (support_x, query_x))
    if labels is not None:
        support_y, query_y = (
            torch.from_numpy(values).to(device).expand(*index.shape)
            for values, index in zip(labels, (support, query), strict=True)
        )
    return Episode(support_x, support_y, query_x, query_y)


def _scaled(by_support: Callable, support: Tensor, rows: Tensor, lead: int) -> Tensor:
    """The rows of tasks, each scaled by its support; both have `lead` leading axes of tasks."""
    flat = ([*leaf.cpu().numpy().reshape(-1, *leaf.shape[lead:])] for leaf in (support, rows))
    scaled = np.stack([by_support(own, x) for own, x in zip(*flat, strict=True)])
    return torch.from_numpy(scaled).reshape(rows.shape).to(rows.device)


def stored(pool: Pool, rows: np.ndarray) -> Tensor:
    """x of some rows of the pool, (n, *row shape), as stored: not divided, and not scaled by a task's support."""
    at = torch.from_numpy(np.ascontiguousarray(rows)).to(pool.x.device)
    return _taken(pool.x, at if pool.place is None else pool.place[at])


def _taken(leaf: Tensor, at: Tensor) -> Tensor:
    """leaf[at], in a fifth of the time (4,500 rows of 64 values: 77 us, not 490 us)."""
    return leaf.index_select(0, at.flatten()).unflatten(0, at.shape)
