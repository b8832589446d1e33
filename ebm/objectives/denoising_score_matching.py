"""Denoising score matching: the slope at a noised point should point along its noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ebm.interfaces import (
    Batch,
    EnergyFn,
    Loss,
    Objective,
    bind,
    check_configuration,
    energy_and_grad,
    interface_of,
    left,
    levels_of,
)
from ebm.objectives.ladder import at_rows, spread
from ebm.objectives.start import same_rows
from ebm.randomness import randn_like
from ebm.samplers.schedules import noise_levels


class DenoisingScoreMatching(Objective):
    """Fits the score −∇E of data noised by σ, at one noise level or at a ladder of them.

        L = E ½ ‖σ ∇E(x + σ ξ) − ξ‖²,    ξ ~ N(0, I),

    summed over event axes: σ² times the score matching loss. A ladder σ_0 … σ_{L−1} spreads rows
    evenly over levels, one per landscape; a single landscape learns all of them.
    Source: Vincent, 2011, eq. (9); ladder: Song and Ermon, 2019 (arXiv 1907.05600), eq. (5), (6).
    Terms: energy_data, grad_norm (both at noised points), and loss_i for every landscape.

    Arguments:
        sigma: σ, or a ladder in the order of the energy's landscapes.

    >>> g, energy = torch.Generator().manual_seed(0), lambda y: (y**2).sum(-1) / 2 / (1 + 0.5**2)
    >>> batch, objective = Batch(torch.randn(100_000, 1, generator=g)), DenoisingScoreMatching(0.5)
    >>> round(objective(energy, batch, generator=g).value.item(), 2)    # ½ / (1 + σ²)
    0.4
    """

    def __init__(self, sigma: float | Sequence[float] = 0.1) -> None:
        super().__init__()
        self.sigma = noise_levels(sigma)

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        """Computes the loss of a batch; `start` replaces the noised points."""
        energy = interface_of(energy)  # once, and not for each level
        levels = levels_of(energy)
        if levels not in (1, len(self.sigma)):
            raise ValueError(f"{len(self.sigma)} noise levels for an energy with {levels} landscapes: pass one sigma for each")
        if start is not None and len(self.sigma) > 1:
            raise ValueError("start is the noised points of one level: it cannot be given with a ladder")
        check_configuration(batch.target, generator)
        groups = spread(batch.target, len(self.sigma), generator)
        sigma = at_rows(self.sigma, groups, batch.target)
        noise = (
            randn_like(batch.target, generator)
            if start is None
            else (same_rows(start, batch.target) - batch.target) / left(sigma, start)
        )
        noised = batch.target + left(sigma, noise) * noise
        parts = {level: batch.rows(rows) for level, rows in groups.items()} if levels > 1 else {}
        graph = torch.is_grad_enabled()
        if levels == 1:
            value, grad = energy_and_grad(bind(energy, batch.context), noised, create_graph=graph)
        else:  # level by level, and put back into the order of rows
            functions = [(bind(energy, part.context, level), groups[level]) for level, part in parts.items()]
            found = [energy_and_grad(one, noised[rows], create_graph=graph) for one, rows in functions]
            order = torch.cat([*groups.values()]).argsort()
            value, grad = (torch.cat(column)[order] for column in zip(*found, strict=True))
        loss = (left(sigma, noised) * grad - noise).reshape(*value.shape, -1).square().sum(-1) / 2
        norm = grad.detach().reshape(*value.shape, -1).norm(dim=-1)
        terms = {"energy_data": batch.mean(value.detach()), "grad_norm": batch.mean(norm)}
        by_level = {f"loss_{level}": part.mean(loss.detach()[groups[level]]) for level, part in parts.items()}
        return Loss(batch.mean(loss), terms | by_level)
