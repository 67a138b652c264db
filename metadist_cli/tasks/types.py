"""Tasks as data: labelled examples, and episodes made of a support and a query set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Examples(NamedTuple):
    """Labelled rows. x: (n, ...) inputs; y: (n,) class numbers, or (n, out) regression targets."""

    x: Tensor
    y: Tensor


class Episode(NamedTuple):
    """One task's data: the support to adapt to, the query to be scored on.

    Four leaves rather than two pairs, so that vmap and slicing treat an episode as one flat tuple. Leaves may carry
    leading axes (steps, tasks).

    Attributes:
        support_x: (n, ...) inputs.
        support_y: (n,) class numbers, or (n, out) regression targets.
        query_x: (m, ...) inputs.
        query_y: (m,) or (m, out).
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    @property
    def support(self) -> Examples:
        """The support set."""
        return Examples(self.support_x, self.support_y)

    @property
    def query(self) -> Examples:
        """The query set."""
        return Examples(self.query_x, self.query_y)

    def merged(self) -> Examples:
        """Support and query as one set of n + m rows."""
        if not len(self.support_y):
            return self.query
        return Examples(torch.cat([self.support_x, self.query_x]), torch.cat([self.support_y, self.query_y]))
