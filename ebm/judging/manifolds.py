"""Precision and recall of samples, by the balls that reach to points' nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebm.judging.features import check_samples, featured

ROWS = 1024  # of a block of the matrix of distances


class Manifolds(NamedTuple):
    """How far samples look like data (precision, density), and reach all of them (recall, coverage)."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    samples: Tensor, data: Tensor, features: Callable[[Tensor], Tensor] | None = None, *, k: int = 3
) -> Manifolds:
    """Measures which samples lie among data, and which data among samples.

    The balls around points of a set that reach to their k-th nearest neighbours in it stand for its
    support. Precision is the share of samples in balls of data, recall the share of data in balls
    of samples; density counts for each sample the balls of data that it lies in, over k; coverage
    is the share of balls of data that hold a sample. Of equal distributions density is 1 and
    coverage 1 − 2⁻ᵏ in the mean, for equally many rows of either. Costs n m distances, block by block.
    Source: Kynkäänniemi et al., 2019 (arXiv 1904.06991), equations 1, 2; density and coverage:
    Naeem et al., 2020 (arXiv 2002.09797), which takes k = 5.

    Arguments:
        samples, data: (n, *event) and (m, *event), more than k rows each.
        features: maps a batch to features (batch, d), in eval mode; None takes the values.
        k: which neighbour a ball reaches to.

    Raises:
        ValueError: for fewer rows, unlike events, k below 1, or features that are not finite.

    >>> data = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> precision_recall(data[:100] + 50, data[100:])
    Manifolds(precision=0.0, recall=0.0, density=0.0, coverage=0.0)
    >>> precision_recall(data, data)[:2]
    (1.0, 1.0)
    """
    if type(k) is not int or k < 1:
        raise ValueError(f"k={k!r}: pass a whole number of at least 1")
    check_samples(samples, data, least=k + 1)
    x = torch.cat([*featured(samples, features, "samples")])
    y = torch.cat([*featured(data, features, "data")])
    radius_x, radius_y = _radii(x, k), _radii(y, k)
    balls, near, reached = x.new_zeros(len(x)), x.new_full((len(y),), torch.inf), x.new_zeros(len(y), dtype=torch.bool)
    for place in range(0, len(x), ROWS):
        block = slice(place, place + ROWS)
        distances = _distances(x[block], y)
        balls[block] = (distances <= radius_y).double().sum(1)
        near = torch.minimum(near, distances.amin(0))
        reached |= (distances <= radius_x[block, None]).any(0)
    means = (balls > 0).double().mean(), reached.double().mean(), balls.mean() / k, (near <= radius_y).double().mean()
    return Manifolds(*(mean.item() for mean in means))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")  # exact zeros for equal points


def _radii(points: Tensor, k: int) -> Tensor:
    """Computes the distance (n,) to each point's k-th nearest other point."""
    # The point itself is the nearest of all, at distance zero.
    return torch.cat([_distances(block, points).kthvalue(k + 1, dim=1).values for block in points.split(ROWS)])
