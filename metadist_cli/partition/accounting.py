"""A data set as shards, with every row accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metadist_cli.data.types import Dataset
from metadist_cli.partition.held_out import ROLES
from metadist_cli.partition.too_small import LeftOut

if TYPE_CHECKING:
    from metadist_cli.partition.shards import Shard


class Partitioned(NamedTuple):
    """Shards, and the nodes and classes whose rows are in none of them because they are too small for a task."""

    shards: list[Shard]
    left_out: list[LeftOut]

    def account(self, data: Dataset) -> dict[str, int]:
        """Count the rows of the data set by where they went.

        Returns:
            Rows by role ("train", "validation", "test"); "total"; "left_out": rotated copies of held-out classes, which
            `rotate_held_out` False leaves out; "too_small": of what is left out as such, if anything is; "lost": in no
            shard; "duplicated": in several.
        """
        times = np.zeros(len(data.label), dtype=np.int64)
        held = np.zeros(int(data.base.max()) + 1, dtype=bool)
        for shard in self.shards:
            np.add.at(times, shard.row, 1)
            if shard.role != "train":
                held[data.base[data.label[shard.row]]] = True
        spare = np.zeros(len(times), dtype=bool)
        if not data.rotate_held_out:
            spare = (times == 0) & data.rotated[data.label] & held[data.base[data.label]]
        small = sum(one.rows for one in self.left_out)
        return {
            **{role: sum(len(s.label) for s in self.shards if s.role == role) for role in ROLES},
            "total": len(times),
            "left_out": int(spare.sum()),
            **({"too_small": small} if small else {}),
            "lost": int(((times == 0) & ~spare).sum()) - small,
            "duplicated": int((times > 1).sum()),
        }
