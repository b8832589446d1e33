"""Energy matching: a straight flow far from data, and the data's density near them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler, bind, check_configuration, energy_and_grad, left
from ebm.objectives.contrastive import ContrastiveDivergence
from ebm.objectives.equilibrium_matching import decay
from ebm.objectives.start import same_rows
from ebm.randomness import randn_like


class EnergyMatching(Objective):
    """Makes downhill the straight way from noise x₀ to data x₁, and fits the density near data.

        L = E w(t) ‖∇E(x_t) + x₁ − x₀‖² + cd_weight (E[E(x₁)] − E[E(x⁻)]),
        x_t = (1 − t) x₀ + t x₁,    t ~ U(0, 1),    w(t) = min(1, (1 − t) / (1 − cutoff)),

    summed over event axes. Half of the chains start at data and half at noise. Only the last of
    several landscapes is trained. The paper trains the flow first, without a sampler, then both by
    LangevinDynamics(0.01, steps=200, temperature=lambda t: 0.01 * min(1.0, t / 100)).
    Source: Balcerak et al., 2025 (arXiv 2504.10612), algorithms 1 and 2.
    Terms: flow (its loss), energy_path, path_norm (mean ‖∇E‖ on paths), and with a sampler those of
    `ContrastiveDivergence`; without one, energy_data and grad_norm are the paths'.

    Arguments:
        sampler: moves the chains of the contrastive term; None leaves the flow alone.
        cd_weight: weight of the contrastive term.
        cutoff: where on the path, in [0, 1], the flow's weight begins to fall; 1 means nowhere.
        pairing: "optimal" (transport in the batch, by SciPy; ignores contexts) or "independent".

    >>> g, energy = torch.Generator().manual_seed(0), lambda y: -3 * y.sum(-1)    # moves y by 3
    >>> noise = torch.randn(64, 2, generator=g)
    >>> loss = EnergyMatching()(energy, Batch(noise + 3), start=noise.flip(0), generator=g)
    >>> round(loss.value.item(), 4)
    0.0
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        cd_weight: float = 1e-3,
        cutoff: float = 1.0,
        pairing: Literal["optimal", "independent"] = "optimal",
    ) -> None:
        super().__init__()
        if not 0 <= cd_weight < math.inf or not 0 <= cutoff <= 1:
            raise ValueError(f"cd_weight={cd_weight}, cutoff={cutoff}: pass a weight of at least 0, and a cutoff from 0 to 1")
        if pairing not in ("optimal", "independent"):
            raise ValueError(f"pairing={pairing!r}: choose optimal (transport within the batch) or independent")
        self.contrastive = None if sampler is None else ContrastiveDivergence(sampler)
        self.cd_weight, self.cutoff, self.pairing = float(cd_weight), float(cutoff), pairing

    sampler = property(lambda self: None if self.contrastive is None else self.contrastive.sampler)

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        """Computes the loss of a batch; `start` replaces the noise x₀ before pairing."""
        x1 = batch.target
        check_configuration(x1, generator)
        x0 = randn_like(x1, generator) if start is None else same_rows(start, x1)
        if self.pairing == "optimal":
            x0 = paired(x0, x1, batch.weight)
        t = torch.rand(len(x1), generator=generator, dtype=x1.dtype, device=x1.device)
        point = torch.lerp(x0, x1, left(t, x1))
        value, grad = energy_and_grad(bind(energy, batch.context), point, create_graph=torch.is_grad_enabled())
        error = (grad + x1 - x0).reshape(*value.shape, -1).square().sum(-1)
        flow = batch.mean(left(decay(t, self.cutoff), error) * error)
        path = batch.mean(value.detach()), batch.mean(grad.detach().reshape(*value.shape, -1).norm(dim=-1))
        terms = {"flow": flow.detach(), "energy_path": path[0], "path_norm": path[1]}
        if self.contrastive is None:
            return Loss(flow, {**terms, "energy_data": path[0], "grad_norm": path[1]})
        at_data = torch.rand(len(x1), generator=generator, device=x1.device) < 0.5
        begin = torch.where(left(at_data, x1), x1, x0)
        contrast = self.contrastive(energy, batch, start=begin, generator=generator)
        return Loss(flow + self.cd_weight * contrast.value, {**terms, **contrast.terms})


def paired(noise: Tensor, data: Tensor, weight: Tensor | None = None) -> Tensor:
    """Permutes rows of noise to minimise Σ |x₁ − x₀|² over the batch, over chains with weight.

    >>> noise, data = torch.tensor([[1.0], [9.0], [5.0]]), torch.tensor([[8.0], [2.0], [4.0]])
    >>> paired(noise, data).flatten().tolist()
    [9.0, 1.0, 5.0]
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("scipy is not installed: pip install 'ebm-toolkit[recipes]', or pass pairing='independent'") from error
    counts = torch.ones_like(data, dtype=torch.bool) if weight is None else left(weight > 0, data).expand_as(data)
    counts = counts.reshape(len(data), -1).cpu()  # where the assignment is solved
    rows = counts.any(1).nonzero().flatten()  # those without weight keep their noise
    x0, x1 = (x.detach().cpu().double().reshape(len(data), -1)[rows] for x in (noise, data))
    counts = counts[rows]
    cost = -2 * torch.where(counts, x1, 0) @ x0.mT + counts.double() @ (x0**2).mT
    # NaN and infinity have no best pairing; the loss reports them.
    _, column = linear_sum_assignment(cost.nan_to_num().numpy())
    order = torch.arange(len(noise))
    order[rows] = rows[torch.from_numpy(column)]
    return noise[order.to(noise.device)]
