"""Four 3x3 convolutions, the standard few-shot network, in the variants of the papers.

pool stride, head mean, affine shift     MAML on Omniglot, 111,749 weights and 256 shifts
                                         (Finn et al. 2017, https://arxiv.org/abs/1703.03400, section 5.2)
pool stride, head flatten, affine both   Reptile on Omniglot, 113,221 weights
                                         (Nichol et al. 2018, https://arxiv.org/abs/1803.02999)
pool max, head flatten, affine both      Vinyals et al. 2016, Snell et al. 2017; width 32: mini-ImageNet's 800 features
pool max, head last_two, affine both,    R2-D2 with width [96, 192, 384, 512], without its dropout
activation leaky_relu                    (Bertinetto et al. 2019, https://arxiv.org/abs/1805.08136, section 4)
We differ: padding is 1 on both sides; for stride 2 on even sizes TensorFlow's SAME pads 0 and 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.gradients import once
from metadist_cli.core.tree import Params
from metadist_cli.models.layers import ACTIVATIONS, Activation, Affine, Norm, blocks_init, normalise, uniform_
from metadist_cli.models.types import Model, with_head

_DEPTH = 4
Width = Annotated[int, Field(ge=1, le=4096)]


def conv4(
    shape: tuple[int, ...],
    outputs: int,
    *,
    width: Annotated[
        Width | Annotated[list[Width], Field(min_length=_DEPTH, max_length=_DEPTH)],
        Field(description="Filters per convolution: one number for all four, or a list of four."),
    ] = 64,
    pool: Annotated[
        Literal["stride", "max"],
        Field(description="How each block halves the image: by stride 2, or by 2x2 max-pooling."),
    ] = "stride",
    head: Annotated[
        Literal["mean", "flatten", "last_two"],
        Field(
            description="Features: the last block's spatial mean, its positions flattened, or those of the last "
            "two blocks (R2-D2)."
        ),
    ] = "mean",
    activation: Annotated[Activation, Field(description="Activation after each block.")] = "relu",
    norm: Norm = "batch",
    affine: Affine = "shift",
) -> Model:
    """[3x3 convolution, normalisation, activation, halving] x 4 and a linear layer. x: (n, H, W) or (n, C, H, W).

    Raises:
        Problem: for rows that are not images, or too small for four max-poolings.
    """
    if len(shape) not in (2, 3):
        raise Problem(
            f"conv4 needs images, (height, width) or (channels, height, width), not rows of shape {shape}",
            "model.name",
            "use mlp, or image data",
            CONFIG,
        )
    channels, height, wide = shape if len(shape) == 3 else (1, *shape)
    areas: list[int] = []
    for _ in range(_DEPTH):
        height, wide = ((v + 1) // 2 if pool == "stride" else v // 2 for v in (height, wide))
        areas.append(height * wide)
    if areas[-1] < 1:
        raise Problem(
            f"images of {shape} are too small for four max-poolings", "model.pool", "use pool: stride", CONFIG
        )
    widths = [width] * _DEPTH if isinstance(width, int) else width
    last = 2 if head == "last_two" else 1  # blocks that feed the output layer
    seen = widths[-1] if head == "mean" else sum(w * area for w, area in list(zip(widths, areas, strict=True))[-last:])
    act = ACTIVATIONS[activation]

    def initial(generator: torch.Generator) -> tuple[Params, Params]:
        params, stats = blocks_init(widths, channels, (3, 3), norm, affine, generator)
        params["head.weight"] = uniform_((outputs, seen), seen, generator)
        params["head.bias"] = torch.zeros(outputs)
        return params, stats

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        new: Params = {}
        outs: list[Tensor] = []
        x = x.reshape(x.shape[0], channels, *x.shape[-2:]).to(params["conv0.weight"].dtype)
        if once() and x.device.type == "cpu":  # 1.1 to 2 times as fast, but second derivatives are 10% slower
            x = x.to(memory_format=torch.channels_last)
        for i in range(_DEPTH):
            stride = 2 if pool == "stride" else 1
            x = _convolved(x, params[f"conv{i}.weight"], params[f"conv{i}.bias"], stride)
            x, running = normalise(f"norm{i}", norm, params, stats, x, train)
            new |= running
            if pool == "max":  # before the monotonic activation, which then has a quarter of the work
                x = F.max_pool2d(x, 2)
            x = act(x)
            outs.append(x)
        return x.mean((-2, -1)) if head == "mean" else torch.cat([out.flatten(1) for out in outs[-last:]], 1), new

    text = f"conv4 {'-'.join(map(str, widths))} ({pool}, {head}, norm {norm})"
    return with_head(initial, features, outputs, text, norm == "batch")


def _convolved(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution, in float32 where torch's gradient in bf16 is not finite: on a CPU, to a single position."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and max(x.shape[-2:]) <= stride:  # in torch 2.13
        return F.conv2d(x.float(), weight.float(), bias.float(), stride=stride, padding=1).bfloat16()
    return F.conv2d(x, weight, bias, stride=stride, padding=1)
