"""The slope: how an arm's gain grows along the axis, such as with the distance from training."""

from __future__ import annotations

from statistics import linear_regression

from ebm.grids.readings.reading import Compared, Reading, concluded, estimate, number, pairs
from ebm.grids.table import Table


def slope(table: Table, *, against: str = "") -> Reading:
    """Reads how much more an arm gains for each unit along the axis, over seeds.

    Each seed has a line of its own through its gains by least squares: points of one run depend on
    each other, seeds do not.

    Arguments:
        table: what was measured.
        against: the arm that others are compared with.
    """
    found: list[Compared] = []
    missing: list[str] = []
    for arm, other in pairs(table):
        by_point = {point: table.gains(arm, other, point) for point in table.points(arm)}
        seeds = [seed for seed in table.grid.drawn() if all(seed in gains for gains in by_point.values())]
        if len(by_point) < 2 or not seeds:
            missing.append(f"{arm} and {other} have too few points in common for a slope")
            continue
        x = [table.place(arm, point) for point in by_point]
        if len({*x}) < 2:
            missing.append(f"all points of {arm} lie at {number(x[0])}, and have no slope")
            continue
        values = estimate([linear_regression(x, [gains[seed] for gains in by_point.values()]).slope for seed in seeds])
        assert values is not None
        found.append(Compared(arm, other, "", f"gain in {table.metric(arm)}, for each unit further,", values))
    return concluded(table, found, missing)
