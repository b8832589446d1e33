"""Diffusion recovery likelihood: sample data from noisier copies, and tell the two apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler, bind, check_configuration, interface_of, left, levels_of
from ebm.objectives.contrastive import run_chains
from ebm.objectives.ladder import at_rows, per_row, spread
from ebm.objectives.start import same_rows
from ebm.randomness import randn_like
from ebm.samplers.recovery import Recovered, unretracted
from ebm.samplers.replay import ReplayAugmented
from ebm.samplers.schedules import noise_levels


class DiffusionRecoveryLikelihood(Objective):
    """Trains landscapes by the likelihood of recovering data from noisier copies ỹ = y + s_l ξ.

        L = E[E_l(y)] − E[E_l(y⁻)],    y⁻ ~ p(y | ỹ) ∝ exp(−E_l(y) − |ỹ − y|² / 2s_l²) by chains

    from ỹ, whose ends are constants. Landscape l fits data with noise of variance s_{l+1}² + … +
    s_{L−1}², the last one data themselves; rows spread evenly over levels. A single landscape fits
    data at every level. Large s_l need smaller steps (units: s_l²): chains that do not arrive make
    landscapes ever steeper. `Recovery` draws samples. Source: Gao et al., 2021 (arXiv 2012.08125),
    algorithm 1, without scaling data down. Terms: `ContrastiveDivergence`'s energy_data,
    energy_samples, energy_gap, displacement, grad_norm (of the recovery energy) and acceptance.

    Arguments:
        sampler: moves the chains, without a retraction.
        sigma: s_l > 0 in the order of the landscapes (the noisiest first), or one for all of them.

    Raises:
        ValueError: the sampler keeps a replay buffer, from which no chain would start.

    >>> from ebm.samplers import LangevinDynamics
    >>> sampler = LangevinDynamics(step_size=0.1, steps=5)
    >>> objective = DiffusionRecoveryLikelihood(sampler, sigma=[1.0, 0.3])
    >>> sorted(objective(lambda y: (y**2).sum(-1) / 2, Batch(torch.ones(3, 2))).terms)
    ['displacement', 'energy_data', 'energy_gap', 'energy_samples', 'grad_norm']
    """

    def __init__(self, sampler: Sampler, sigma: float | Sequence[float] = 0.1) -> None:
        super().__init__()
        if any(isinstance(part, ReplayAugmented) for part in sampler.modules()):
            raise ValueError(
                "DiffusionRecoveryLikelihood(ReplayAugmented(…)): chains start at noisier copies of their own rows, which no "
                "buffer holds: pass the sampler inside"
            )
        self.sampler, self.sigma = unretracted(sampler), noise_levels(sigma)

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        """Computes the loss of a batch; `start` replaces ỹ as the start of the chains."""
        energy = interface_of(energy)  # once, and not for each level
        levels = levels_of(energy)
        if levels > 1 and len(self.sigma) not in (1, levels):
            raise ValueError(f"{len(self.sigma)} noise levels for an energy with {levels} landscapes: pass one sigma for each")
        ladder = self.sigma if len(self.sigma) > 1 else self.sigma * levels
        data = batch.target
        check_configuration(data, generator)
        groups = spread(data, len(ladder), generator)
        if levels > 1:
            function: EnergyFn = per_row(energy, batch, groups)
            above = itertools.accumulate((s**2 for s in reversed(ladder[1:])), initial=0.0)
            own = at_rows([math.sqrt(variance) for variance in reversed([*above])], groups, data)
            data = data + left(own, data) * randn_like(data, generator)
        else:
            function = bind(energy, batch.context)
        sigma = at_rows(ladder, groups, data)
        noised = data + left(sigma, data) * randn_like(data, generator)
        start = noised if start is None else same_rows(start, data)
        scale, recovered = left(sigma, data), Recovered(function, noised, sigma)
        with torch.no_grad():
            u, info, fared = run_chains(self.sampler, recovered, (start - noised) / scale, generator)
            samples = noised + scale * u
        if info is not None:
            fared["displacement"] = (samples - start).detach().reshape(*info.energy.shape, -1).norm(dim=-1).mean()
        if info is not None and (norm := info.grad_norm) is not None:  # in units of y
            fared["grad_norm"] = (norm / left(sigma, norm)).mean()
        positive, negative = function(data), function(samples)
        gap = batch.mean(positive) - batch.mean(negative)
        terms = {"energy_data": batch.mean(positive.detach()), "energy_samples": batch.mean(negative.detach())}
        return Loss(gap, {**terms, "energy_gap": gap.detach(), **fared})
