"""The power law: whether an arm's loss falls faster than another's as the axis grows."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Literal

from ebm.grids.readings.reading import Compared, Reading, concluded, estimate, number, pairs
from ebm.grids.table import Table
from ebm.judging.power_law import Curve, power_law, power_laws
from ebm.judging.seeds import over_seeds


def read_power_law(table: Table, *, against: str = "", floor: float | Literal["fit"] = 0.0) -> Reading:
    """Reads the ratio of exponents of loss = L∞ + A x^−b: each arm's b by that of the one it is compared with.

    Each seed has laws of its own, and its ratio; the interval is Student's t over the logarithms of
    those, since a ratio is skewed, and a bootstrap over three seeds covers too little. Where a loss
    does not fall in some seed there is no ratio, and to leave that seed out would favour its arm: then
    exponents are subtracted, of all seeds. An arm that starts behind may fall faster and stay behind,
    so that the last losses are said, too. A loss that is not above L∞ has no law, which is said.

    Arguments:
        table: what was measured: losses, at three or more points.
        against: the arm that others are compared with.
        floor: L∞; "fit" finds one for all arms of a seed, which needs many points.
    """
    exponents: dict[str, dict[int, float]] = {}
    sunk: dict[str, int] = {}  # in how many seeds an arm's losses are not above the floor
    least = 0.0 if floor == "fit" else floor
    for seed in table.grid.drawn():
        curves = {arm: curve for arm in table.grid.arms if (curve := curve_of(table, arm, seed)) is not None}
        for arm in [arm for arm, (_, losses) in curves.items() if min(losses) <= least]:
            sunk[arm] = sunk.get(arm, 0) + 1
            del curves[arm]
        if floor == "fit":
            laws = power_laws(curves) if curves else {}
        else:
            laws = {arm: power_law(*curve, floor) for arm, curve in curves.items()}
        for arm, law in laws.items():
            exponents.setdefault(arm, {})[seed] = law.exponent
    found: list[Compared] = []
    missing = [
        f"{arm} has losses that are not above {number(least)} in {n} seed{'s' * (n > 1)}, of which there is no law"
        for arm, n in sunk.items()
    ]
    more: list[str] = []
    for arm, other in pairs(table):
        ours, theirs = exponents.get(arm, {}), exponents.get(other, {})
        both = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        if (losses := _means(table, arm)) and (others := _means(table, other)):
            more.append(f"At the last point {arm} has {number([*losses.values()][-1])}, {other} {number([*others.values()][-1])}")
            if all(losses[point] > others[point] for point in losses if point in others):
                more[-1] += f"; {arm} is behind at every point"
        if not both:
            missing.append(f"{arm} and {other} have no exponents of a seed in common")
        elif rising := sum(b <= 0 or c <= 0 for b, c in both):
            more.append(f"In {rising} of {len(both)} seeds {arm} or {other} has a loss that does not fall")
            if (values := estimate([b - c for b, c in both])) is not None:
                found.append(Compared(arm, other, "", "exponent is larger by", values))
        elif (values := estimate([math.log(b / c) for b, c in both])) is not None:
            found.append(Compared(arm, other, "", "exponent is times", values.through(math.exp), 1.0))
    means = ", ".join(f"{arm} {number(over_seeds([*each.values()]).value)}" for arm, each in exponents.items())
    return concluded(table, found, missing, [*([f"Mean exponents: {means}"] if means else []), *more])


def _means(table: Table, arm: str) -> dict[str, float]:
    """Lists the mean of an arm's losses at each point."""
    return {point: fmean(values) for point in table.points(arm) if (values := [*table.values(arm, point).values()])}


def curve_of(table: Table, arm: str, seed: int) -> Curve | None:
    """Lists where an arm's points lie and its losses there, of one seed; None with fewer than three."""
    rows = [row for row in table.rows if (row.arm, row.seed) == (arm, seed) and math.isfinite(row.value)]
    x, losses = [row.x for row in rows], [row.value for row in rows]
    return (x, losses) if len({*x}) > 2 else None
