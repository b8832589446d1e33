"""Noise levels: one, or a ladder of them that a sampler goes down."""

from __future__ import annotations

import math
from collections.abc import Sequence


def noise_levels(sigma: float | Sequence[float]) -> tuple[float, ...]:
    """Reads one noise level, or a ladder of them.

    Raises:
        ValueError: for no levels, and levels that are no positive finite numbers.
    """
    levels = (float(sigma),) if isinstance(sigma, int | float) else tuple(map(float, sigma))
    if not levels or not all(0 < level < math.inf for level in levels):
        raise ValueError(f"sigma={sigma}: pass a positive number, or a ladder of them")
    return levels
