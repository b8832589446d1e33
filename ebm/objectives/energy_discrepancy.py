"""Energy discrepancy: data should lie lower than points which their noised copies may come from."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, bind, check_configuration, evaluate
from ebm.randomness import randn_like


class EnergyDiscrepancy(Objective):
    """Compares data with noised copies that are noised once more; needs neither scores nor chains.

        L = E log(w/M + 1/M Σ_j exp(E(x) − E(x′_j))),  x′_j = x + √t ξ + √t ξ_j,  ξ, ξ_j ~ N(0, I).

    One ξ serves all M candidates. With w = 1 the data's density minimises L at every t and M. Small
    t come close to score matching, large t to maximum likelihood. Only the last of several
    landscapes is trained. Source: Schröder et al., 2023 (arXiv 2307.06431).
    Terms: energy_data, energy_noised (mean), accuracy (share of rows lower than all candidates).

    Arguments:
        noise_std: √t, in units of the data.
        samples: M, candidates per row, all evaluated at once along a leading axis.
        stability: w, which keeps the logarithm finite; w ≠ 1 biases the loss for small M.

    >>> flat = lambda y: 0 * y.sum(-1)
    >>> loss = EnergyDiscrepancy(samples=4)(flat, Batch(torch.randn(5, 2)))    # log(1/4 + 1)
    >>> round(loss.value.exp().item(), 4)
    1.25
    """

    def __init__(self, noise_std: float = 0.5, samples: int = 16, stability: float = 1.0) -> None:
        super().__init__()
        if not (0 < noise_std < math.inf and 0 < stability < math.inf):
            raise ValueError(f"noise_std={noise_std}, stability={stability}: pass positive numbers")
        if samples < 1:
            raise ValueError(f"samples={samples}: pass a whole number of at least 1")
        self.noise_std, self.samples, self.stability = noise_std, samples, stability

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if start is not None:
            raise ValueError("start is given, but energy discrepancy moves no chains: leave it out")
        check_configuration(batch.target, generator)
        function = bind(energy, batch.context)
        at_data = evaluate(function, batch.target)
        x_t = batch.target + self.noise_std * randn_like(batch.target, generator)
        candidates = x_t + self.noise_std * randn_like(x_t.expand(self.samples, *x_t.shape), generator)
        at_candidates = evaluate(function, candidates)
        gap = (at_data - at_candidates).logsumexp(0)
        loss = torch.logaddexp(gap, torch.full_like(gap, math.log(self.stability))) - math.log(self.samples)
        lowest = (at_data < at_candidates).all(0).to(loss.dtype)
        terms = {"energy_data": at_data.detach(), "energy_noised": at_candidates.detach().mean(0), "accuracy": lowest}
        return Loss(batch.mean(loss), {name: batch.mean(term) for name, term in terms.items()})
