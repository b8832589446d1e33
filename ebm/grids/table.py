"""What was measured: a row for each arm, point and seed, as a table that readings ask."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ebm.files import atomic
from ebm.grids.budget import ENOUGH
from ebm.grids.grid import Grid, Measure
from ebm.grids.plan import Job
from ebm.grids.work import FINISHED, Outcome, rows_at
from ebm.studies.findings import Row as Found
from ebm.studies.findings import read_rows
from ebm.words import nearest


class Row(NamedTuple):
    """One number, or why there is none."""

    arm: str
    point: str
    x: float
    seed: int
    metric: str
    value: float  # not a number where the run has none
    verdict: str
    run: str


class Table:
    """Rows by arm, point and seed."""

    def __init__(self, grid: Grid, rows: Iterable[Row]) -> None:
        self.grid, self.rows = grid, list(rows)
        self._found = {(row.arm, row.point, row.seed): row for row in self.rows}

    def points(self, arm: str) -> list[str]:
        """Names an arm's points that have rows."""
        had = {row.point for row in self.rows if row.arm == arm}
        return [point for point in self.grid.points_of(arm) if point in had]

    def values(self, arm: str, point: str) -> dict[int, float]:
        """Lists an arm's numbers at a point by seed; without those that are missing."""
        found = {row.seed: row.value for row in self.rows if (row.arm, row.point) == (arm, point)}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}

    def gains(self, arm: str, other: str, point: str) -> dict[int, float]:
        """Says by seed by how much an arm is better than another at a point."""
        sign = 1.0 if self.grid.measure_of(arm).better == "higher" else -1.0
        ours, theirs = self.values(arm, point), self.values(other, point)
        return {seed: sign * (value - theirs[seed]) for seed, value in ours.items() if seed in theirs}

    def metric(self, arm: str) -> str:
        """Names what an arm is measured by."""
        return self.grid.measure_of(arm).metric

    def place(self, arm: str, point: str) -> float:
        """Says where a point lies: the mean over seeds where that is measured."""
        found = [row.x for row in self.rows if (row.arm, row.point) == (arm, point) and math.isfinite(row.x)]
        return sum(found) / len(found) if found else math.nan

    @property
    def missing(self) -> list[Row]:
        """Lists the rows without a number."""
        return [row for row in self.rows if not math.isfinite(row.value)]


def rows_of(grid: Grid, jobs: Mapping[tuple[str, int, int], Job], outcomes: Mapping[str, Outcome], folder: Path) -> list[Row]:
    """Arranges what came of runs: by arm, point and seed; those that have not run yet have no row.

    Raises:
        ValueError: a run has not the number that is measured, or several; names what it has.
    """
    rows: list[Row] = []
    asked = grid.axis.x if grid.axis is not None else ""
    for arm in grid.arms:
        measure, along = grid.measure_of(arm), grid.axis is not None and bool(grid.axis.column)
        for number, point in enumerate(grid.points_of(arm)):
            place = grid.places_of(arm)[number]
            for seed in grid.drawn():
                job = jobs.get((arm, 0 if along else number, seed))
                outcome = None if job is None else outcomes.get(job.name)
                if job is None or outcome is None:
                    continue
                x = outcome.measured.get(asked, place) if isinstance(asked, str) else place
                value, verdict = math.nan, outcome.verdict
                if outcome.status == FINISHED:
                    value, said = _measured(grid, measure, number, arm, outcome, folder, job.name)
                    verdict = said or verdict
                rows.append(Row(arm, point, x, seed, measure.metric, value, verdict, job.name))
    return rows


def _measured(grid: Grid, measure: Measure, point: int, arm: str, outcome: Outcome, folder: Path, run: str) -> tuple[float, str]:
    """Reads the number of a finished run, or says why it has none."""
    if not measure.study:
        if measure.metric not in outcome.metrics:
            raise ValueError(f"arm {arm!r}: measure.metric = {measure.metric!r}: {nearest(measure.metric, outcome.metrics)}")
        return outcome.metrics[measure.metric], ""
    where = dict(measure.where)
    if grid.axis is not None and grid.axis.column and grid.axis.column not in where:
        where[grid.axis.column] = (grid.arms[arm].values or grid.axis.values)[point]
    found = read_rows(rows_at(folder, run, measure.study))
    if not found:
        return math.nan, f"the study {measure.study} found nothing: its report says why"
    return number_in(found, measure, where), ""


def number_in(found: Sequence[Found], measure: Measure, where: Mapping[str, Any]) -> float:
    """Reads the one number of a study's rows that is meant.

    Raises:
        ValueError: no row is meant, or several that differ in more than what is averaged over.

    >>> rows = [{"steps": 1, "name": "loss", "value": 3.0}, {"steps": 2, "name": "loss", "value": 2.0}]
    >>> number_in(rows, Measure(metric="loss"), {"steps": 2})
    2.0
    """
    named = "name" in found[0] and "value" in found[0]
    asked = {**where, "name": measure.metric} if named else where
    column = "value" if named else measure.metric
    default = {"choice": ""} if named else {}  # a column that was empty in all rows is left out of a csv
    meant = [row for row in found if all(str({**default, **row}.get(key)) == str(value) for key, value in asked.items())]
    meant = [row for row in meant if isinstance(row.get(column), int | float)]
    said = ", ".join(f"{key} = {value}" for key, value in asked.items())
    if not meant:
        had = {key: list(dict.fromkeys(str(row.get(key)) for row in found))[:12] for key in asked}
        raise ValueError(f"no row of the study {measure.study} has a {column} with {said}: the rows have {had}")
    kept = [{key: cell for key, cell in row.items() if key not in (*measure.mean_over, column)} for row in meant]
    if different := [key for key in kept[0] if any(row[key] != kept[0][key] for row in kept)]:
        raise ValueError(
            f"{len(meant)} rows of {measure.study} have {said}, and differ in {', '.join(different)}: "
            f"add to measure.where, or to measure.mean_over"
        )
    return sum(row[column] for row in meant) / len(meant)


def balanced(grid: Grid, rows: Sequence[Row], fewest: int = 1) -> tuple[list[Row], list[str]]:
    """Keeps a balanced table, each point with each seed for all arms, and says what is left out.

    The most points, from the first on, that three seeds have (or all, of fewer), and those seeds; at
    least as many points as a reading needs, if any seed has them.
    """
    have = {(row.arm, row.point, row.seed) for row in rows}
    names = grid.points_of_runs()

    def complete(number: int, seed: int) -> bool:
        wanted = ((arm, grid.points_of(arm)) for arm in grid.arms)
        return all((arm, p, seed) in have for arm, all_of in wanted for p in (all_of if len(names) == 1 else [all_of[number]]))

    def through(count: int) -> list[int]:
        return [seed for seed in grid.drawn() if all(complete(number, seed) for number in range(count))]

    enough = min(ENOUGH, len(through(1)))
    count = max((c for c in range(1, len(names) + 1) if (s := len(through(c))) >= enough or (s and c <= fewest)), default=0)
    seeds = through(count) if count and enough else []
    kept = {*names[:count]} if seeds else set()
    left = [f"point {name}" for name in names if name not in kept and name]
    left += [f"seed {seed}" for seed in grid.drawn() if seed not in seeds]
    return [row for row in rows if row.seed in seeds and (len(names) == 1 or row.point in kept)], left


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Writes all rows as a csv file, floats in full, and no value where there is none."""
    with atomic(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(
            ["" if cell != cell else repr(cell) if isinstance(cell, float) else cell for cell in row] for row in rows
        )
