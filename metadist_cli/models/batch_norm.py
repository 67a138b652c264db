"""Batch normalisation of images and signals by torch's own kernel, in any order of vmap and gradients.

Sergey Ioffe, Christian Szegedy. "Batch Normalization." ICML 2015. https://arxiv.org/abs/1502.03167

torch.func takes F.batch_norm apart into a dozen passes over the images, and under vmap has given silently wrong second
derivatives (torch 2.13). Here a vmapped axis becomes more channels, which is the same arithmetic, and the second
derivative is written out. Below, S is a channel's mean, n its number of values, z = (x - S x) rate the standardised
images, and P v = v - S v - z S(v z) what is left of v beside the constant and z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

EPS = 1e-5
_batch_norm, _batch_norm_backward = torch.native_batch_norm, torch.ops.aten.native_batch_norm_backward


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z scale + shift, and by channel the mean and 1 / sqrt(variance + EPS), which carry no gradient.

    x: (n, C, ...); scale, shift and the statistics: (C,).
    """
    return _Forward.apply(x, scale, shift)


class _Forward(Function):
    @staticmethod
    def forward(x: Tensor, scale: Tensor, shift: Tensor):
        return _batch_norm(x, scale, shift, None, None, True, 0.0, EPS)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        x, scale, _ = inputs
        _, mean, rate = output
        ctx.mark_non_differentiable(mean, rate)
        ctx.save_for_backward(x, scale, mean, rate)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        return _Backward.apply(grads[0], *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor):
        channels = _as_channels(info.batch_size, in_dims, tensors, images=1)
        return _apart(info.batch_size, _Forward.apply(*channels), images=1)


class _Backward(Function):
    """The gradients to x, scale and shift: scale rate P g, n S(g z) and n S g. g: the gradient to the output."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rate: Tensor):
        return _batch_norm_backward(g, x, scale, None, None, mean, rate, True, EPS, [True, True, True])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        """a, b, c: the gradients to those to x, scale and shift. The statistics' own part is in that to x."""
        g, x, scale, mean, rate, to_scale, to_shift = ctx.saved_tensors
        mean, rate = _Statistics.apply(x, mean, rate)
        a, b, c = grads
        n, over = _channels(x)
        pa, a_z, a_1 = _Backward.apply(a, x, scale, mean, rate)  # scale rate P a, n S(a z), n S a
        g_z, g_1, a_z, a_1 = to_scale / n, to_shift / n, a_z / n, a_1 / n
        both = (a * g).sum([0, *range(2, x.ndim)]) / n - a_1 * g_1 - a_z * g_z  # S(a P g)
        of_g = b * rate - rate**2 * scale * a_z  # of P g in what goes to x
        of_z = -(rate**2) * scale * both - of_g * g_z
        to_x = over(of_g) * g - over(rate * g_z) * pa + over(of_z * rate) * x - over(of_z * rate * mean + of_g * g_1)
        to_g = pa + over(b * rate) * x + over(c - b * rate * mean)
        return to_g, to_x, n * rate * both, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor):
        channels = _as_channels(info.batch_size, in_dims, tensors, images=2)
        return _apart(info.batch_size, _Backward.apply(*channels), images=1)


class _Statistics(Function):
    """The statistics as they are, now with their gradients to x: what a third derivative asks for."""

    @staticmethod
    def forward(x: Tensor, mean: Tensor, rate: Tensor):
        return mean.clone(), rate.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        x, mean, rate = ctx.saved_tensors
        mean, rate = _Statistics.apply(x, mean, rate)
        n, over = _channels(x)
        return over(grads[0] / n) - over(grads[1] * rate**3 / n) * (x - over(mean)), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor):
        channels = _as_channels(info.batch_size, in_dims, tensors, images=1)
        return _apart(info.batch_size, _Statistics.apply(*channels), images=0)


def _channels(x: Tensor) -> tuple[int, Callable[[Tensor], Tensor]]:
    """The values of a channel, and how what belongs to channels is laid over x."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return x.numel() // x.shape[1], lambda channels: channels.reshape(shape)


def _as_channels(size: int, in_dims: tuple[int | None, ...], tensors: tuple[Tensor, ...], images: int) -> list[Tensor]:
    """The vmapped axis before the channels' and one with it; the first tensors are images, (n, C, ...)."""
    placed = []
    for i, (tensor, dim) in enumerate(zip(tensors, in_dims, strict=True)):
        axis = 1 if i < images else 0
        apart = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], size, *tensor.shape[axis:])
        placed.append((apart if dim is None else tensor.movedim(dim, axis)).flatten(axis, axis + 1))
    return placed


def _apart(size: int, outputs: tuple[Tensor, ...], images: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Undoes `_as_channels`."""
    axes = tuple(1 if i < images else 0 for i in range(len(outputs)))
    return tuple(v.unflatten(axis, (size, -1)) for v, axis in zip(outputs, axes, strict=True)), axes
