"""Logistic regression with a reference class: one linear function for each class but the first.

Cox, The Regression Analysis of Binary Sequences, JRSS B, 1958. FLamby's model of its hospitals (Ogier du Terrail et
al., NeurIPS 2022, https://arxiv.org/abs/2210.04620): 13 features, 2 classes, 14 parameters.
We differ from FLamby: weights start at 0 (`init: uniform` draws them as FLamby does, by torch's default).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.tree import Params
from metadist_cli.models.layers import uniform_
from metadist_cli.models.types import Model


def logistic(
    shape: tuple[int, ...],
    outputs: int,
    *,
    init: Annotated[
        Literal["zeros", "uniform"], Field(description="Initial weights: 0, or uniform in +-1/sqrt(inputs).")
    ] = "zeros",
) -> Model:
    """A linear function for each class but class 0, the reference. x: (n, ...) is flattened.

    out = [0, z], whose softmax gives the class probabilities; head.weight has outputs - 1 rows.

    Raises:
        Problem: for fewer than two outputs.
    """
    if outputs < 2:
        raise Problem(
            "logistic regression needs at least two classes",
            "model.name",
            "for a numeric target use model: {name: mlp, hidden: []}, which is linear regression",
            CONFIG,
        )
    inputs = math.prod(shape)

    def initial(generator: torch.Generator) -> tuple[Params, Params]:
        if init == "zeros":
            weight, bias = torch.zeros(outputs - 1, inputs), torch.zeros(outputs - 1)
        else:
            weight, bias = (uniform_(size, inputs, generator) for size in ((outputs - 1, inputs), (outputs - 1,)))
        return {"head.weight": weight, "head.bias": bias}, {}

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        return x.flatten(1), {}

    def apply(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        return F.pad(F.linear(x.flatten(1), params["head.weight"], params["head.bias"]), (1, 0)), {}

    return Model(initial, features, apply, outputs, f"logistic {inputs}-{outputs}")
