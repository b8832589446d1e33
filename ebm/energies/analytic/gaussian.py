"""The Gaussian and the mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ebm.energies.analytic.base import LOG_2PI, Analytic, Matrix, Vector

Covariance: TypeAlias = float | Sequence[float] | Sequence[Sequence[float]] | Tensor
Covariances: TypeAlias = Covariance | Sequence[Sequence[Sequence[float]]]


class Gaussian(Analytic):
    """Scores y by its squared Mahalanobis distance to a mean: E(y) = (y - μ)ᵀ Σ⁻¹ (y - μ) / 2.

    log Z = (d log 2π + log det Σ) / 2. A learned covariance is not kept positive definite.

    Arguments:
        mean: μ, (d,).
        covariance: Σ, a matrix (d, d), the diagonal of one (d,), or one variance for all.

    Raises:
        ValueError: for shapes that do not fit, or a covariance that is not symmetric and positive
            definite.

    >>> energy = Gaussian(mean=(0.0, 1.0), covariance=((2.0, 1.0), (1.0, 2.0)))
    >>> energy(torch.tensor([[0.0, 1.0], [1.0, 2.0]]))
    tensor([0.0000, 0.3333])
    >>> energy.sample(5).shape
    torch.Size([5, 2])
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, mean: Vector = (0.0, 0.0), covariance: Covariance = 1.0) -> None:
        super().__init__()
        self.hold(mean=mean, covariance=covariance)
        self.require("mean", self.mean.ndim == 1 and len(self.mean) > 0, "pass a mean (d,)")
        self.dim = d = len(self.mean)
        shapes = ((d, d), (d,), ())
        self.require("covariance", tuple(self.covariance.shape) in shapes, f"pass one of the shapes {shapes}")
        self.require("covariance", _is_definite(self.covariance, 2), "pass a symmetric positive definite matrix")

    def encode(self, context: Any = None, level: int = -1) -> Tensor:
        """Computes the whitening W, WᵀW = Σ⁻¹, as (d, d), (d,) or ()."""
        return _whitening(torch.linalg.cholesky(self.covariance)) if self._full else self.covariance.rsqrt()

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        self.check(y)
        whitening, away = self.encode() if code is None else code, y - self.mean
        if whitening.ndim < 2:
            return (away * whitening).square().sum(-1) / 2
        # Chains last: sums over a short last axis are slow.
        white = whitening @ away.reshape(-1, self.dim).T
        return white.square().sum(0).reshape(y.shape[:-1]) / 2

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal() if self._full else self.covariance.expand(self.dim)

    @property
    def log_z(self) -> Tensor:
        return (self.dim * LOG_2PI + (torch.logdet(self.covariance) if self._full else self.variance.log().sum())) / 2

    def score(self, y: Tensor) -> Tensor:
        """Computes Σ⁻¹ (μ - y)."""
        away = self.mean - y
        return away @ torch.linalg.inv(self.covariance) if self._full else away / self.variance

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws n samples (n, d): μ + L ε with L Lᵀ = Σ."""
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        scaled = noise @ torch.linalg.cholesky(self.covariance).T if self._full else noise * self.variance.sqrt()
        return self.mean + scaled

    @property
    def _full(self) -> bool:
        return self.covariance.ndim == 2


class GaussianMixture(Analytic):
    """Scores y by its negative log-density under a mixture: E(y) = -log Σₖ wₖ N(y; μₖ, Σₖ).

    So log Z = 0. Learned covariances are not kept positive definite, nor learned weights positive.

    Arguments:
        means: μ, (K, d).
        covariances: Σ, matrices (K, d, d), their diagonals (K, d), one variance per component (K,),
            or one for all.
        weights: w (K,), not negative; they are divided by their sum. Equal by default.

    Raises:
        ValueError: for shapes that do not fit, covariances that are not symmetric and positive
            definite, and weights that are negative or sum to zero.

    >>> energy = GaussianMixture(means=((-2.0, 0.0), (2.0, 0.0)), covariances=0.5, weights=(1.0, 3.0))
    >>> energy.mean, energy.variance
    (tensor([1., 0.]), tensor([3.5000, 0.5000]))
    >>> energy(torch.zeros(5, 4, 2)).shape
    torch.Size([5, 4])
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor

    def __init__(
        self, means: Matrix = ((-2.0, 0.0), (2.0, 0.0)), covariances: Covariances = 1.0, weights: Vector | None = None
    ) -> None:
        super().__init__()
        self.hold(means=means, covariances=covariances, weights=(1.0,) * len(means) if weights is None else weights)
        self.require("means", self.means.ndim == 2 and self.means.numel() > 0, "pass means (K, d)")
        k, d = self.means.shape
        self.dim = d
        shapes = ((k, d, d), (k, d), (k,), ())
        self.require("covariances", tuple(self.covariances.shape) in shapes, f"pass one of the shapes {shapes}")
        self.require("covariances", _is_definite(self.covariances, 3), "pass symmetric positive definite matrices")
        self.require("weights", self.weights.shape == (k,), f"pass {k} weights, one per component")
        positive = bool((self.weights >= 0).all()) and bool(self.weights.sum() > 0)
        self.require("weights", positive, "pass weights that are not negative, and not all zero")

    def encode(self, context: Any = None, level: int = -1) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the stacked whitening maps W (K d, d), -W μ (K d, 1), and log factors (K, 1)."""
        lower = torch.linalg.cholesky(self._matrices())
        whitening = _whitening(lower)
        log_factor = self._log_weights() - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1) - self.dim * LOG_2PI / 2
        shift = -(whitening @ self.means[:, :, None])
        return whitening.reshape(-1, self.dim), shift.reshape(-1, 1), log_factor[:, None]

    def forward(self, y: Tensor, code: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        self.check(y)
        whitening, shift, log_factor = self.encode() if code is None else code
        # One product with chains last is three times as fast as differences (*chains, K, d) in 2-D.
        white = torch.addmm(shift, whitening, y.reshape(-1, self.dim).T).unflatten(0, (-1, self.dim))
        log_densities = log_factor - white.square().sum(1) / 2
        return -log_densities.logsumexp(0).reshape(y.shape[:-1])

    @property
    def mean(self) -> Tensor:
        """Computes Σₖ wₖ μₖ, (d,)."""
        return self._log_weights().exp() @ self.means

    @property
    def variance(self) -> Tensor:
        """Computes Σₖ wₖ (diag Σₖ + (μₖ - mean)²), (d,)."""
        within, between = self._matrices().diagonal(dim1=-2, dim2=-1), (self.means - self.mean).square()
        return self._log_weights().exp() @ (within + between)

    @property
    def log_z(self) -> Tensor:
        return self.means.new_zeros(())

    def score(self, y: Tensor) -> Tensor:
        """Computes Σₖ rₖ(y) Σₖ⁻¹ (μₖ - y), with the components' responsibilities r."""
        matrices, away = self._matrices(), self.means - y[..., None, :]
        pull = torch.einsum("kij,...kj->...ki", torch.linalg.inv(matrices), away)
        log_density = self._log_weights() - (away * pull).sum(-1) / 2 - torch.logdet(matrices) / 2
        return (log_density.softmax(-1)[..., None] * pull).sum(-2)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws n samples (n, d): a component each, then μₖ + Lₖ ε with Lₖ Lₖᵀ = Σₖ."""
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, 1, generator=generator, dtype=self.means.dtype, device=self.means.device)
        return self.means[index] + (torch.linalg.cholesky(self._matrices())[index] @ noise).squeeze(-1)

    def _matrices(self) -> Tensor:
        """Expands the covariances to matrices (K, d, d)."""
        if self.covariances.ndim == 3:
            return self.covariances
        diagonals = self.covariances[:, None] if self.covariances.ndim == 1 else self.covariances
        return diagonals.expand(self.means.shape).diag_embed()

    def _log_weights(self) -> Tensor:
        return self.weights.log() - self.weights.sum().log()


def _whitening(lower: Tensor) -> Tensor:
    """Inverts Cholesky factors (..., d, d)."""
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)


def _is_definite(covariance: Tensor, matrix_ndim: int) -> bool:
    """Tells whether matrices are symmetric positive definite, or variances (fewer axes) positive."""
    if covariance.ndim < matrix_ndim:
        return bool((covariance > 0).all())
    return torch.allclose(covariance, covariance.mT) and not torch.linalg.cholesky_ex(covariance).info.any()
