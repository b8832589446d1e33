"""What was seen of a picture, as an energy: how far the picture is from explaining it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ebm.energies.restoration.operators import Blurred as Blurred
from ebm.energies.restoration.operators import Linear
from ebm.energies.restoration.operators import Masked as Masked
from ebm.energies.restoration.operators import gaussian as gaussian
from ebm.interfaces import Unconditional, left


class Observed(Unconditional):
    """Scores pictures by how badly they explain what was seen of them, b = A x + noise:

        E(x) = |A x − b|² / (2 s²),

    a likelihood to add to a prior: `prior + Observed(operator, seen, std)`. `prox` solves
    argmin_z |z − y|²/2 + ε E(z) for a linear operator by conjugate gradients, which
    `ProximalGradient` asks for. It is computed in the numbers' own precision, also under autocast.

    Arguments:
        operator: A, a function of pictures (rows, C, H, W), linear for `prox`; its transpose is its
            derivative's. A module, a transform of torchvision or a physics of deepinv (without its
            noise) will do: see `ebm.energies.restoration.operators.Linear`.
        seen: b, of any shape that A gives a picture, or one for each row.
        std: s, of the noise, in units of b.
        iterations: of conjugate gradients, at most.

    Raises:
        ValueError: the std is not positive; at the call, what the operator makes has another shape
            than what was seen; at `prox`, the operator is not linear.
        FloatingPointError: `prox` did not come nearer, since the data are too exact for the numbers'
            precision.

    >>> half = Observed(lambda x: x / 2, torch.ones(1, 2, 2), std=0.1)
    >>> half(torch.zeros(3, 1, 2, 2)), half.prox(torch.zeros(1, 1, 2, 2), 1e6)[0, 0, 0].round(decimals=3)
    (tensor([200., 200., 200.]), tensor([2., 2.]))
    """

    seen: Tensor

    def __init__(self, operator: Any, seen: Tensor, std: float, iterations: int = 50) -> None:
        super().__init__()
        if not 0 < std < math.inf or iterations < 1:
            raise ValueError(f"std={std}, iterations={iterations}: pass a positive deviation, and at least 1 iteration")
        if not isinstance(seen, Tensor) or seen.ndim == 0:
            raise ValueError(f"seen is {type(seen).__name__}: pass a tensor, what the operator makes of one picture")
        self.operator = operator if isinstance(operator, Linear) else Linear(operator)
        self.std, self.iterations = std, iterations
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        """Maps pictures (*chains, C, H, W) to energies (*chains,)."""
        with torch.autocast(y.device.type, enabled=False):
            return self._error(y).flatten(y.ndim - 3).square().sum(-1) / (2 * self.std**2)

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Solves (1 + ε AᵀA/s²) z = y + ε Aᵀb/s² for pictures (*chains, C, H, W), from z = y."""
        weight = torch.as_tensor(step, dtype=y.dtype, device=y.device) / self.std**2
        rows = y.reshape(-1, *y.shape[-3:])
        weight = left(weight.expand(y.shape[:-3]).reshape(-1), rows)
        with torch.autocast(y.device.type, enabled=False):
            return self._solved(rows, self._error(y).flatten(0, y.ndim - 4), weight).reshape(y.shape)

    def _solved(self, y: Tensor, error: Tensor, weight: Tensor) -> Tensor:
        transposed = self.operator.transposed(y)

        def applied(z: Tensor) -> Tensor:
            return z + weight * transposed(self.operator(z))

        z, rest = torch.zeros_like(y), -weight * transposed(error)
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
            raise FloatingPointError(f"{what}: pass a larger std, a smaller step or float64")
        return y + z

    def _error(self, y: Tensor) -> Tensor:
        """Computes A y − b (*chains, *b)."""
        found = self.operator(y.reshape(-1, *y.shape[-3:]))
        if (made := found.shape[1:]) != self.seen.shape[-len(made) :]:
            what = f"the operator makes {tuple(made)} of {tuple(y.shape[-3:])}, and {tuple(self.seen.shape)} was seen"
            raise ValueError(f"{what}: pass the operator that it was seen by")
        return found.reshape(*y.shape[:-3], *made) - self.seen


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-3, -2, -1), keepdim=True)
