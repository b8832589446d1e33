"""The gain: by how much an arm is better than another, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence

from ebm.grids.readings.reading import Compared, Reading, concluded, estimate, pairs
from ebm.grids.table import Table


def gain(table: Table, *, against: str = "", points: Sequence[str] = ()) -> Reading:
    """Reads how much better each arm is than the one it is compared with.

    Runs of the same seed are paired, for they share data and draws: what is left of their
    difference is smaller than either's spread.

    Arguments:
        table: what was measured.
        against: the arm that others are compared with.
        points: at which points; by default at the last.
    """
    found: list[Compared] = []
    missing: list[str] = []
    for arm, other in pairs(table):
        for point in points or table.points(arm)[-1:]:
            values = estimate([*table.gains(arm, other, point).values()])
            if values is None:
                missing.append(f"{arm} and {other} have no seed in common at {point or 'the only point'}")
            else:
                found.append(Compared(arm, other, point, f"{table.metric(arm)} better by", values))
    return concluded(table, found, missing)
