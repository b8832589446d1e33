"""Closed-form problems: densities whose moments, score and log Z are written down here, apart from the package's own code.

`PROBLEMS` maps a name to a Problem in float64. Samplers are tested on them too: a sampler must leave exp(-energy) / Z alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebm.energies import Banana, DoubleWell, Funnel, Gaussian, GaussianMixture, Ring
from ebm.interfaces import EnergyFn


class Problem(NamedTuple):
    """An energy over (*chains, dim), what is known of it, and exact draws `sample(n, generator)`."""

    name: str
    energy: EnergyFn
    mean: Tensor
    variance: Tensor
    score: Callable[[Tensor], Tensor]
    log_z: float
    sample: Callable[[int, torch.Generator | None], Tensor]

    @property
    def dim(self) -> int:
        return len(self.mean)


def float64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact(
    energy: Gaussian | GaussianMixture | Banana | DoubleWell | Funnel | Ring,
) -> Callable[[int, torch.Generator | None], Tensor]:
    return lambda n, generator=None: energy.sample(n, generator=generator)


def standard() -> Problem:
    """The standard normal in three dimensions, as a plain function."""
    return Problem(
        "standard",
        lambda y: y.square().sum(-1) / 2,
        mean=float64([0.0, 0.0, 0.0]),
        variance=float64([1.0, 1.0, 1.0]),
        score=lambda y: -y,
        log_z=1.5 * math.log(2 * math.pi),
        sample=lambda n, generator=None: torch.randn(n, 3, generator=generator, dtype=torch.float64),
    )


def correlated() -> Problem:
    """Σ = [[2, 0.6], [0.6, 0.5]]: determinant 0.64, inverse [[0.5, -0.6], [-0.6, 2]] / 0.64."""
    energy = Gaussian(mean=float64([1.0, -2.0]), covariance=float64([[2.0, 0.6], [0.6, 0.5]]))
    return Problem(
        "correlated",
        energy,
        mean=float64([1.0, -2.0]),
        variance=float64([2.0, 0.5]),
        score=lambda y: -(y - float64([1.0, -2.0])) @ float64([[0.78125, -0.9375], [-0.9375, 3.125]]),
        log_z=math.log(2 * math.pi * 0.8),
        sample=exact(energy),
    )


def diagonal() -> Problem:
    energy = Gaussian(mean=float64([0.0, 3.0, 1.0]), covariance=float64([0.25, 1.0, 4.0]))
    return Problem(
        "diagonal",
        energy,
        mean=float64([0.0, 3.0, 1.0]),
        variance=float64([0.25, 1.0, 4.0]),
        score=lambda y: torch.stack([-4 * y[..., 0], 3 - y[..., 1], (1 - y[..., 2]) / 4], -1),
        log_z=1.5 * math.log(2 * math.pi),
        sample=exact(energy),
    )


def line_mixture() -> Problem:
    """0.25 N(-2, 0.5) + 0.75 N(1, 1): mean 0.25, variance 0.125 + 0.75 + 0.25·2.25² + 0.75·0.75²."""
    energy = GaussianMixture(means=float64([[-2.0], [1.0]]), covariances=float64([0.5, 1.0]), weights=float64([1.0, 3.0]))

    def score(y: Tensor) -> Tensor:
        left = 0.25 * torch.exp(-((y + 2) ** 2)) / math.sqrt(math.pi)
        right = 0.75 * torch.exp(-((y - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
        return -(left * 2 * (y + 2) + right * (y - 1)) / (left + right)

    mean, variance = float64([0.25]), float64([0.125 + 0.75 + 0.25 * 2.25**2 + 0.75 * 0.75**2])
    return Problem("line-mixture", energy, mean, variance, score, log_z=0.0, sample=exact(energy))


def plane_mixture() -> Problem:
    """Two full covariances: at (-1, 0) with Σ = [[1, 0.5], [0.5, 1]], and at (2, 1) with the off-diagonal's sign changed."""
    centres, factors = float64([[-1.0, 0.0], [2.0, 1.0]]), float64([0.4, 0.6])
    matrices = float64([[[1.0, 0.5], [0.5, 1.0]], [[1.0, -0.5], [-0.5, 1.0]]])
    inverses = float64([[[4.0, -2.0], [-2.0, 4.0]], [[4.0, 2.0], [2.0, 4.0]]]) / 3
    energy = GaussianMixture(means=centres, covariances=matrices, weights=factors)

    def score(y: Tensor) -> Tensor:
        pulls = [(centre - y) @ inverse for centre, inverse in zip(centres, inverses, strict=True)]
        parts = [
            factor * torch.exp(-((centre - y) * pull).sum(-1, keepdim=True) / 2)  # both have the determinant 3/4
            for factor, centre, pull in zip(factors, centres, pulls, strict=True)
        ]
        return (parts[0] * pulls[0] + parts[1] * pulls[1]) / (parts[0] + parts[1])

    mean, variance = float64([0.8, 0.6]), float64([1 + 0.24 * 9, 1 + 0.24])
    return Problem("plane-mixture", energy, mean, variance, score, log_z=0.0, sample=exact(energy))


