"""What a model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metadist_cli.core.tree import Params

Init = Callable[[torch.Generator], tuple[Params, Params]]
Forward = Callable[[Params, Params, Tensor, bool, Tensor], tuple[Tensor, Params]]


HEAD, NORM = "head", "norm"  # what the names of the output layer's and of normalisation layers' leaves begin with
FIRST = "layer0"  # the linear layer that a model with an `upper` part begins with


class Model(NamedTuple):
    """A network as three pure functions.

    init(generator) -> (params, stats); stats: running statistics that no gradient touches, {} for most.
    features(params, stats, x, train, seed) -> (features (n, F), stats): what the output layer sees.
    apply(params, stats, x, train, seed) -> (out (n, outputs), stats); x: (n, ...) float, seed: int64 scalar for
      what a model draws.
    outputs: the width of what apply returns.
    text: the shape of it in a few characters, for reports.
    mixes: at test the rows of a batch are normalised together, so that an output depends on the other rows.
    upper: of a model that begins with a linear layer, "layer0.weight" (H, D) and "layer0.bias" (H,): `apply` from what
      that layer gives, (n, H), on; else None.
    Parameters of normalisation layers have a name that starts with "norm"; those of the output layer are
    "head.weight" (outputs, F) and "head.bias" (outputs,), but for a logistic model's reference class, which has none.
    """

    init: Init
    features: Forward
    apply: Forward
    outputs: int
    text: str
    mixes: bool = False
    upper: Forward | None = None


def with_head(
    init: Init, features: Forward, outputs: int, text: str, mixes: bool = False, upper: Forward | None = None
) -> Model:
    """The model whose output layer is linear in its features: head.weight (outputs, F), head.bias (outputs,).

    upper: the features from what the model's first layer gives on, where that one is linear.
    """

    def headed(features: Forward) -> Forward:
        def apply(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
            seen, new = features(params, stats, x, train, seed)
            return F.linear(seen, params["head.weight"], params["head.bias"]), new

        return apply

    return Model(init, features, headed(features), outputs, text, mixes, headed(upper) if upper else None)


def in_bf16(model: Model) -> Model:
    """The model with hidden layers in bfloat16, 8 bits: weights and what goes from layer to layer.

    Its parameters, statistics, output layer and all that it returns stay float32. Rounded by hand: under vmap torch's
    autocast leaves convolutions and linear layers as they are. Without an `upper` part. A model that has no hidden
    layer stays as it is.
    """
    if all(k.startswith(HEAD) for k in model.init(torch.Generator())[0]):
        return model

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        low = {k: v if k.startswith(NORM) else v.bfloat16() for k, v in params.items()}
        out, new = model.features(low, stats, x, train, seed)
        return out.float(), new

    return with_head(model.init, features, model.outputs, model.text, model.mixes)
