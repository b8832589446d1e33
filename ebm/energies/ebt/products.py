"""Matrix products that oneDNN computes on a CPU, differentiable as often as one likes.

torch multiplies float32 matrices on a CPU by MKL, which runs at half of oneDNN's speed on
processors that are not Intel's (AMD EPYC, one core: 105 against 240 GFLOP/s), and no slower on the
others. A product's derivatives are products, so they are taken here, too. Everywhere else (another
device or dtype, under autocast, small products, a compiler) `linear` is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm.energies.ebt.kernels import Kernel, is_wanted

MANY = 2**21  # multiplications: with fewer, MKL is as fast, and torch's own linear costs less around it
ROWS = 8  # with fewer rows or columns it is no product of matrices that counts
_plain = False
Grads = tuple[Tensor | None, ...]


@contextmanager
def by_torch() -> Iterator[None]:
    """Leaves all products to torch, whose derivatives are also computed where nobody wants them."""
    global _plain
    _plain, before = True, _plain
    try:
        yield
    finally:
        _plain = before


class Linear(nn.Linear):
    """Computes x Wᵀ + b by `linear`: an `nn.Linear` in all else."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes x Wᵀ + b of x (..., k), a weight W (m, k) and a bias b (m,): (..., m).

    >>> x, weight = torch.randn(4, 16, 8, requires_grad=True), torch.randn(12, 8)
    >>> torch.allclose(linear(x, weight), x @ weight.T, atol=1e-5)
    True
    """
    if not _is_ours(x, weight):
        return F.linear(x, weight, bias)
    return _Product.apply(x, weight, bias)


def along(x: Tensor, weight: Tensor) -> Tensor:
    """Computes ⟨x, w⟩ of x (..., k) and w (k,), in their own precision: autocast would round it.

    Energies are such products, and candidates are judged by their differences.

    >>> along(torch.ones(2, 3, 4), torch.ones(4))
    tensor([[4., 4., 4.],
            [4., 4., 4.]])
    """
    if torch.is_autocast_enabled(x.device.type):
        return (x * weight).sum(-1)
    return x @ weight


def _is_ours(x: Tensor, weight: Tensor) -> bool:
    if _plain or not (x.is_cpu and weight.is_cpu and x.dtype == weight.dtype == torch.float32):
        return False
    if x.numel() * len(weight) < MANY or min(x.numel() // x.shape[-1], *weight.shape) < ROWS:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


class _Product(Kernel):
    """Computes a bᵀ + c of a (..., k), b (m, k) and c (m,) or None."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        rows = a.reshape(-1, a.shape[-1])
        if not (b.is_contiguous() or b.t().is_contiguous()):
            b = b.contiguous()  # oneDNN has no fast kernel for a second factor with gaps, and takes a thousand times as long
        return torch.ops.mkldnn._linear_pointwise(rows, b, c, "none", [], "").view(*a.shape[:-1], len(b))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Grads:
        a, b, c = ctx.saved_tensors
        # A sampler asks for the gradient of y alone: then no weight's is computed.
        d_a = _Product.apply(g, b.t(), None) if is_wanted(a) else None
        d_b = d_c = None
        if is_wanted(b):
            a, rows = a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
            if rows.shape[1] <= a.shape[1]:  # oneDNN copies a first factor that is transposed: let it be the narrower
                d_b = _Product.apply(rows.t(), a.t(), None)
            else:
                d_b = _Product.apply(a.t(), rows.t(), None).t()
        if c is not None and is_wanted(c):
            d_c = g.sum(tuple(range(g.ndim - 1)))
        return d_a, d_b, d_c
