"""Equilibrium matching: one landscape whose slope leads from noise to data and vanishes there."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, bind, check_configuration, energy_and_grad, left
from ebm.objectives.start import same_rows
from ebm.randomness import randn_like


class EquilibriumMatching(Objective):
    """Fits an energy's slope along straight paths from noise ε to data x, where it vanishes.

        L = E ‖∇E(x_γ) − c(γ) (ε − x)‖²,    x_γ = γ x + (1 − γ) ε,    γ ~ U(0, 1),
        c(γ) = λ min(1, (1 − γ) / (1 − a)),

    summed over event axes. Descents from noise make samples (the paper's: `GradientDescent` with
    Nesterov's momentum), not draws of exp(−E). Only the last of several landscapes is trained.
    Source: Wang and Du, 2025 (arXiv 2510.02300), EqM-E with truncated decay.
    Terms: energy_data, grad_norm (both on the paths).

    Arguments:
        cutoff: a in [0, 1): where on the path the target begins to fall.
        multiplier: λ > 0, the size of the target.

    >>> g, toward = torch.Generator().manual_seed(0), lambda y: (y - 1).square().sum(-1)
    >>> aim, batch = EquilibriumMatching(), Batch(torch.ones(1000, 2))
    >>> away = aim(lambda y: -toward(y), batch, generator=g)
    >>> bool(aim(toward, batch, generator=g).value < away.value)
    True
    """

    def __init__(self, cutoff: float = 0.8, multiplier: float = 4.0) -> None:
        super().__init__()
        if not 0 <= cutoff < 1 or not 0 < multiplier < math.inf:
            raise ValueError(f"cutoff={cutoff}, multiplier={multiplier}: pass a cutoff in [0, 1), and a positive multiplier")
        self.cutoff, self.multiplier = float(cutoff), float(multiplier)

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        """Computes the loss of a batch; `start` replaces the noise ε."""
        x = batch.target
        check_configuration(x, generator)
        epsilon = randn_like(x, generator) if start is None else same_rows(start, x)
        gamma = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
        point = torch.lerp(epsilon, x, left(gamma, x))
        value, grad = energy_and_grad(bind(energy, batch.context), point, create_graph=torch.is_grad_enabled())
        target = left(self.multiplier * decay(gamma, self.cutoff), x) * (epsilon - x)
        error = (grad - target).reshape(*value.shape, -1).square().sum(-1)
        norm = grad.detach().reshape(*value.shape, -1).norm(dim=-1)
        return Loss(batch.mean(error), {"energy_data": batch.mean(value.detach()), "grad_norm": batch.mean(norm)})


def decay(t: Tensor, cutoff: float) -> Tensor:
    """Computes min(1, (1 − t)/(1 − cutoff)): 1 up to the cutoff, then down to 0 at t = 1.

    >>> decay(torch.tensor([0.0, 0.5, 0.75, 1.0]), cutoff=0.5)
    tensor([1.0000, 1.0000, 0.5000, 0.0000])
    """
    return torch.ones_like(t) if cutoff == 1 else ((1 - t) / (1 - cutoff)).clamp(max=1)
