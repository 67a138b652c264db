"""What a model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metadist_cli.tree import Params


class Model(NamedTuple):
    """A network as two pure functions.

    init(generator) -> (params, stats); stats: running statistics that no gradient touches, {} for most.
    apply(params, stats, x, train, seed) -> (out, stats); x: (n, ...) float, seed: int64 scalar for dropout and its kin.
    text: the shape of it in a few characters, for reports.
    Parameters of normalisation layers have a name that starts with "norm"; those of the output layer "head".
    """

    init: Callable[[torch.Generator], tuple[Params, Params]]
    apply: Callable[[Params, Params, Tensor, bool, Tensor], tuple[Tensor, Params]]
    text: str
