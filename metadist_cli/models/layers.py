"""Layers shared by several models: initial weights, activations and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metadist_cli.core.gradients import once, transformed
from metadist_cli.core.tree import Params

Norm = Annotated[
    Literal["batch", "batch_running", "group", "none"],
    Field(
        description="batch: statistics of the current batch, in training and at test (MAML's convention); "
        "batch_running: running statistics at test; group: group normalization, independent of the batch; none."
    ),
]
Affine = Annotated[
    Literal["shift", "both", "none"],
    Field(description="Learned by normalization layers: a shift (MAML), a shift and a scale (Reptile), or nothing."),
]
Activation = Literal["relu", "leaky_relu", "tanh", "softplus"]
ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.1),  # R2-D2's slope
    "tanh": torch.tanh,
    "softplus": F.softplus,
}
_EPS = 1e-5
_KEEP = 0.9  # momentum of the running statistics


def uniform_(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Draw uniformly from +-1/sqrt(fan_in), torch.nn's default for linear and convolution weights and biases."""
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def glorot_(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw a kernel (out, in, ...) from Glorot's uniform range, TensorFlow's default (MAML's and Reptile's code)."""
    bound = math.sqrt(6 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def truncated_normal_(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Draw from a normal truncated at two standard deviations, as TensorFlow does (MAML's fully connected network)."""
    return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=generator)


def norm_init(name: str, width: int, norm: str, affine: str) -> tuple[Params, Params]:
    """Parameters and running statistics of one normalisation layer over `width` channels."""
    params: Params = {}
    if norm != "none" and affine in ("shift", "both"):
        params[f"{name}.shift"] = torch.zeros(width)
    if norm != "none" and affine == "both":
        params[f"{name}.scale"] = torch.ones(width)
    # E[x] and E[x^2], not the variance: their weighted mean over nodes is the statistic of the pooled rows; a mean of
    # variances would miss how the nodes' means differ
    stats = {f"{name}.mean": torch.zeros(width), f"{name}.square": torch.ones(width)} if norm == "batch_running" else {}
    return params, stats


def blocks_init(
    widths: Sequence[int], channels: int, kernel: tuple[int, ...], norm: str, affine: str, generator: torch.Generator
) -> tuple[Params, Params]:
    """Parameters and running statistics of a stack of normalised convolutions.

    Args:
        widths: output channels of each.
        channels: input channels of the first.
        kernel: its size along each axis.
        norm, affine: of the normalisation layers.
        generator: of the weights (Glorot); biases start at 0.
    """
    params: Params = {}
    stats: Params = {}
    for i, (before, width) in enumerate(pairwise((channels, *widths))):
        params[f"conv{i}.weight"] = glorot_((width, before, *kernel), generator)
        params[f"conv{i}.bias"] = torch.zeros(width)
        more, running = norm_init(f"norm{i}", width, norm, affine)
        params |= more
        stats |= running
    return params, stats


def _groups(channels: int) -> int:
    """8, 4, 2 or 1 groups, of at least 8 channels each: group norm reduces one value to 0, and two to their signs."""
    return next((g for g in (8, 4, 2) if channels % g == 0 and channels >= 8 * g), 1)


def _running(name: str, stats: Params, mean: Tensor, var: Tensor) -> Params:
    """A layer's running statistics after a batch with this mean and variance; {} for a layer without any."""
    now = {f"{name}.mean": mean, f"{name}.square": var + mean**2}
    return {k: _KEEP * stats[k] + (1 - _KEEP) * v for k, v in now.items() if k in stats}


def normalise(name: str, norm: str, params: Params, stats: Params, x: Tensor, train: bool) -> tuple[Tensor, Params]:
    """Apply one normalisation layer.

    Under torch.func, mean and variance are computed explicitly: it decomposes torch's kernel into more passes, and
    under vmap that kernel has given silently wrong second derivatives (torch 2.13). This form is exact for first and
    second derivatives.

    Args:
        name: prefix of the layer's parameters.
        norm: which normalisation.
        params, stats: the model's.
        x: (n, C, ...).
        train: whether running statistics are updated rather than used.

    Returns:
        The output, with the shape and dtype of x, and the layer's new statistics (float32 even for bfloat16).
    """
    if norm == "none":
        return x, {}
    kernel = (
        (norm == "batch" or (norm == "batch_running" and train)) and len(x) and not transformed()
    )  # which needs rows
    if x.dtype == torch.bfloat16 and not (kernel and once()):  # it sums in float32, but not in a second derivative
        y, new = normalise(name, norm, params, stats, x.float(), train)
        return y.bfloat16(), new
    shape = (1, x.shape[1]) + (1,) * (x.ndim - 2)
    scale, shift = params.get(f"{name}.scale"), params.get(f"{name}.shift")
    if norm == "group":
        y = F.group_norm(x, _groups(x.shape[1]), eps=_EPS)
        y = y if scale is None else y * scale.reshape(shape)
        return y if shift is None else y + shift.reshape(shape), {}
    if kernel:
        # its second derivative fails without a scale
        given = x.new_ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32)) if scale is None else scale
        y, mean, rate = torch.native_batch_norm(x, given, shift, None, None, True, 0.0, _EPS)
        return y, _running(name, stats, mean, rate**-2 - _EPS)
    if norm == "batch" or train:
        dims = [0, *range(2, x.ndim)]
        mean = x.mean(dims)
        var = (x - mean.reshape(shape)).square().mean(dims)
        new = _running(name, stats, mean.detach(), var.detach())
    else:
        mean = stats[f"{name}.mean"]
        var = (stats[f"{name}.square"] - mean**2).clamp(min=0)
        new = {k: stats[k] for k in (f"{name}.mean", f"{name}.square")}
    rate = (var + _EPS).rsqrt()
    rate = rate if scale is None else rate * scale
    level = -mean * rate if shift is None else shift - mean * rate
    # two passes over x, (x - mean) * rate * scale + shift takes four, and likewise in both derivatives: saves 10%
    return x * rate.reshape(shape) + level.reshape(shape), new