def banana() -> Problem:
    """b = 0.5, s = 1.5: the variance of y₂ is 1 + 2·0.25·1.5⁴."""
    energy = Banana(curvature=float64(0.5), scale=float64(1.5))

    def score(y: Tensor) -> Tensor:
        away = y[..., 1] - (y[..., 0] ** 2 - 2.25) / 2
        return torch.stack([y[..., 0] * (away - 1 / 2.25), -away], -1)

    return Problem(
        "banana",
        energy,
        mean=float64([0.0, 0.0]),
        variance=float64([2.25, 3.53125]),
        score=score,
        log_z=math.log(2 * math.pi * 1.5),
        sample=exact(energy),
    )


def double_well() -> Problem:
    """b = 2, a = 1.5: z = ∫ exp(-b (u² - 1)²) du = (π/2) e⁻ᶜ (I₋₁/₄(c) + I₁/₄(c)), c = b/2; E[u²] by adaptive quadrature."""
    z, second = 1.4109147031962088, 0.8521361521783343
    energy = DoubleWell(dim=2, barrier=float64(2.0), location=float64(1.5))

    def score(y: Tensor) -> Tensor:
        u = y[..., 0] / 1.5
        return torch.stack([-8 * (u**3 - u) / 1.5, -y[..., 1]], -1)

    return Problem(
        "double-well",
        energy,
        mean=float64([0.0, 0.0]),
        variance=float64([1.5**2 * second, 1.0]),
        score=score,
        log_z=math.log(1.5 * z) + math.log(2 * math.pi) / 2,
        sample=exact(energy),
    )


def funnel() -> Problem:
    """Neal's funnel with a scale of 1, at which the variances can be seen in a sample."""
    energy = Funnel(dim=3, scale=float64(1.0))

    def score(y: Tensor) -> Tensor:
        v, x = y[..., :1], y[..., 1:]
        return torch.cat([-v - 1 + (x**2).sum(-1, keepdim=True) / (2 * v.exp()), -x / v.exp()], -1)

    return Problem(
        "funnel",
        energy,
        mean=float64([0.0, 0.0, 0.0]),
        variance=float64([1.0, math.exp(0.5), math.exp(0.5)]),
        score=score,
        log_z=1.5 * math.log(2 * math.pi),
        sample=exact(energy),
    )


def ring() -> Problem:
    """Radius 1, width 0.5: |y|² is N(1, 1) cut off at zero, so Z = π √(2π) Φ(1) and E|y|² = 1 + φ(1) / Φ(1)."""
    energy = Ring(radius=float64(1.0), width=float64(0.5))
    below = (1 + math.erf(math.sqrt(0.5))) / 2
    second = 1 + math.exp(-0.5) / math.sqrt(2 * math.pi) / below
    return Problem(
        "ring",
        energy,
        mean=float64([0.0, 0.0]),
        variance=float64([second / 2, second / 2]),
        score=lambda y: -2 * y * (y[..., :1] ** 2 + y[..., 1:] ** 2 - 1),
        log_z=math.log(math.pi * math.sqrt(2 * math.pi) * below),
        sample=exact(energy),
    )


MAKERS = (standard, correlated, diagonal, line_mixture, plane_mixture, banana, double_well, funnel, ring)
PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (make() for make in MAKERS)}
