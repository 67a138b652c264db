"""The next-character LSTM of LEAF and FedMeta: 80 characters in, embedding of 8, two layers of 256, 819,920 parameters.

Caldas et al., LEAF: A Benchmark for Federated Settings, 2018, https://arxiv.org/abs/1812.01097, Shakespeare.
Chen et al., Federated Meta-Learning with Fast Convergence and Efficient Communication, 2018,
https://arxiv.org/abs/1802.07876.
The cell, its two biases and all initial weights are torch's (embedding normal(0, 1), the cell uniform in
+-1/sqrt(hidden), the output layer as a linear layer's). We differ from LEAF's code (TensorFlow): its cell has one bias
(817,872 parameters), has Glorot weights and adds 1 to the forget gate.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.tree import Params
from metadist_cli.models.layers import uniform_
from metadist_cli.models.types import Model, with_head


def lstm(
    shape: tuple[int, ...],
    outputs: int,
    *,
    vocabulary: Annotated[int, Field(ge=1, le=4096, description="Characters; rows hold 0 to vocabulary - 1.")] = 80,
    embedding: Annotated[int, Field(ge=1, le=4096, description="Size of the character embedding.")] = 8,
    hidden: Annotated[int, Field(ge=1, le=4096, description="Units per layer.")] = 256,
    layers: Annotated[int, Field(ge=1, le=16, description="Number of stacked LSTM layers.")] = 2,
) -> Model:
    """Embedding, LSTM layers, and a linear layer on the last hidden state. x: (n, length) character numbers.

    A number outside the vocabulary embeds as zeros. Numeric features have the same shape as characters,
    so they are not refused.

    Raises:
        Problem: for rows with more than one axis.
    """
    if len(shape) != 1:
        raise Problem(
            f"lstm needs sequences of characters, (length,), not rows of shape {shape}",
            "model.name",
            "use conv1d for signals, conv4 for images, or mlp",
            CONFIG,
        )
    names = [f"lstm{i}" for i in range(layers)]

    def initial(generator: torch.Generator) -> tuple[Params, Params]:
        params: Params = {"embedding.weight": torch.empty(vocabulary, embedding).normal_(generator=generator)}
        for i, name in enumerate(names):
            fan_in = embedding if i == 0 else hidden
            # input, forget, cell and output gates, stacked
            params[f"{name}.weight_ih"] = uniform_((4 * hidden, fan_in), hidden, generator)
            params[f"{name}.weight_hh"] = uniform_((4 * hidden, hidden), hidden, generator)
            params[f"{name}.bias_ih"] = uniform_((4 * hidden,), hidden, generator)
            params[f"{name}.bias_hh"] = uniform_((4 * hidden,), hidden, generator)
        params["head.weight"] = uniform_((outputs, hidden), hidden, generator)
        params["head.bias"] = uniform_((outputs,), hidden, generator)
        return params, {}

    def features(params: Params, stats: Params, x: Tensor, train: bool, seed: Tensor) -> tuple[Tensor, Params]:
        table = params["embedding.weight"]
        # not F.embedding: under vmap it reads another node's table where a number is too large
        one_hot = x.long().T[..., None] == torch.arange(vocabulary, device=x.device)
        steps = one_hot.to(table.dtype) @ table
        for name in names:
            steps = _layer(params, name, steps)
        return steps[-1], {}

    return with_head(initial, features, outputs, f"lstm {vocabulary}-{embedding}" + f"-{hidden}" * layers)


def _layer(params: Params, name: str, x: Tensor) -> Tensor:
    """One LSTM layer from zero states. x: (length, n, inputs). Returns the hidden states (length, n, hidden).

    Explicit, since torch.nn.LSTM falls back to a loop under vmap, and warns.
    """
    bias = params[f"{name}.bias_ih"] + params[f"{name}.bias_hh"]
    recurrent = params[f"{name}.weight_hh"].T
    # inputs of all steps in one product; only the hidden state's part is sequential
    first, *others = F.linear(x, params[f"{name}.weight_ih"], bias).unbind()
    out, cell = _cell(first, None)
    states = [out]
    for given in others:
        out, cell = _cell(given + out @ recurrent, cell)
        states.append(out)
    return torch.stack(states)


def _cell(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """One step: from gate pre-activations (n, 4 hidden) and the cell to the hidden state and cell (n, hidden)."""
    into, forget, candidate, output = gates.chunk(4, -1)
    new = into.sigmoid() * candidate.tanh()
    cell = new if cell is None else forget.sigmoid() * cell + new
    return output.sigmoid() * cell.tanh(), cell
