"""Denoising score matching: the energy's gradient at a noised point should say which way the noise went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebm.interfaces import Batch, Energy, EnergyFn, Loss, Objective, bind, check_configuration, energy_and_grad, left
from ebm.randomness import randn_like

__all__ = ["DenoisingScoreMatching"]


class DenoisingScoreMatching(Objective):
    """Fits the score −∇E of data noised by σ, at one noise level or at a ladder of them.

        L = E ½ ‖σ ∇E(x + σ ξ) − ξ‖²,    ξ ~ N(0, I),

    which is σ² times the score matching loss at level σ, summed over a chain's event axes. It draws no samples. With a ladder
    σ_0 … σ_{L−1}, rows are spread evenly over the levels: an energy with L landscapes learns one level in each, an energy with
    a single one all of them together.

    Source: Vincent, 2011, eq. (9); weighted by σ² over a ladder: Song and Ermon, 2019 (arXiv 1907.05600), eq. (5) and (6).

    Arguments:
        sigma: the noise's standard deviation, or a ladder of them in the order of the energy's landscapes.

    Terms: energy_data, grad_norm (at the noised points), and loss_i for every landscape of a ladder.

    >>> energy = lambda y: (y**2).sum(-1) / 2 / (1 + 0.5**2)        # N(0, 1) data, noised by 0.5
    >>> g = torch.Generator().manual_seed(0)
    >>> data = torch.randn(100_000, 1, generator=g)
    >>> round(DenoisingScoreMatching(0.5)(energy, Batch(data), generator=g).value.item(), 2)    # ½ / (1 + σ²) is the minimum
    0.4
    """

    def __init__(self, sigma: float | Sequence[float] = 0.1) -> None:
        super().__init__()
        self.sigma = (float(sigma),) if isinstance(sigma, int | float) else tuple(map(float, sigma))
        if not self.sigma or not all(0 < level < math.inf for level in self.sigma):
            raise ValueError(f"sigma={sigma}: pass a positive number, or a ladder of them")

    def forward(
        self,
        energy: EnergyFn,
        batch: Batch,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Loss:
        """Computes the loss of one batch; `start` replaces the noised points."""
        levels = energy.levels if isinstance(energy, Energy) else 1
        if levels not in (1, len(self.sigma)):
            raise ValueError(f"{len(self.sigma)} noise levels for an energy with {levels} landscapes: pass one sigma for each")
        if start is not None and len(self.sigma) > 1:
            raise ValueError("start is the noised points of one level: it cannot be given with a ladder")
        check_configuration(batch.target, generator)
        sigma, groups = self._spread(batch.target, generator)
        noise = randn_like(batch.target, generator) if start is None else (start - batch.target) / left(sigma, start)
        noised = batch.target + left(sigma, noise) * noise
        if levels == 1:
            parts = [self._at(bind(energy, batch.context), noised, noise, sigma)]
            rows = torch.arange(len(noised), device=noised.device)
        else:
            parts = []
            for level, group in groups.items():
                function = bind(energy, _rows(batch.context, group), level)
                parts.append(self._at(function, noised[group], noise[group], sigma[group]))
            rows = torch.cat([*groups.values()])
        loss, value, norm = (torch.cat(column) for column in zip(*parts, strict=True))
        arranged = batch if levels == 1 else Batch(None, weight=_rows(batch.weight, rows))
        terms = {"energy_data": arranged.mean(value.detach()), "grad_norm": arranged.mean(norm.detach())}
        if levels > 1:
            for (level, group), part in zip(groups.items(), parts, strict=True):
                terms[f"loss_{level}"] = Batch(None, weight=_rows(batch.weight, group)).mean(part[0].detach())
        return Loss(arranged.mean(loss), terms)

    def _spread(self, data: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[int, Tensor]]:
        """Gives every row a noise level, as evenly as rows allow: (sigma (rows,), the rows of each level that has any)."""
        ladder, count = torch.tensor(self.sigma, dtype=data.dtype, device=data.device), len(self.sigma)
        if count == 1:
            return ladder.expand(len(data)), {}
        order = torch.randperm(len(data), generator=generator, device=data.device)
        # Which level the first row gets is drawn too: else the last levels would get fewer rows, or none of a small batch.
        first = int(torch.randint(count, (), generator=generator, device=data.device))
        groups = {(first + place) % count: order[place::count] for place in range(min(count, len(data)))}
        sigma = torch.empty_like(ladder[:1]).repeat(len(data))
        for level, rows in groups.items():
            sigma[rows] = ladder[level]
        return sigma, groups

    def _at(self, function: EnergyFn, noised: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, grad = energy_and_grad(function, noised, create_graph=torch.is_grad_enabled())
        residual = (left(sigma, noised) * grad - noise).reshape(*value.shape, -1)
        return (residual**2).sum(-1) / 2, value, grad.reshape(*value.shape, -1).norm(dim=-1)


def _rows(tree: Any, index: Tensor) -> Any:
    """Takes rows of every tensor of a context."""
    return pytree.tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, tree)
