"""Diffusion recovery likelihood: from data with more noise, sample data with less, and tell the two
apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ebm.interfaces import Batch, Energy, EnergyFn, Loss, Objective, Sampler, bind, check_configuration, left
from ebm.objectives.contrastive import run_chains
from ebm.objectives.ladder import at_rows, per_row, spread
from ebm.randomness import randn_like
from ebm.samplers.recovery import Recovered, unretracted
from ebm.samplers.schedules import noise_levels


class DiffusionRecoveryLikelihood(Objective):
    """Trains landscapes by the likelihood of recovering data from data with more noise, ỹ = y + s_l
    ξ:

        L = E[E_l(y)] − E[E_l(y⁻)],    y⁻ ~ p(y | ỹ) ∝ exp(−E_l(y) − |ỹ − y|² / 2s_l²) by chains
        from ỹ,

    where the chains' ends are constants. Landscape l is that of data with noise of variance
    s_{l+1}² + … + s_{L−1}², the last that of data themselves; rows are spread evenly over the
    levels. An energy with a single landscape is that of data at every level, recovered from each of
    the noises. Where s_l is small, beside the width of what the landscape holds, the conditional is
    nearly normal around ỹ, and short chains reach it; where s_l is large they need smaller steps,
    and chains that do not arrive make landscapes ever steeper. They move u = (y − ỹ)/s_l, so that
    the sampler's step size is in units of s_l². Samples are then drawn by `Recovery`.

    Source: Gao et al., 2021 (arXiv 2012.08125), algorithm 1; noise is added here without scaling
    data down.

    Arguments:
        sampler: moves the chains, without a retraction.
        sigma: s_l, the noise added on top of each landscape's own, in the order of the landscapes
            (the noisiest first), in units of y; or one for all of them.

    Raises:
        ValueError: for noise that is not positive, a retraction, and (at the call) landscapes that
            sigma has no numbers for.

    Terms: energy_data, energy_samples, energy_gap (data minus samples; it should hover around
    zero), displacement (mean distance from a chain's start to its end), grad_norm (of the recovery
    energy, at the last step), acceptance (where steps are accepted or rejected).

    >>> from ebm.samplers import LangevinDynamics
    >>> objective = DiffusionRecoveryLikelihood(LangevinDynamics(step_size=0.1, steps=5), sigma=[1.0, 0.3])
    >>> sorted(objective(lambda y: (y**2).sum(-1) / 2, Batch(torch.ones(3, 2))).terms)
    ['displacement', 'energy_data', 'energy_gap', 'energy_samples', 'grad_norm']
    """

    def __init__(self, sampler: Sampler, sigma: float | Sequence[float] = 0.1) -> None:
        super().__init__()
        self.sampler, self.sigma = unretracted(sampler), noise_levels(sigma)

    def forward(
        self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Loss:
        """Computes the loss of one batch; `start` replaces ỹ as the start of the chains."""
        levels = energy.levels if isinstance(energy, Energy) else 1
        if levels > 1 and len(self.sigma) not in (1, levels):
            raise ValueError(f"{len(self.sigma)} noise levels for an energy with {levels} landscapes: pass one sigma for each")
        ladder = self.sigma if len(self.sigma) > 1 else self.sigma * levels
        data = batch.target
        check_configuration(data, generator)
        groups = spread(data, len(ladder), generator)
        if levels > 1:
            function: EnergyFn = per_row(energy, batch, groups)  # type: ignore[arg-type]  # levels are an Energy's
            above = itertools.accumulate((s**2 for s in reversed(ladder[1:])), initial=0.0)
            own = at_rows([math.sqrt(variance) for variance in reversed([*above])], groups, data)
            data = data + left(own, data) * randn_like(data, generator)
        else:
            function = bind(energy, batch.context)
        sigma = at_rows(ladder, groups, data)
        noised = data + left(sigma, data) * randn_like(data, generator)
        samples, fared = self._chains(Recovered(function, noised, sigma), noised if start is None else start, generator)
        positive, negative = function(data), function(samples)
        gap = batch.mean(positive) - batch.mean(negative)
        terms = {"energy_data": batch.mean(positive.detach()), "energy_samples": batch.mean(negative.detach())}
        return Loss(gap, {**terms, "energy_gap": gap.detach(), **fared})

    def _chains(self, recovered: Recovered, start: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the chains of u = (y − ỹ)/s: (their ends y⁻, how they fared)."""
        assert isinstance(recovered.sigma, Tensor)
        scale = left(recovered.sigma, start)
        with torch.no_grad():
            u, info, fared = run_chains(self.sampler, recovered, (start - recovered.noised) / scale, generator)
            samples = recovered.noised + scale * u
            if info is not None:
                fared["displacement"] = (samples - start).reshape(*info.energy.shape, -1).norm(dim=-1).mean()
                if (norm := info.grad_norm) is not None:  # in units of y
                    fared["grad_norm"] = (norm / left(recovered.sigma, norm)).mean()
            return samples, fared
