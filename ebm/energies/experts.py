"""Experts that judge the same y: a product, where each has a veto, and a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebm.interfaces import EnergyFn, Several


class ProductOfExperts(Several):
    """Adds energies up with learned weights: E(y) = Σᵢ wᵢ Eᵢ(y), wᵢ = exp(`log_weights`[i]).

    The density is ∏ᵢ pᵢ(y)^wᵢ / Z. All weights are 1 at first, which is the `SumEnergy`; contexts,
    landscapes and errors are a sum's. Source: Training products of experts by minimizing contrastive
    divergence (Hinton, 2002), equation 1; the weights: Selecting weighting factors in logarithmic
    opinion pools (Heskes, 1998).

    Arguments:
        energies: energies, or functions of y.

    >>> energy = ProductOfExperts([lambda y: y.square().sum(-1), lambda y: y.sum(-1)])
    >>> energy(torch.ones(3, 2))
    tensor([4., 4., 4.], grad_fn=<AddBackward0>)
    """

    def __init__(self, energies: Sequence[EnergyFn]) -> None:
        super().__init__(energies)
        self.log_weights = nn.Parameter(torch.zeros(len(self.energies)))

    def forward(self, y: Tensor, code: tuple[Any, ...] | None = None) -> Tensor:
        terms = [weight * value for weight, value in zip(self.log_weights.exp(), self.values(y, code), strict=True)]
        return sum(terms[1:], start=terms[0])


class MixtureOfExperts(Several):
    """Mixes the densities of energies: E(y) = −log Σᵢ πᵢ exp(−Eᵢ(y)) / Zᵢ, π = softmax(`logits`).

    A part with `log_z` (an analytic energy) is divided by its Zᵢ; if all parts have one, log Z = 0.
    A part without counts as normalised: its logit takes up the unknown log Zᵢ, so πᵢ is not its
    share of the samples. Contexts and landscapes are a sum's; the logits do not depend on them.

    Arguments:
        energies: energies, or functions of y.
        logits: where the learned logits start, one for each part; equal by default.

    Raises:
        ValueError: for logits that are not one finite number for each part, and as a `SumEnergy`.

    >>> from ebm.energies import Gaussian
    >>> energy = MixtureOfExperts([Gaussian((-2.0, 0.0)), Gaussian((2.0, 0.0))])
    >>> energy.given()(torch.zeros(3, 2)).shape, energy.logits.softmax(-1).tolist()
    (torch.Size([3]), [0.5, 0.5])
    """

    def __init__(self, energies: Sequence[EnergyFn], logits: Sequence[float] | Tensor | None = None) -> None:
        super().__init__(energies)
        count, start = len(self.energies), torch.zeros(len(self.energies)) if logits is None else logits
        if not isinstance(start, Tensor):
            start = torch.tensor([float(logit) for logit in start])
        if start.shape != (count,) or not start.is_floating_point() or not bool(start.isfinite().all()):
            raise ValueError(f"MixtureOfExperts(logits={logits!r}): pass {count} finite numbers, one for each part")
        self.logits = start if isinstance(start, nn.Parameter) else nn.Parameter(start.detach().clone())

    def encode(self, context: Any = None, level: int = -1) -> tuple[Any, ...]:
        """Encodes the context for every part, after the parts' log πᵢ − log Zᵢ."""
        return self._log_factors(), super().encode(context, level)

    def extend(self, code: tuple[Any, ...], context: Any) -> tuple[Any, ...]:
        return code[0], super().extend(code[1], context)

    def forward(self, y: Tensor, code: tuple[Any, ...] | None = None) -> Tensor:
        log_factors, codes = (self._log_factors(), None) if code is None else code
        values = self.values(y, codes)
        return -torch.stack([factor - value for factor, value in zip(log_factors, values, strict=True)]).logsumexp(0)

    def _log_factors(self) -> tuple[Tensor, ...]:
        log_weights = self.logits.log_softmax(-1)
        return tuple(own - getattr(part, "log_z", 0.0) for own, part in zip(log_weights, self.energies, strict=True))
