"""Noise levels: at each landscape an answer y* is seen as a y* + s ε, with a² + s² = 1, from almost
all noise to almost none."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Level", "levels"]


class Level(NamedTuple):
    """How much of the answer a landscape sees, and how much noise."""

    signal: float  # a, the paper's sqrt(1 − σ²)
    noise: float  # s, the paper's σ


def levels(count: int) -> list[Level]:
    """Lists the levels of `count` landscapes, from the first that is visited (k = K, the noisiest)
    to the last (k = 1).

        a_k = cos θ_k,    s_k = sin θ_k,    θ_k = (π/2) k / (K + 1),    k = K … 1,

    the cosine schedule without its two ends: at k = K + 1 nothing of the answer would be left, at k
    = 0 no noise.

    Raises:
        ValueError: there is no level.

    Source: Nichol and Dhariwal, 2021 (arXiv 2102.09672), equation 17 with s = 0; the paper's 10
    levels follow it.

    >>> [round(level.signal, 2) for level in levels(3)]
    [0.38, 0.71, 0.92]
    """
    if count < 1:
        raise ValueError(f"levels={count}: pass a number of at least 1")
    angles = [math.pi / 2 * k / (count + 1) for k in range(count, 0, -1)]
    return [Level(math.cos(angle), math.sin(angle)) for angle in angles]
