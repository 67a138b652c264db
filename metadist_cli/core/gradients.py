"""Gradients with respect to trees of parameters, of any order, inside and outside vmap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from metadist_cli.core import tree
from metadist_cli.core.tree import Params

Aux = TypeVar("Aux")
_nested = threading.local()


def grad_and_value(
    f: Callable[[Params], tuple[Tensor, Aux]], constant: bool = False
) -> Callable[[Params], tuple[Params, tuple[Tensor, Aux]]]:
    """Differentiate a function of parameters, as torch.func.grad_and_value(f, has_aux=True) does.

    Outside torch.func transformations it uses plain autograd, which has less overhead.

    Args:
        f: f(params) -> (0-d value, aux).
        constant: Whether an outer derivative treats the gradient as a constant (first-order methods); nothing is then
            recorded for it.

    Returns:
        A function params -> (d value / d params, (value, aux)); the gradient has the names and shapes of params.
    """

    def plain(params: Params) -> tuple[Params, tuple[Tensor, Aux]]:
        depth, around = getattr(_nested, "depth", 0), getattr(_nested, "recorded", False)
        outside = torch.is_grad_enabled() and any(v.requires_grad for v in params.values())
        recorded = not constant and (depth > 0 or outside)
        _nested.depth, _nested.recorded = depth + 1, recorded
        try:
            with torch.enable_grad():
                # views, so that f's other references to these tensors count as constants
                own = {k: v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for k, v in params.items()}
                value, aux = f(own)
        finally:
            _nested.depth, _nested.recorded = depth, around
        leaves = list(own.values())
        if leaves and value.requires_grad:
            slopes = torch.autograd.grad(value, leaves, create_graph=recorded, materialize_grads=True)
        else:
            slopes = [torch.zeros_like(v) for v in leaves]
        found = dict(zip(own, slopes, strict=True)), (value, aux)
        return found if recorded else tree_map_only(Tensor, torch.detach, found)

    def run(params: Params) -> tuple[Params, tuple[Tensor, Aux]]:
        if not transformed():
            return plain(params)
        if not constant:
            return torch.func.grad_and_value(f, has_aux=True)(params)
        fixed = tree.apply(torch.detach, params)  # detaching the input as well records less
        return tree_map_only(Tensor, torch.detach, torch.func.grad_and_value(f, has_aux=True)(fixed))

    return run


def clipped(gradient: Params, limit: float | None) -> Params:
    """Shorten a gradient to a norm of at most `limit`, over all leaves together; differentiable, and None leaves it.

    R. Pascanu, T. Mikolov, Y. Bengio, On the Difficulty of Training Recurrent Neural Networks, ICML 2013,
    https://arxiv.org/abs/1211.5063, algorithm 1. A gradient within the limit keeps its bits.
    """
    if limit is None or not gradient:
        return gradient
    largest = torch.stack([v.detach().abs().amax() for v in gradient.values()]).amax()
    unit = largest.clamp(min=limit)  # so that no square overflows
    square = torch.stack([(v / unit).square().sum() for v in gradient.values()]).sum()
    most = (limit / unit).square()
    factor = torch.where(square > most, limit / unit * square.clamp(min=most).rsqrt(), 1.0)
    return tree.apply(lambda v: v * factor, gradient)


def transformed() -> bool:
    """Whether the caller runs inside a torch.func transformation or torch.compile."""
    stack = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
    return torch.compiler.is_compiling() or stack() is not None


def once() -> bool:
    """Whether the caller's result is differentiated at most once, by plain autograd.

    True unless the caller runs inside a transformation or in an inner step that an outer gradient passes through.
    """
    return not transformed() and not getattr(_nested, "recorded", False)
