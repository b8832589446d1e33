"""Power laws: how fast a loss falls as something grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import linear_regression
from typing import NamedTuple

import numpy as np

from ebm.optional import installed


class PowerLaw(NamedTuple):
    """The law loss = floor + amplitude x^−exponent."""

    exponent: float
    amplitude: float
    floor: float = 0.0

    def __call__(self, x: float) -> float:
        """Computes the loss at x."""
        return self.floor + self.amplitude * x**-self.exponent


Curve = tuple[Sequence[float], Sequence[float]]  # x, losses


def power_law(x: Sequence[float], losses: Sequence[float], floor: float = 0.0) -> PowerLaw:
    """Fits log(loss − floor) = log A − b log x by least squares.

    Raises:
        ValueError: there are fewer than two different x, an x is not positive, or a loss is not
            above the floor.
        FloatingPointError: a value is not finite.

    >>> power_law([1.0, 4.0, 16.0], [4.0, 2.0, 1.0])
    PowerLaw(exponent=0.5, amplitude=4.0, floor=0.0)
    """
    if not all(map(math.isfinite, [*x, *losses])):
        raise FloatingPointError(f"power_law({list(x)}, {list(losses)}): a value is not finite")
    if len(x) != len(losses) or len({*x}) < 2 or min(x) <= 0:
        raise ValueError(f"power_law(x={list(x)}): pass losses at two or more different x, all above 0")
    if min(losses) <= floor:
        raise ValueError(f"power_law(losses={list(losses)}, floor={floor}): the losses must lie above the floor")
    slope, level = linear_regression([*map(math.log, x)], [math.log(loss - floor) for loss in losses])
    return PowerLaw(round(-slope, 12), round(math.exp(level), 12), floor)


def power_laws(curves: Mapping[str, Curve]) -> dict[str, PowerLaw]:
    """Fits laws that share their floor, as models of the same data do: L∞, what no model can learn.

    Floor, exponents and amplitudes make the squared differences of log losses least.

    Raises:
        ValueError: a curve has fewer than three points, or as `power_law`.

    >>> x = [1.0, 4.0, 16.0, 64.0]
    >>> laws = power_laws({"a": (x, [5.0, 3.0, 2.0, 1.5]), "b": (x, [9.0, 3.0, 1.5, 1.125])})
    >>> [(round(law.exponent, 3), round(law.amplitude, 3), round(law.floor, 3)) for law in laws.values()]
    [(0.5, 4.0, 1.0), (1.0, 8.0, 1.0)]
    """
    installed("scipy")
    from scipy.optimize import least_squares

    if any(len({*x}) < 3 for x, _ in curves.values()):
        raise ValueError("power_laws: a law with a floor needs three different x of each curve")
    bare = [power_law(*curve) for curve in curves.values()]
    least = min(min(losses) for _, losses in curves.values())
    xs, heights = ([np.log(curve[part]) for curve in curves.values()] for part in (0, 1))

    def residuals(numbers: np.ndarray) -> np.ndarray:
        floor, exponents, amplitudes = numbers[0], numbers[1::2], numbers[2::2]
        fitted = [np.log(floor + np.exp(a - b * x)) for x, a, b in zip(xs, amplitudes, exponents, strict=True)]
        return np.concatenate([fit - height for fit, height in zip(fitted, heights, strict=True)])

    numbers = [value for law in bare for value in (law.exponent, math.log(law.amplitude))]
    low, high = [0.0, *[-np.inf] * len(numbers)], [least, *[np.inf] * len(numbers)]
    starts = [least * share for share in (0.01, 0.5, 0.9)]  # the valley is bent: the best of three ways down it
    found = min((least_squares(residuals, [s, *numbers], bounds=(low, high), xtol=1e-12, ftol=1e-12) for s in starts), key=_cost)
    floor, *rest = map(float, found.x)
    return {name: PowerLaw(b, math.exp(a), floor) for name, b, a in zip(curves, rest[::2], rest[1::2], strict=True)}


def _cost(found: object) -> float:
    return float(found.cost)  # type: ignore[attr-defined]
