"""Fully connected networks: MAML's 784-256-128-64-64-N (norm: batch) and 1-40-40-1, and the default 64-128-10.

Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, ICML 2017, https://arxiv.org/abs/1703.03400, section 5.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metadist_cli.core.tree import Params
from metadist_cli.models.layers import (
    ACTIVATIONS,
    Activation,
    Affine,
    Norm,
    norm_init,
    normalise,
    truncated_normal_,
    uniform_,
)
from metadist_cli.models.types import Model, with_head


def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    hidden: Annotated[
        list[Annotated[int, Field(ge=1, le=65_536)]],
        Field(max_length=64, description="Units per hidden layer; [] gives a linear model."),
    ] = [128],  # noqa: B006
    activation: Annotated[Activation, Field(description="Activation after each hidden layer.")] = "relu",
    norm: Norm = "none",
    affine: Affine = "both",
    init: Annotated[
        Literal["uniform", "truncated"],
        Field(description="uniform: +-1/sqrt(inputs); truncated: normal, sd 0.01, zero biases (MAML on Omniglot)."),
    ] = "uniform",
) -> Model:
    """[linear, normalisation, activation] x hidden layers, linear. x: (n, ...) is flattened."""
    widths = [math.prod(shape), *hidden, outputs]
    names = [f"layer{i}" for i in range(len(hidden))] + ["head"]
    act = ACTIVATIONS[activation]

    def initial(generator: torch.Generator) -> tuple[Params, Params]:
        params: Params = {}
        stats: Params = {}
        for i, (name, fan_in, width) in enumerate(zip(names, widths, widths[1:], strict=False)):
            if init == "uniform":
                params[f"{name}.weight"] = uniform_((width, fan_in), fan_in, generator)
                params[f"{name}.bias"] = uniform_((width,), fan_in, generator)
            else:
                params[f"{name}.weight"] = truncated_normal_((width, fan_in), 0.01, generator)
                params[f"{name}.bias"] = torch.zeros(width)
            if name != "head":
                more, running = norm_init(f"norm{i}", width, norm, affine)
                params |= more
                stats |= running
        return params, stats

    def linear(params: Params, i: int, x: Tensor) -> Tensor:
        weight = params[f"layer{i}.weight"]
        return F.linear(x.to(weight.dtype), weight, params[f"layer{i}.bias"])

    def upper(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        new: Params = {}
        for i in range(len(hidden)):
            x, running = normalise(f"norm{i}", norm, params, stats, linear(params, i, x) if i else x, train)
            new |= running
            x = act(x)
        return x, new

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        x = x.flatten(1)
        return upper(params, stats, linear(params, 0, x), train, seed) if hidden else (x, {})

    text = "mlp " + "-".join(map(str, widths))
    return with_head(initial, features, outputs, text, norm == "batch", upper if hidden else None)
