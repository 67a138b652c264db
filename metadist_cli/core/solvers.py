"""Differentiable solvers for an output layer: ridge regression and the Crammer-Singer support vector machine.

Luca Bertinetto, Joao F. Henriques, Philip H. S. Torr, Andrea Vedaldi. "Meta-learning with differentiable closed-form
solvers." ICLR 2019. https://arxiv.org/abs/1805.08136
Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran, Stefano Soatto. "Meta-Learning with Differentiable Convex
Optimization." CVPR 2019. https://arxiv.org/abs/1904.03758
Koby Crammer, Yoram Singer. "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines." JMLR 2001.
Sanjay Mehrotra. "On the Implementation of a Primal-Dual Interior Point Method." SIAM Journal on Optimization 1992.

Lee et al. add 1 to the diagonal of the kernel and run 3 to 15 iterations of OptNet; this solver runs to convergence.
Both solvers compute in float64 and return the dtype of their input. Each public function takes one task; vmap adds
tasks and nodes. Odd sizes are padded by one unknown that is coupled to no other: with odd matrices, every other task of
a batch is not aligned to 16 bytes, and MKL rounds it differently. The padding makes a task's bits independent of its
neighbours (tested with MKL on x86, not on GPUs). Legend: T tasks, n support examples, W way, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from metadist_cli.core.errors import CONFIG, Problem

_JITTER = 1e-9  # of the mean diagonal: makes coinciding points solvable; less harms the gradient, more the gap
_MIN_DIAGONAL = 1e-20  # for features that are all zero
_MAX_ITERATIONS = 100  # 10 to 20 are usual, plus five per power of ten that the features' norm exceeds 10
_TOLERANCE = 1e-20  # mean complementarity over squared weights; with 1e-15 the gradient can be off by 1e-3
_FAILED_ABOVE = 1e-8  # a larger remaining complementarity means that no solution was found


def ridge(x: Tensor, y: Tensor, penalty: float | Tensor) -> Tensor:
    """Ridge regression: the w that minimises |x w^T - y|^2 + penalty |w|^2 (Bertinetto et al., section 3.2).

    Solves a system of min(n, F) unknowns. Differentiable to any order.

    Args:
        x: (n, F) features.
        y: (n, W) one-hot labels or target values.
        penalty: Positive number or 0-d tensor; a tensor gets a gradient.

    Returns:
        (W, F) weights in the dtype of x.
    """
    n, features = x.shape
    wide, targets = F.pad(x.double(), (0, features % 2, 0, n % 2)), F.pad(y.double(), (0, 0, 0, n % 2))
    unit = penalty * torch.eye(min(wide.shape), dtype=wide.dtype, device=x.device)
    if n <= features:
        weight = torch.linalg.solve(wide @ wide.mT + unit, targets).mT @ wide
    else:
        weight = torch.linalg.solve(wide.mT @ wide + unit, wide.mT @ targets).mT
    return weight[:, :features].to(x.dtype)


def crammer_singer(kernel: Tensor, y: Tensor, c: float) -> Tensor:
    """Solve the dual of the multiclass support vector machine (Lee et al., section 3.2).

    Maximises <a, y> - 1/2 tr(a^T kernel a) subject to a <= c y and zero row sums; the output weights are a^T x. Only
    the kernel gets a gradient, by implicit differentiation; it is discontinuous where an example becomes or stops being
    a support vector. Under vmap a solved task stays frozen while its neighbours go on.

    Args:
        kernel: (n, n) Gram matrix x x^T of the support features.
        y: (n, W) one-hot labels.
        c: Positive regularisation constant: larger values penalise margin violations more.

    Returns:
        (n, W) dual variables a in the dtype of the kernel; NaN if the kernel is not finite or no solution was found.

    Raises:
        Problem: CONFIG, when a second derivative is taken.
    """
    n, spare = len(y), len(y) % 2
    wide, like = kernel.double(), {"dtype": torch.float64, "device": kernel.device}
    share = F.pad(torch.full((n,), _JITTER, **like), (0, spare), value=1.0)
    added = torch.diag(share * wide.diagonal().mean() + _MIN_DIAGONAL)
    targets = torch.cat([y.double(), torch.eye(spare, y.shape[1], **like)])
    alpha, _ = _CrammerSinger.apply(F.pad(wide, (0, spare, 0, spare)) + added, targets, c)
    return alpha[:n].to(kernel.dtype)


def duality_gap(kernel: Tensor, y: Tensor, c: float, alpha: Tensor) -> Tensor:
    """Primal minus dual objective of `crammer_singer`: zero at the solution, positive elsewhere.

    Args:
        kernel: (n, n) Gram matrix.
        y: (n, W) one-hot labels.
        c: Regularisation constant.
        alpha: (n, W) feasible dual variables.

    Returns:
        0-d tensor.
    """
    out = kernel @ alpha
    slack = (out + 1 - y).amax(-1) - (out * y).sum(-1)
    return c * slack.sum() + (alpha * out).sum() - (alpha * y).sum()


class _CrammerSinger(Function):
    """kernel (..., n, n), y (..., n, W), c -> alpha and z / (c b) of `_solve`, both (..., n, W)."""

    @staticmethod
    def forward(kernel: Tensor, y: Tensor, c: float) -> tuple[Tensor, Tensor]:
        alpha, ratio = _solve(_flat(kernel), _flat(y), c)
        return alpha.reshape(y.shape), ratio.reshape(y.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Adjoint.apply(*ctx.saved_tensors, grads[0]), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], kernel: Tensor, y: Tensor, c: float):
        kernel, y = (_front(v, dim, info.batch_size) for v, dim in zip((kernel, y), in_dims[:2], strict=True))
        return _CrammerSinger.apply(kernel, y, c), (0, 0)


class _Adjoint(Function):
    """kernel (..., n, n); alpha, z / (c b), gradient to alpha, all (..., n, W) -> gradient to the kernel (..., n, n).

    Implicit differentiation of the optimality conditions: a change of the kernel acts as the force change @ alpha, and
    the last Newton matrix gives the response; variables at a bound are held there by their large ratio.
    """

    @staticmethod
    def forward(kernel: Tensor, alpha: Tensor, ratio: Tensor, grad: Tensor) -> Tensor:
        solve, regular = _newton(_flat(kernel), _flat(ratio))
        moved, _ = solve(_flat(grad))
        outer = moved @ _flat(alpha).mT
        return torch.where(regular, -(outer + outer.mT) / 2, torch.nan).reshape(kernel.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        raise Problem(
            "the support vector machine cannot be differentiated twice",
            hint="use a first-order learner with it, or ridge, which has derivatives of any order",
            code=CONFIG,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor):
        batched = (_front(v, dim, info.batch_size) for v, dim in zip(tensors, in_dims, strict=True))
        return _Adjoint.apply(*batched), 0


def _front(value: Tensor, dim: int | None, size: int) -> Tensor:
    return value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)


def _flat(value: Tensor) -> Tensor:
    """Flatten all leading axes into one: (..., n, m) -> (T, n, m)."""
    return value.reshape(value.shape[:-2].numel(), *value.shape[-2:])


def _solve(kernel: Tensor, y: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Mehrotra's predictor-corrector method: (T, n, n), (T, n, W) one-hot -> alpha, z / (c b), both (T, n, W).

    Works in b = y - alpha / c, whose rows lie on the simplex: minimise 1/2 tr((b - y)^T c kernel (b - y)) + <b, y>,
    with z the multipliers of b >= 0 and s those of the row sums. The starting point satisfies every condition except
    b z = 0 and later steps keep them, so the mean of b z alone measures convergence.
    """
    kernel, other = c * kernel, 1 - y

    def shift(b: Tensor) -> Tensor:
        """b - y without cancellation: features of large norm drive b towards y."""
        off = b * other
        return off - y * off.sum(-1, keepdim=True)

    def state(b: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = shift(b)
        gradient = kernel @ d
        return gradient, (b * z).mean((-2, -1), keepdim=True), (d * gradient).sum((-2, -1), keepdim=True)

    b = torch.full_like(y, 1 / y.shape[-1])
    slope = kernel @ shift(b) + y
    s = slope.amax((-2, -1))[:, None, None] - 2 * slope.amin(-1, keepdim=True)
    z = slope + s
    gradient, mu, norm = state(b, z)
    stop = torch.zeros_like(mu, dtype=torch.bool)
    for _ in range(_MAX_ITERATIONS):
        stop = stop | (mu <= _TOLERANCE * norm)
        if stop.all():
            break
        solve, regular = _newton(kernel, z / b)
        right = -(gradient + y + s)
        db, _ = solve(right)
        dz = -z - z / b * db
        ahead = ((b + _stride(b, db) * db) * (z + _stride(z, dz) * dz)).mean((-2, -1), keepdim=True)
        centre = ((ahead / mu) ** 3 * mu - db * dz) / b
        db, ds = solve(right + centre)
        dz = centre - z - z / b * db
        step = (1 - (mu / norm).clamp(1e-6, 5e-3)) * torch.minimum(_stride(b, db), _stride(z, dz))
        stop = stop | ~regular | ~step.isfinite()
        b, z, s = (torch.where(stop, old, old + step * new) for old, new in ((b, db), (z, dz), (s, ds)))
        gradient, mu, norm = state(b, z)
    return torch.where(mu <= _FAILED_ABOVE * norm, -c * shift(b), torch.nan), z / (c * b)


def _newton(kernel: Tensor, ratio: Tensor) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Tensor]:
    """kernel (T, n, n), ratio (T, n, W) -> solve, and whether its matrices are positive definite (T, 1, 1).

    solve(right (T, n, W)) -> p (T, n, W), s (T, n, 1): (kernel + diag(ratio_k)) p_k + s = right_k for each class k, and
    each row of p sums to 0.
    """
    factors, failed = torch.linalg.cholesky_ex(kernel[:, None] + torch.diag_embed(ratio.mT))
    inverses = torch.cholesky_inverse(factors)  # (T, W, n, n)
    coupling, coupling_failed = torch.linalg.cholesky_ex(inverses.sum(1))

    def each(right: Tensor) -> Tensor:
        return (inverses @ right.mT[..., None])[..., 0].mT

    def solve(right: Tensor) -> tuple[Tensor, Tensor]:
        free = each(right)
        s = torch.cholesky_solve(free.sum(-1, keepdim=True), coupling)
        return free - each(s.expand_as(right)), s

    return solve, (failed.sum(-1) + coupling_failed == 0)[:, None, None]


def _stride(value: Tensor, step: Tensor) -> Tensor:
    """Longest step <= 1 that leaves the value (T, n, W) >= 0 -> (T, 1, 1)."""
    return torch.where(step < 0, -value / step, 1.0).amin((-2, -1), keepdim=True).clamp(max=1.0)
