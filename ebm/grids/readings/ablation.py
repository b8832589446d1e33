"""The ablation: by how much the full recipe is better than one that lacks a part."""

from __future__ import annotations

from ebm.grids.readings.reading import Compared, Reading, concluded, estimate, pairs
from ebm.grids.table import Table


def ablation(table: Table, *, against: str) -> Reading:
    """Reads what each part is worth: how much better the full recipe is than without it, paired by seed.

    Arguments:
        table: what was measured; each arm but the full recipe lacks a part.
        against: the full recipe's arm.
    """
    found: list[Compared] = []
    missing: list[str] = []
    for arm, full in pairs(table):
        for point in table.points(arm)[-1:]:
            values = estimate([*table.gains(full, arm, point).values()])
            if values is None:
                missing.append(f"{arm} and {full} have no seed in common")
            else:
                found.append(Compared(arm, full, point, f"{table.metric(arm)} worse by", values))
    return concluded(table, found, missing)
