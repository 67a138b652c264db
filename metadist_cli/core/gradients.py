"""Gradients of functions of Params, inside vmap and outside, to any order."""

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
    """params -> (d value / d params, (value, aux)) of f(params) -> (value, aux), as torch.func.grad_and_value has it.

    constant: whoever differentiates around it shall take the gradient for one, so that nothing of it is recorded.
    Where nothing is transformed, by plain autograd, whose steps cost less.
    """

    def plain(params: Params) -> tuple[Params, tuple[Tensor, Aux]]:
        depth, around = getattr(_nested, "depth", 0), getattr(_nested, "recorded", False)
        outside = torch.is_grad_enabled() and any(v.requires_grad for v in params.values())
        recorded = not constant and (depth > 0 or outside)
        _nested.depth, _nested.recorded = depth + 1, recorded
        try:
            with torch.enable_grad():
                # a view: what f reaches in other ways counts as a constant
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
        found = torch.func.grad_and_value(f, has_aux=True)(tree.apply(torch.detach, params))  # before, to record less
        return tree_map_only(Tensor, torch.detach, found)

    return run


def transformed() -> bool:
    """Whether torch.func or torch.compile is at work around the caller."""
    stack = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
    return torch.compiler.is_compiling() or stack() is not None


def once() -> bool:
    """Whether what is computed here is differentiated at most once, and by plain autograd: it is no part of an inner
    step that an outer gradient goes through."""
    return not transformed() and not getattr(_nested, "recorded", False)
