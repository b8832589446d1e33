"""The level: what an arm measures by itself, beside zero."""

from __future__ import annotations

from ebm.grids.readings.reading import Compared, Reading, concluded, estimate
from ebm.grids.table import Table


def level(table: Table) -> Reading:
    """Reads the mean of each arm at each point, such as a correlation: above zero supports the claim.

    Arguments:
        table: what was measured.
    """
    found: list[Compared] = []
    missing: list[str] = []
    for arm in table.grid.arms:
        for point in table.points(arm):
            values = estimate([*table.values(arm, point).values()])
            if values is None:
                missing.append(f"{arm} has no number at {point or 'the only point'}")
            else:
                found.append(Compared(arm, "", point, table.metric(arm), values))
    return concluded(table, found, missing)
