"""One energy read at several noise levels: divided by the level, or told which one it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Given, Modified, as_energy
from ebm.samplers.schedules import noise_levels


class Levelled(Modified):
    """Reads an energy that has one landscape at several noise levels.

    Arguments:
        energy: an energy with one landscape, or a function of y.
        sigma: the noise levels σ_0 … σ_{L−1}, positive numbers in units of y, from the first
            landscape to the last; they usually fall.

    Raises:
        ValueError: for an energy with several landscapes, and levels that are not positive numbers.
    """

    def __init__(self, energy: EnergyFn, sigma: float | Sequence[float]) -> None:
        if (levels := as_energy(energy).levels) != 1:
            raise ValueError(f"an energy with {levels} landscapes has its own already: pass one with a single landscape")
        super().__init__(energy)
        self.sigma = noise_levels(sigma)
        self.levels = len(self.sigma)

    def at_noise(self, sigma: float, context: Any = None) -> EnergyFn:
        """Binds a context at any noise level σ > 0, also between those of the landscapes."""
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma={sigma!r}: a noise level is a positive number")
        return Given(self, self.encode_at(sigma, context))

    def encode_at(self, sigma: float, context: Any) -> Any:
        """Encodes a context, and a noise level that need not be a landscape's."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class NoiseConditional(Levelled):
    """Divides one energy by each noise level: E_l(y) = E(y)/σ_l, with the score s(y)/σ_l.

    The levels' landscapes differ in steepness alone, so one network serves all: where a denoiser
    estimates −ξ/σ, the network estimates −ξ. Source: Song and Ermon, 2020 (arXiv 2006.09011),
    technique 3.

    >>> energy = NoiseConditional(lambda y: y.square().sum(-1), sigma=[2.0, 0.5])
    >>> [landscape(torch.ones(1, 2)).item() for landscape in energy.landscapes()]
    [1.0, 4.0]
    """

    def encode(self, context: Any = None, level: int = -1) -> tuple[Any, float]:
        """Encodes the context for the energy, and adds the level's noise."""
        return self.encode_at(self.sigma[level], context)

    def encode_at(self, sigma: float, context: Any) -> tuple[Any, float]:
        return self.energy.encode(context), sigma

    def extend(self, code: tuple[Any, float], context: Any) -> tuple[Any, float]:
        return self.energy.extend(code[0], context), code[1]

    def forward(self, y: Tensor, code: tuple[Any, float] | None = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,), at the last level without a code."""
        inner, sigma = (None, self.sigma[-1]) if code is None else code
        return self.energy(y, inner) / sigma


class NoiseEmbedded(Levelled):
    """Tells a conditional energy its noise level: E_l(y | c) = E(y | c, log σ_l).

    The logarithm is appended to the context's last axis, or is the context where there is none. So
    the energy's context is a tensor (*rows, context_dim), as `ConditionalMLP`'s, and `context_dim`
    is one more than the length of c. A context that is not a tensor raises ValueError.

    >>> from ebm.energies import ConditionalMLP
    >>> energy = NoiseEmbedded(ConditionalMLP(dim=2, context_dim=1), sigma=[1.0, 0.5, 0.1])
    >>> energy.given(level=0)(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    log_sigma: Tensor

    def __init__(self, energy: EnergyFn, sigma: float | Sequence[float]) -> None:
        super().__init__(energy, sigma)
        # A buffer, so that it has the energy's device and dtype; `sigma` makes it, so it is not saved.
        self.register_buffer("log_sigma", torch.tensor(self.sigma).log()[:, None], persistent=False)

    def encode(self, context: Any = None, level: int = -1) -> Any:
        """Encodes the context, with the level appended, for the energy."""
        return self._encode(self.log_sigma[level], context)

    def encode_at(self, sigma: float, context: Any) -> Any:
        return self._encode(self.log_sigma.new_tensor([math.log(sigma)]), context)

    def _encode(self, told: Tensor, context: Any) -> Any:
        if context is not None:
            if not isinstance(context, Tensor):
                raise ValueError(f"the context is {type(context).__name__}: pass a tensor (*rows, features), or None")
            told = torch.cat([context, told.to(context).expand(*context.shape[:-1], 1)], -1)
        return self.energy.encode(told)

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,), at the last level without a code."""
        return self.energy(y, self.encode() if code is None else code)
