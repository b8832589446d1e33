"""How steeply one number rises with another."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import plainly


class Slope(NamedTuple):
    """A slope, and its 95 % interval."""

    value: float
    low: float
    high: float


@plainly
def slope(x: Tensor, y: Tensor, *, resamples: int = 2000, seed: int = 0) -> Slope:
    """Fits y = a + b x by least squares to rows x, y (n,): b, with its interval.

    The interval is a percentile bootstrap of rows, so that y may be binary, or spread differently
    at different x. A line goes through any two rows: of two, it is infinite.

    Raises:
        ValueError: x and y are not two or more rows each, or x is constant.
        FloatingPointError: a value is not finite.

    >>> slope(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 4.0]))
    Slope(value=2.0, low=2.0, high=2.0)
    """
    x, y = x.detach().double().cpu(), y.detach().double().cpu()
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or bool((x == x[0]).all()):
        raise ValueError(f"x is {tuple(x.shape)}, y is {tuple(y.shape)}: pass two or more rows of each, of different x")
    if not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        raise FloatingPointError("x or y has values that are not finite")
    drawn = torch.randint(len(x), (resamples, len(x)), generator=torch.Generator().manual_seed(seed))
    drawn = torch.cat([torch.arange(len(x))[None], drawn])
    x, y = (values[drawn] - values[drawn].mean(1, keepdim=True) for values in (x, y))
    spread = x.square().sum(1)
    found = ((x * y).sum(1) / spread)[spread > 1e-12 * spread[0]]  # a resample of one x alone has no slope
    low, high = found[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    low, high = (low, high) if x.shape[1] > 2 else (-math.inf, math.inf)
    return Slope(*(round(value, 12) for value in (found[0].item(), low, high)))
