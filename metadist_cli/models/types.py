"""The Model contract, and functions that build or change a Model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metadist_cli.core.tree import Params

Init = Callable[[torch.Generator], tuple[Params, Params]]
Forward = Callable[[Params, Params, Tensor, bool, Tensor], tuple[Tensor, Params]]


HEAD, NORM = "head", "norm"  # prefixes of the names of the output layer's and of normalisation layers' parameters
FIRST = "layer0"  # the first layer of a model that has an `upper` part


class Model(NamedTuple):
    """A network as three pure functions.

    Parameters of normalisation layers have names that start with "norm". The output layer's are "head.weight"
    (outputs, F) and "head.bias" (outputs,); a logistic model has one row less, since its reference class has none.

    Example:

        model = mlp((784,), 5, hidden=[64])
        params, stats = model.init(seeds.generator(0))
        out, stats = model.apply(params, stats, x, True, seed)  # (n, 5)

    Attributes:
        init: (generator) -> (params, stats). stats: running statistics, which no gradient touches; {} for most models.
        features: (params, stats, x, train, seed) -> (features (n, F), stats): the output layer's input.
        apply: (params, stats, x (n, ...) float, train, seed) -> (out (n, outputs), stats). seed: int64 scalar for
            whatever the model draws.
        outputs: width of the output.
        text: the architecture in a few characters, for reports.
        mixes: True where test-time normalisation uses the whole batch, so that an output depends on the other rows.
        upper: for a model whose first layer is linear, "layer0.weight" (H, D) and "layer0.bias" (H,): `apply` from
            that layer's outputs (n, H) on. None for other models.
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
    """Build a Model from its features by adding a linear output layer.

    Args:
        init: initial parameters and statistics, "head.weight" (outputs, F) and "head.bias" (outputs,) included.
        features: the layers below.
        outputs: width of the output.
        text: for reports.
        mixes: see Model.
        upper: `features` from the outputs of a linear first layer on, where there is one.
    """

    def headed(features: Forward) -> Forward:
        def apply(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
            seen, new = features(params, stats, x, train, seed)
            return F.linear(seen, params["head.weight"], params["head.bias"]), new

        return apply

    return Model(init, features, headed(features), outputs, text, mixes, headed(upper) if upper else None)


def in_bf16(model: Model) -> Model:
    """The model with weights and activations of its hidden layers in bfloat16.

    Parameters, statistics, the output layer and all outputs stay float32. Cast explicitly, since torch's autocast skips
    convolutions and linear layers under vmap. The result has no `upper` part. A model without hidden layers is returned
    unchanged.
    """
    if all(k.startswith(HEAD) for k in model.init(torch.Generator())[0]):
        return model

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        low = {k: v if k.startswith(NORM) else v.bfloat16() for k, v in params.items()}
        out, new = model.features(low, stats, x, train, seed)
        return out.float(), new

    return with_head(model.init, features, model.outputs, model.text, model.mixes)
