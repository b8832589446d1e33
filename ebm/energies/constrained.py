"""Constrained: an energy of positive, bounded, ordered … variables, over coordinates without bounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map  # private, but what torch.func itself maps trees by

from ebm.energies.transforms import Confines, as_transform
from ebm.interfaces import EnergyFn, Modified


class Constrained(Modified):
    """Scores unconstrained z (*chains, *event) for an energy of constrained y = T(z):

        E'(z) = E(T(z)) − log|det ∂T/∂z|,

    so that samples of exp(−E') over all of Rⁿ, through T, are samples of exp(−E) over the set. Any
    sampler moves z freely; `constrain` gives y back, `unconstrain` a start. Contexts and landscapes
    are the energy's. Minima are not carried over: to find the y of least energy, descend E.
    Source: change of variables; Kucukelbir et al., 2017 (arXiv 1603.00788), section 2.3.

    Arguments:
        energy: an energy, or a function, of constrained y.
        transform: T: a `torch.distributions` Transform or Constraint (by `biject_to`), one of
            "positive", "unit-interval", "simplex" (n − 1 numbers make n), "ordered", "correlation"
            (d (d − 1)/2 numbers make a matrix d × d), "correlation-cholesky" and "real"; or a
            dict, tuple or list of them, where y is one of tensors.

    Raises:
        ValueError: for a transform without a Jacobian; at the call, where the transform's event has
            more axes than the energy's.

    >>> from torch.distributions import Gamma
    >>> from ebm.samplers import HMC
    >>> energy = Constrained(lambda y: -Gamma(3.0, 2.0).log_prob(y).sum(-1), "positive")
    >>> g, sampler = torch.Generator().manual_seed(0), HMC(0.5, leapfrog_steps=3, steps=30)
    >>> y = energy.constrain(sampler.sample(energy, torch.zeros(4000, 1), generator=g))
    >>> bool((y > 0).all()), abs(y.mean().item() - 1.5) < 0.1
    (True, True)
    """

    def __init__(self, energy: EnergyFn, transform: Confines) -> None:
        super().__init__(energy)
        self.transform = tree_map(as_transform, transform)

    def forward(self, y: Any, code: Any = None) -> Tensor:
        constrained = self.constrain(y)
        value = self.energy(constrained, code)
        moved = tree_map(lambda transform, z, y: transform.log_abs_det_jacobian(z, y), self.transform, y, constrained)
        for log_det in tree_flatten(moved)[0]:
            if log_det.shape[: value.ndim] != value.shape:
                what = f"the transform has one Jacobian for each of {tuple(log_det.shape)}, the energy's chains are"
                raise ValueError(f"{what} {tuple(value.shape)}: an energy of such y sums out the axes of its event")
            value = value - log_det.flatten(value.ndim).sum(-1) if log_det.ndim > value.ndim else value - log_det
        return value

    def constrain(self, y: Any) -> Any:
        """Maps unconstrained coordinates to y inside the set, T(z)."""
        return tree_map(lambda transform, z: transform(z), self.transform, y)

    def unconstrain(self, y: Any) -> Any:
        """Maps y inside the set to unconstrained coordinates, T⁻¹(y); ValueError if it lies outside."""

        def back(transform: Any, y: Tensor) -> Tensor:
            z: Tensor = transform.inv(y)
            again = transform(torch.where(torch.isfinite(z), z, 0.0))
            wrong = ~torch.isclose(again, y, rtol=1e-3, atol=1e-5)
            if bool(wrong.any()) or not bool(torch.isfinite(z).all()):
                what = f"y of shape {tuple(y.shape)} has values outside of what {transform} maps to, or on its border"
                raise ValueError(f"{what}, which no finite coordinate reaches: pass a start inside")
            return z

        return tree_map(back, self.transform, y)

    def extra_repr(self) -> str:
        return f"transform={self.transform}"
