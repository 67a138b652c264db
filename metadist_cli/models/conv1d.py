"""A 1-D convolutional network for signals: blocks of kernel width 5 with max-pooling, then the mean over time.

After Wang, Yan, Oates, Time Series Classification from Scratch with Deep Neural Networks: A Strong Baseline, IJCNN
2017, https://arxiv.org/abs/1611.06455 (its fully convolutional network).
We differ: all kernels have width 5 (theirs 8, 5, 3), all blocks have the same number of filters (theirs 128, 256, 128),
and blocks end in max-pooling, so that later ones cover a longer stretch of the signal.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.tree import Params
from metadist_cli.models.layers import ACTIVATIONS, Activation, Affine, Norm, blocks_init, normalise, uniform_
from metadist_cli.models.types import Model, with_head

_KERNEL = 5


def conv1d(
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: Annotated[int, Field(ge=1, le=4096, description="Filters per convolution.")] = 64,
    depth: Annotated[int, Field(ge=1, le=16, description="Number of blocks; each halves the signal.")] = 3,
    activation: Annotated[Activation, Field(description="Activation after each block.")] = "relu",
    norm: Norm = "batch",
    affine: Affine = "shift",
) -> Model:
    """[convolution, normalisation, activation, max-pooling] x depth, mean over time, linear. x: (n, channels, length).

    Raises:
        Problem: for rows that are not signals, or too short for `depth` blocks.
    """
    if len(shape) != 2:
        raise Problem(
            f"conv1d needs signals, (channels, length), not rows of shape {shape}",
            "model.name",
            "use mlp, conv4 for images or lstm for text, or a data set of signals",
            CONFIG,
        )
    channels, length = shape
    if length < 2**depth:
        most = length.bit_length() - 1
        raise Problem(
            f"signals of length {length} are too short for {depth} block{'s' * (depth != 1)}, which halve it each",
            "model.depth",
            f"use depth: {most} or less" if most else "use model: {name: mlp}",
            CONFIG,
        )
    act = ACTIVATIONS[activation]

    def initial(generator: torch.Generator) -> tuple[Params, Params]:
        params, stats = blocks_init([width] * depth, channels, (_KERNEL,), norm, affine, generator)
        params["head.weight"] = uniform_((outputs, width), width, generator)
        params["head.bias"] = torch.zeros(outputs)
        return params, stats

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        new: Params = {}
        x = x.to(params["conv0.weight"].dtype)
        for i in range(depth):
            x = F.conv1d(x, params[f"conv{i}.weight"], params[f"conv{i}.bias"], padding=_KERNEL // 2)
            x, running = normalise(f"norm{i}", norm, params, stats, x, train)
            new |= running
            x = F.max_pool1d(act(x), 2)
        return x.mean(-1), new

    return with_head(initial, features, outputs, f"conv1d {width} x {depth} (norm {norm})", norm == "batch")
