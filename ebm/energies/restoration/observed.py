"""What was seen of a picture, as an energy: how far the picture is from explaining it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebm.interfaces import Unconditional, left


class Observed(Unconditional):
    """Scores pictures by how badly they explain what was seen of them, b = A x + noise:

        E(x) = |A x − b|² / (2 s²),

    a likelihood to add to a prior: `prior + Observed(operator, seen, std)`. `prox` solves
    argmin_z |z − y|²/2 + ε E(z) for a linear operator by conjugate gradients, which
    `ProximalGradient` asks for.

    Arguments:
        operator: A, a function of pictures (rows, C, H, W), linear for `prox`; its transpose is its
            derivative's. A module or a physics of deepinv will do.
        seen: b (C', H', W'), or one for each row.
        std: s, of the noise, in units of b.
        iterations: of conjugate gradients, at most.

    Raises:
        ValueError: the std is not positive; at the call, what the operator makes has another shape
            than what was seen.
        FloatingPointError: `prox` did not come nearer, since the operator is not linear, or the data
            too exact for the numbers' precision.

    >>> half = Observed(lambda x: x / 2, torch.ones(1, 2, 2), std=0.1)
    >>> half(torch.zeros(3, 1, 2, 2)), half.prox(torch.zeros(1, 1, 2, 2), 1e6)[0, 0, 0].round(decimals=3)
    (tensor([200., 200., 200.]), tensor([2., 2.]))
    """

    seen: Tensor

    def __init__(self, operator: Callable[[Tensor], Tensor], seen: Tensor, std: float, iterations: int = 50) -> None:
        super().__init__()
        if not 0 < std < math.inf or iterations < 1:
            raise ValueError(f"std={std}, iterations={iterations}: pass a positive deviation, and at least 1 iteration")
        self.operator, self.std, self.iterations = operator, std, iterations
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        """Maps pictures (*chains, C, H, W) to energies (*chains,)."""
        return self._error(y).square().sum((-3, -2, -1)) / (2 * self.std**2)

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Solves (1 + ε AᵀA/s²) z = y + ε Aᵀb/s² for pictures (*chains, C, H, W), from z = y."""
        weight = torch.as_tensor(step, dtype=y.dtype, device=y.device) / self.std**2
        weight = left(weight.expand(y.shape[:-3]), y)
        found: Any = torch.func.vjp(self._error, y)
        error, transposed = found

        def applied(z: Tensor) -> Tensor:
            return z + weight * transposed(self._applied(z))[0]

        z, rest = torch.zeros_like(y), -weight * transposed(error)[0]
        towards, size = rest, _dot(rest, rest)
        first, least = size, 1e-10 * size
        for _ in range(self.iterations):
            if bool((size <= least).all()):
                break
            image = applied(towards)
            ratio = size / _dot(towards, image).clamp(min=torch.finfo(y.dtype).tiny)
            z, rest = z + ratio * towards, rest - ratio * image
            size, before = _dot(rest, rest), size
            towards = rest + size / before.clamp(min=torch.finfo(y.dtype).tiny) * towards
        if not bool((size <= first).all()):  # nor where it is NaN
            what = f"conjugate gradients in {y.dtype} went astray after {self.iterations} iterations"
            raise FloatingPointError(
                f"{what}: pass a larger std, a smaller step or float64, or check that the operator is linear"
            )
        return y + z

    def _applied(self, y: Tensor) -> Tensor:
        found = self.operator(y.reshape(-1, *y.shape[-3:]))
        if found.shape[1:] != self.seen.shape[-3:]:
            what = f"the operator makes {tuple(found.shape[1:])} of {tuple(y.shape[-3:])}, and {tuple(self.seen.shape)} was seen"
            raise ValueError(f"{what}: pass the operator that it was seen by")
        return found.reshape(*y.shape[:-3], *found.shape[1:])

    def _error(self, y: Tensor) -> Tensor:
        return self._applied(y) - self.seen


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-3, -2, -1), keepdim=True)


class Masked(nn.Module):
    """Keeps the pixels of pictures (rows, C, H, W) where a mask (H, W) is true, and makes others 0.

    >>> Masked(torch.tensor([[True, False]]))(torch.ones(1, 1, 1, 2))
    tensor([[[[1., 0.]]]])
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept.bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept.to(x.dtype)


class Blurred(nn.Module):
    """Blurs pictures (rows, C, H, W) by a kernel (k, k) of odd side, mirrored at the edge, and keeps
    every n-th pixel of each side.

    >>> Blurred(torch.ones(3, 3) / 9, every=2)(torch.ones(1, 1, 5, 6)).shape
    torch.Size([1, 1, 3, 3])
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, every: int = 1) -> None:
        super().__init__()
        if kernel.ndim != 2 or any(size % 2 == 0 for size in kernel.shape) or every < 1:
            raise ValueError(f"kernel {tuple(kernel.shape)}, every={every}: pass odd sides, and a number of at least 1")
        self.every = every
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (size // 2 for size in self.kernel.shape)
        wide = nn.functional.pad(x, (columns, columns, rows, rows), mode="reflect")
        kernel = self.kernel.to(x)[None, None].expand(x.shape[1], 1, *self.kernel.shape)
        return nn.functional.conv2d(wide, kernel, stride=self.every, groups=x.shape[1])


def gaussian(sigma: float) -> Tensor:
    """Makes a Gaussian kernel (k, k) of a deviation in pixels, cut off at four, that adds up to 1."""
    reach = max(1, math.ceil(4 * sigma))
    line = (-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2)).exp()
    kernel = torch.outer(line, line)
    return kernel / kernel.sum()
