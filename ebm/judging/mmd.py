"""Judges samples by their maximum mean discrepancy from data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import plainly

# The kernels' widths in units of the median distance; one width alone is blind to fine structure.
SCALES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)


class MMDTest(NamedTuple):
    """A squared MMD, and the p-value of "both samples come from one distribution"."""

    mmd: float
    p: float


@plainly
def median_distance(x: Tensor, y: Tensor) -> float:
    """Computes the median distance between different points of x (m, *event) and y (n, *event).

    >>> median_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [3.0]]))
    2.0
    """
    distances = _distances(x, y)
    distances = distances[distances > 0]
    return distances.median().item() if distances.numel() else 1.0  # all points are equal: any width gives MMD = 0


@plainly
def mmd(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    r"""Estimates the squared maximum mean discrepancy of two samples, without bias.

    MMD² = mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) - 2 mean_{ij} k(xᵢ, yⱼ), with k the mean of
    Gaussian kernels exp(-|a - b|² / 2(sσ)²) over the widths s in `SCALES`. Takes O((m + n)²)
    memory, in float64 on the CPU, and may fall below zero. Raises ValueError for fewer than two
    points, unlike shapes or unusable values. Source: Gretton et al., 2012, JMLR 13, Eq. (3).

    Arguments:
        x, y: the samples (m, *event) and (n, *event).
        bandwidth: σ, by default the median distance; pass one to compare MMDs.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 500, 2, generator=g)
    >>> abs(mmd(x, y)) < 0.01 < mmd(x, y + 0.5)
    True
    """
    return _estimates(_kernel(x, y, bandwidth), _membership(x, y)).item()


@plainly
def mmd_permutation_test(
    x: Tensor, y: Tensor, *, bandwidth: float | None = None, permutations: int = 500, generator: torch.Generator | None = None
) -> MMDTest:
    """Tests whether two samples have one distribution, by dealing their points out at random.

    p = (1 + #{permuted MMD² >= observed}) / (1 + permutations). Raises ValueError as `mmd` does.
    Source: Gretton et al., 2012, JMLR 13; p: Phipson & Smyth, 2010, Stat. Appl. Genet. Mol. Biol.

    Arguments:
        x, y, bandwidth: as in `mmd`; a test is exact if its bandwidth treats x and y alike.
        permutations: how many times the points are dealt out.
        generator: where permutations come from; torch's global generator if None.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 100, 2, generator=g)
    >>> mmd_permutation_test(x, y, generator=g).p > 0.05 > mmd_permutation_test(x, y + 1.0, generator=g).p
    True
    """
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: at least one is needed")
    observed = _membership(x, y)
    device = "cpu" if generator is None else generator.device
    deals = torch.rand(permutations, observed.shape[1], generator=generator, device=device).argsort(1) < len(x)
    estimates = _estimates(_kernel(x, y, bandwidth), torch.cat([observed, deals.cpu().double()]))
    # The slack lets a deal that equals the observed one count as equal, however its sums round.
    reached = int((estimates[1:] >= estimates[0] - 1e-12).sum())
    return MMDTest(estimates[0].item(), (1 + reached) / (1 + permutations))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Checks two samples, and computes all distances (m + n, m + n) of the pooled one."""
    for name, sample in (("x", x), ("y", y)):
        if sample.ndim < 2 or len(sample) < 2:
            raise ValueError(f"{name} has shape {tuple(sample.shape)}: pass (points, *event) with at least two points")
        bad = (~sample.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"{name} is NaN or infinite in {len(bad)} of {len(sample)} points (point {bad[0]} first)")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x has points of shape {tuple(x.shape[1:])}, y of {tuple(y.shape[1:])}: they cannot be compared")
    pooled = torch.cat([sample.detach().flatten(1).cpu().double() for sample in (x, y)])
    return torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")  # exact zeros for equal points


def _kernel(x: Tensor, y: Tensor, bandwidth: float | None) -> Tensor:
    """Computes the kernel matrix (m + n, m + n) of the pooled sample; its diagonal is one."""
    bandwidth = median_distance(x, y) if bandwidth is None else bandwidth
    if not bandwidth > 0:
        raise ValueError(f"bandwidth={bandwidth}: it must be positive")
    exponent = _distances(x, y).div_(bandwidth).square_().div_(-2)
    kernel = torch.zeros_like(exponent)
    for scale in SCALES:
        kernel += (exponent / scale**2).exp_()
    return kernel.div_(len(SCALES))


def _membership(x: Tensor, y: Tensor) -> Tensor:
    """Marks the points of the pooled sample that belong to x: (1, m + n)."""
    return torch.cat([torch.ones(1, len(x)), torch.zeros(1, len(y))], dim=1).double()


def _estimates(kernel: Tensor, members: Tensor) -> Tensor:
    """Estimates MMD² (deals,) of every way (deals, m + n) to deal the points out."""
    m = members[0].sum()
    n = len(kernel) - m
    within_x, from_x = ((members @ kernel) * members).sum(1), members @ kernel.sum(1)
    within_y = kernel.sum() - 2 * from_x + within_x
    return (within_x - m) / (m * (m - 1)) + (within_y - n) / (n * (n - 1)) - 2 * (from_x - within_x) / (m * n)
