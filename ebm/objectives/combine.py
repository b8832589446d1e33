"""Weighted sums of objectives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler


class WeightedSum(Objective):
    """Adds objectives: L = Σ_i w_i L_i.

    Arguments:
        objectives: the objectives L_i.
        weights: their weights w_i; none means 1 each.

    Terms: every objective's own, prefixed with its number, and `i.loss`.

    >>> from ebm.objectives import DenoisingScoreMatching
    >>> both = WeightedSum([DenoisingScoreMatching(s) for s in (0.1, 0.5)], weights=[1.0, 0.1])
    >>> sorted(both(lambda y: (y**2).sum(-1), Batch(torch.ones(3, 2))).terms)[:3]
    ['0.energy_data', '0.grad_norm', '0.loss']
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float] = ()) -> None:
        super().__init__()
        if not objectives or (weights and len(weights) != len(objectives)):
            raise ValueError(f"{len(objectives)} objectives and {len(weights)} weights: pass at least one, and a weight for each")
        self.objectives = nn.ModuleList(objectives)
        self.weights = tuple(map(float, weights)) or (1.0,) * len(objectives)

    @property
    def sampler(self) -> Sampler | None:
        """The sampler of the first objective that has one."""
        found = (getattr(objective, "sampler", None) for objective in self.objectives)
        return next((sampler for sampler in found if isinstance(sampler, Sampler)), None)

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        losses = [objective(energy, batch, start=start, generator=generator) for objective in self.objectives]
        own = [{"loss": loss.value.detach(), **loss.terms} for loss in losses]
        terms = {f"{i}.{name}": term for i, terms in enumerate(own) for name, term in terms.items()}
        value = torch.stack([weight * loss.value for weight, loss in zip(self.weights, losses, strict=True)]).sum()
        return Loss(value, terms)
