"""What a task is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Episode(NamedTuple):
    """One task's data. support_x: (n, ...), support_y: (n,) or (n, out), query alike; leaves may carry leading axes."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
