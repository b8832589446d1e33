"""Whether a budget has room for a run: by the rule of `keep`, from what runs of the study took."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ebm.grids.budget import expected, keep
from ebm.grids.grid import READINGS, Grid
from ebm.grids.plan import Job
from ebm.grids.work import FINISHED
from ebm.grids.workers import Workers

RESERVE = 0.1  # of the time that is left, for what takes longer than it did before


def affords(grid: Grid, whole: Mapping[tuple[str, int, int], Job], job: Job, workers: Workers) -> bool:
    """Tells whether a budget has room for a run: after a first seed at the first point, by the rule of `keep`."""
    if workers.clock.left == math.inf:
        return True
    seeds, count = grid.drawn(), len(grid.points_of_runs())
    first = [whole[arm, 0, seeds[0]] for arm in grid.arms]
    if any(job.name == each.name for each in first):
        return True
    if any(each.name not in workers.outcomes for each in first):
        return False
    axis = next(iter(grid.axis.settings.values())) if grid.axis is not None and grid.axis.settings else []
    plain = all(isinstance(value, int | float) for value in axis)
    places = [float(value) for value in axis] if axis and plain else [float(each + 1) for each in range(count)]
    took: dict[str, dict[int, list[float]]] = {}
    for (arm, point, _), each in whole.items():
        if (found := workers.outcomes.get(each.name)) is not None and found.status == FINISHED:
            took.setdefault(arm, {}).setdefault(point, []).append(found.seconds)
    means = {arm: {point: sum(all_of) / len(all_of) for point, all_of in by.items()} for arm, by in took.items()}

    def cost(p: int, s: int) -> float:
        total, counted = 0.0, set[str]()
        for (arm, point, seed), each in whole.items():
            if point < p and seed in seeds[:s] and each.name not in workers.outcomes and each.name not in counted:
                counted.add(each.name)
                spent = workers.clock.now() - workers.running[each.name][2] if each.name in workers.running else 0.0
                total += max(0.0, expected(places, means.get(arm, {}), point) - spent)
        return total / workers.at_once

    kept = keep(count, len(seeds), READINGS[grid.test.use], cost, workers.clock.left * (1 - RESERVE))
    return job.point < kept.points and job.seed in seeds[: kept.seeds]
