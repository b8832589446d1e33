"""Means over seeds with honest intervals: of the truth, and of where a repetition would fall."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from ebm.optional import installed


class Estimate(NamedTuple):
    """A mean over seeds, its confidence interval, and the interval of a repetition's mean."""

    value: float
    low: float = -math.inf  # of the truth
    high: float = math.inf
    again_low: float = -math.inf  # of the mean over as many other seeds
    again_high: float = math.inf
    seeds: int = 1

    def through(self, function: Callable[[float], float]) -> Estimate:
        """Maps value and ends by a function that rises, such as `math.exp`."""
        value, low, high, again_low, again_high = map(function, self[:5])
        return Estimate(value, low, high, again_low, again_high, self.seeds)


def over_seeds(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Estimates a mean from one number of each seed, by Student's t.

    With n numbers of mean m and standard deviation s, the truth is in m ± t s / √n and the mean of
    n other seeds in m ± t s √(2 / n), t of n − 1 degrees of freedom. Both are exact where numbers
    are normal; a percentile bootstrap over three seeds would cover the truth two times in three.
    One number has no interval: its ends are infinite.

    Arguments:
        values: one number of each seed, such as a difference of two runs of the same seed.
        level: how often the interval covers.

    Raises:
        ValueError: there is no number, or the level is not inside (0, 1).
        FloatingPointError: a number is not finite.
        ImportError: scipy is not installed.

    >>> found = over_seeds([1.0, 2.0, 3.0])
    >>> [round(number, 3) for number in found]
    [2.0, -0.484, 4.484, -1.513, 5.513, 3]
    """
    if not values or not 0 < level < 1:
        raise ValueError(f"over_seeds({list(values)}, level={level}): pass a number or more, and a level inside (0, 1)")
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(f"over_seeds({list(values)}): a number is not finite")
    count, mean = len(values), fmean(values)
    if count == 1:
        return Estimate(mean)
    installed("scipy")
    from scipy.special import stdtrit

    wide = float(stdtrit(count - 1, (1 + level) / 2)) * stdev(values)
    truth, again = wide / math.sqrt(count), wide * math.sqrt(2 / count)
    return Estimate(mean, mean - truth, mean + truth, mean - again, mean + again, count)
