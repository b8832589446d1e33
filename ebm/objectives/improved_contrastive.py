"""Improved contrastive divergence: the term that plain contrastive divergence leaves out."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.special import digamma

from ebm.interfaces import Batch, EnergyFn, Sampler, Task, check_unroll, energy_and_grad
from ebm.objectives.contrastive import ContrastiveDivergence


class ImprovedContrastiveDivergence(ContrastiveDivergence):
    """Trains the chains' distribution q, too: contrastive divergence with its KL term.

        L = L_CD + kl (E_q[Ē(x⁻)] − entropy H(q)),

    where Ē is the energy with its parameters held and x⁻ = x⁻(θ) depends on them through the
    sampler's last step, or all steps. With entropy = 1 the second term is KL(q ‖ p) up to log Z:
    its gradient draws chains to where the energy is low, and keeps them apart. H is estimated from
    distances to nearest neighbours among the batch's chains, at (n chains)² distances. Source: Du
    et al., 2021 (arXiv 2012.01316), equations 5 to 9; H: Kozachenko and Leonenko, 1987.
    Terms: those of `ContrastiveDivergence`, and entropy (nats) where it counts.

    Arguments:
        sampler: moves the chains; one that is differentiable, so none that accepts or rejects.
        start: "data" or "noise" (the task's start; standard normal noise without a task).
        energy_l2: weight of the squared energies.
        data_noise: standard deviation of noise on the data.
        task: draws the noise.
        kl: the term's weight.
        entropy: the weight of H in it.
        unroll: "last", whose memory is one step's, or "full".

    Raises:
        ValueError: for weights below zero, a sampler that accepts or rejects, or one chain.

    >>> from ebm.samplers import LangevinDynamics
    >>> objective = ImprovedContrastiveDivergence(LangevinDynamics(step_size=0.1, steps=5))
    >>> "entropy" in objective(lambda y: (y**2).sum(-1) / 2, Batch(torch.randn(8, 2))).terms
    True
    """

    def __init__(
        self,
        sampler: Sampler,
        start: Literal["data", "noise"] = "data",
        energy_l2: float = 0.0,
        data_noise: float = 0.0,
        task: Task | None = None,
        *,
        kl: float = 1.0,
        entropy: float = 1.0,
        unroll: Literal["last", "full"] = "last",
    ) -> None:
        super().__init__(sampler, start, energy_l2, data_noise, task)
        if not (0 <= kl < math.inf and 0 <= entropy < math.inf):
            raise ValueError(f"kl={kl}, entropy={entropy}: pass numbers of at least 0")
        if unroll not in ("last", "full"):
            raise ValueError(f"unroll={unroll!r}: choose last or full")
        check_unroll(sampler, unroll)
        self.kl, self.entropy, self.unroll = kl, entropy, unroll

    def further(self, energy: EnergyFn, batch: Batch, ends: Tensor) -> tuple[Tensor | float, dict[str, Tensor]]:
        samples = self.sampler.point(ends)
        held = samples.detach()
        value, grad = energy_and_grad(energy, held)
        # The energy's value with the slope that parameters which stay as they are give it.
        drawn = value + ((samples - held) * grad).reshape(*value.shape, -1).sum(-1)
        term = batch.mean(drawn)
        if not self.entropy:
            return self.kl * term, {}
        found = entropies(samples.reshape(value.numel(), -1), None if batch.weight is None else batch.weight.flatten() > 0)
        entropy = batch.mean(found.reshape(value.shape))
        return self.kl * (term - self.entropy * entropy), {"entropy": entropy.detach()}


def entropies(points: Tensor, counted: Tensor | None = None) -> Tensor:
    """Estimates −log q at points (n, d) of a density q: their mean is its entropy, in nats.

        h_i = d log ρ_i + log V_d + ψ(n) − ψ(1),

    with ρ_i the distance to the nearest other point and V_d the volume of the unit ball. It has a
    gradient, through both points of a pair. Equal points have an entropy of −∞, and a point without
    any neighbour that counts has 0, which moves nothing.

    Arguments:
        points: (n, d), n at least 2.
        counted: (n,), which of them are neighbours; all by default.

    >>> x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    >>> abs(entropies(3 * x).mean().item() - math.log(9)) < 0.1
    True
    """
    count, dim = points.shape
    if count < 2:
        raise ValueError("the entropy of one chain is unknown: pass at least two chains")
    with torch.no_grad():
        distances = torch.cdist(points, points)
        distances.fill_diagonal_(math.inf)
        if counted is not None:
            distances = distances.masked_fill(~counted, math.inf)
        least, nearest = distances.min(1)
        alone = least.isinf()[:, None]
    others = points.new_tensor(float(count)) if counted is None else counted.sum().to(points).clamp(min=2)
    ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    apart = torch.where(alone, torch.ones_like(points), points - points[nearest])  # no slope where there is no neighbour
    found = dim * apart.norm(dim=1).log() + ball + digamma(others) - digamma(points.new_ones(()))
    return torch.where(alone[:, 0], torch.zeros_like(found), found)
