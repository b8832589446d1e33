"""The gain: by how much an arm is better than another, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ebm.grids.readings.reading import Compared, Reading, concluded, estimate, pairs
from ebm.grids.table import Table


def gain(table: Table, *, against: str = "", points: Sequence[str] = (), rising: Sequence[str] = ()) -> Reading:
    """Reads how much better each arm is than the one it is compared with.

    Runs of the same seed are paired, for they share data and draws: what is left of their
    difference is smaller than either's spread.

    Arguments:
        table: what was measured.
        against: the arm that others are compared with.
        points: at which points; by default at the last.
        rising: arms of which each is claimed to gain more than the one before; that is compared, too.
    """
    others = dict(pairs(table))
    found: list[Compared] = []
    missing: list[str] = []
    for arm, other in others.items():
        for point in points or table.points(arm)[-1:]:
            values = estimate([*table.gains(arm, other, point).values()])
            if values is None:
                missing.append(f"{arm} and {other} have no seed in common at {point or 'the only point'}")
            else:
                found.append(Compared(arm, other, point, f"{table.metric(arm)} better by", values))
    for before, arm in pairwise(rising):
        for point in points or table.points(arm)[-1:]:
            small, large = (table.gains(each, others[each], point) for each in (before, arm))
            values = estimate([large[seed] - small[seed] for seed in large if seed in small])
            if values is None:
                missing.append(f"{arm} and {before} have gains of no seed in common at {point or 'the only point'}")
            else:
                found.append(Compared(arm, before, point, f"gain in {table.metric(arm)} larger by", values))
    return concluded(table, found, missing)
