"""Stein's discrepancy: how far samples are from an energy's distribution, by its gradient alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, energy_and_grad, eval_mode, plainly


class SteinTest(NamedTuple):
    """The squared discrepancy of samples, and the probability of one as large under the energy."""

    discrepancy: float
    p: float


@plainly
def kernel_stein_discrepancy(samples: Tensor, energy: EnergyFn, *, bandwidth: float | None = None, beta: float = -0.5) -> float:
    """Estimates the squared kernelised Stein discrepancy of samples from p ∝ exp(−E), without bias.

        KSD² = mean_{i≠j} u(xᵢ, xⱼ),    s = −∇E,    k(x, y) = (c² + |x − y|²)^β,
        u(x, y) = s(x)ᵀs(y) k + s(x)ᵀ∇_y k + s(y)ᵀ∇_x k + tr ∇_x∇_yᵀ k.

    It may fall below zero, and hardly sees distant modes without samples. O(n²) memory, float64.
    Source: Liu et al., 2016 (arXiv 1602.03253); kernel: Gorham and Mackey, 2017 (arXiv 1703.01717).

    Arguments:
        samples: (n, *event), at least two and finite.
        energy: maps them to energies (n,), in eval mode.
        bandwidth: c > 0, by default the median distance; pass one to compare discrepancies.
        beta: β, between −1 and 0.

    >>> y = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> right, wide = (lambda y: y.square().sum(-1) / 2), (lambda y: y.square().sum(-1) / 4)
    >>> abs(kernel_stein_discrepancy(y, right)) < 0.01 < kernel_stein_discrepancy(y, wide)
    True
    """
    kernel = _stein_kernel(samples, energy, bandwidth, beta)
    return float(_mean_of_pairs(kernel))


@plainly
def stein_test(
    samples: Tensor,
    energy: EnergyFn,
    *,
    bandwidth: float | None = None,
    beta: float = -0.5,
    resamples: int = 1000,
    generator: Generator | None = None,
) -> SteinTest:
    """Tests whether independent samples come from p ∝ exp(−E), by a wild bootstrap.

        p = (1 + #{mean_{i≠j} wᵢ wⱼ u(xᵢ, xⱼ) >= KSD²}) / (1 + resamples),    wᵢ = ±1 at random.

    Source: Chwialkowski et al., 2016 (arXiv 1602.02964), without correlation in time.

    Arguments:
        samples, energy, bandwidth, beta: as `kernel_stein_discrepancy`'s.
        resamples: how many times signs are drawn; the smallest p is 1 / (1 + resamples).
        generator: where signs come from; torch's global generator if None.

    >>> g = torch.Generator().manual_seed(0)
    >>> y, energy = torch.randn(300, 2, generator=g), lambda y: y.square().sum(-1) / 2
    >>> stein_test(y, energy, generator=g).p > 0.05 > stein_test(y + 0.5, energy, generator=g).p
    True
    """
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: pass a whole number of at least 1")
    kernel = _stein_kernel(samples, energy, bandwidth, beta)
    observed = _mean_of_pairs(kernel)
    signs = torch.randint(2, (resamples, len(kernel)), generator=generator, device=kernel.device).to(kernel) * 2 - 1
    pairs = ((signs @ kernel) * signs).sum(-1) - kernel.diagonal().sum()  # signs square to 1
    # The slack counts equal signs as the observed ones, however their sums are rounded.
    least = observed - 1e-12 * kernel.abs().mean()
    count = int((pairs / (len(kernel) * (len(kernel) - 1)) >= least).sum())
    return SteinTest(float(observed), (1 + count) / (1 + resamples))


def _stein_kernel(samples: Tensor, energy: EnergyFn, bandwidth: float | None, beta: float) -> Tensor:
    """Computes u(xᵢ, xⱼ), (n, n)."""
    if samples.ndim < 2 or len(samples) < 2:
        raise ValueError(f"samples have shape {tuple(samples.shape)}: pass at least two, (n, *event)")
    if not -1 < beta < 0 or (bandwidth is not None and not 0 < bandwidth < math.inf):
        raise ValueError(f"bandwidth={bandwidth}, beta={beta}: pass a positive bandwidth or None, and a beta between -1 and 0")
    with eval_mode(energy):
        value, grad = energy_and_grad(energy, samples)
    if value.shape != samples.shape[:1]:
        raise ValueError(f"the energy has shape {tuple(value.shape)}, samples {tuple(samples.shape)}: one for each is due")
    if not bool(samples.isfinite().all() & grad.isfinite().all()):
        raise ValueError("samples or their gradients are not finite: leave out what diverged, and say so")
    x, score = (values.detach().flatten(1).double() for values in (samples, -grad))
    x = x - x.mean(0)  # only differences count, and products of small numbers round less
    square = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    if bandwidth is None:
        apart = square[square > 0]  # as `median_distance` has it: of pairs of different points
        bandwidth = float(apart.median().sqrt()) if len(apart) else 1.0
    base = bandwidth**2 + square
    slope = 2 * beta * base ** (beta - 1)  # ∇_x k = slope (x − y) = −∇_y k
    # (s(y) − s(x))ᵀ(x − y), multiplied out: the differences would take O(n² d) memory.
    products = score @ x.mT
    own = products.diagonal()
    across = products + products.mT - own[:, None] - own
    trace = -x.shape[1] * slope - 4 * beta * (beta - 1) * base ** (beta - 2) * square
    return score @ score.mT * base**beta + slope * across + trace


def _mean_of_pairs(kernel: Tensor) -> Tensor:
    return (kernel.sum() - kernel.diagonal().sum()) / (len(kernel) * (len(kernel) - 1))
