"""An energy with a quadratic prior, which keeps chains from escaping."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ebm.interfaces import EnergyFn, Modified


class WithPrior(Modified):
    """Adds a quadratic prior to an energy, so that no chain escapes: E(y) + |y|² / (2σ²).

    The density is multiplied by N(0, σ²). The norm runs over each chain's event: the axes of y that
    the energy's output does not have.

    Arguments:
        energy: an energy, or a function of y.
        std: σ, in units of y; a positive number.

    >>> WithPrior(lambda y: y.sum((-3, -2, -1)), std=2.0)(torch.ones(3, 1, 2, 2))
    tensor([4.5000, 4.5000, 4.5000])
    """

    def __init__(self, energy: EnergyFn, std: float = 1.0) -> None:
        super().__init__(energy)
        if not 0 < std < math.inf:
            raise ValueError(f"WithPrior(std={std}): pass a positive number")
        self.std = std

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        energy = self.energy(y, code)
        # With an axis added, so that one is left where a chain is a number.
        event = y[..., None].flatten(energy.ndim)
        return energy + event.square().sum(-1) / (2 * self.std**2)

    def extra_repr(self) -> str:
        return f"std={self.std:g}"
