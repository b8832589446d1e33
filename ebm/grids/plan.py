"""The runs of a grid: each arm at each point with each seed, and once where two arms share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ebm.grids.grid import MEASURES, Grid, slug
from ebm.recipes import load, resolve
from ebm.registry import components

TUNING = "tune"  # what names of runs that tune begin with


class Job(NamedTuple):
    """A run to be done: its folder's name, its place in the grid, its recipe, and what is asked of it."""

    name: str
    arm: str
    point: int
    seed: int
    recipe: dict[str, Any]  # resolved
    measured: bool = False  # whether it is asked where it lies along the axis
    validated: bool = False

    @property
    def digest(self) -> str:
        """Tells its recipe from others."""
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:16]


def jobs(grid: Grid, tuned: Mapping[str, float] | None = None) -> dict[tuple[str, int, int], Job]:
    """Lists the runs of a grid: (arm, point, seed) -> the run, the same where arms share one.

    Points are taken in their order with the first seed, then with the next. Along a study's column
    there is one point, whose run has all of its rows.

    Raises:
        ValueError: a recipe or a setting cannot be; names the arm.
    """
    found: dict[tuple[str, int, int], Job] = {}
    known: dict[str, str] = {}
    taken: dict[str, str] = {}
    count = len(grid.points_of_runs())
    for seed in grid.drawn():
        for point in range(count):
            for arm in grid.arms:
                values = {} if grid.tune is None or tuned is None else {grid.tune.setting: tuned[arm]}
                recipe = recipe_of(grid, arm, point, seed, values)
                where = f".{slug(grid.points_of_runs()[point])}" if grid.points_of_runs()[point] else ""
                name = f"{slug(arm)}{where}.seed-{seed}"
                measured = grid.axis is not None and grid.axis.x in MEASURES
                job = Job(name, arm, point, seed, recipe, measured)
                name = known.setdefault(job.digest, _apart(taken, job))
                found[arm, point, seed] = job._replace(name=name)
    return found


def tuning(grid: Grid) -> dict[str, list[Job]]:
    """Lists the runs that tune each arm, in the order of its values: at one point, by a seed of their own."""
    if grid.tune is None:
        return {}
    point = grid.points_of_runs().index(grid.tune.point) if grid.tune.point else 0
    found: dict[str, list[Job]] = {}
    taken: dict[str, str] = {}
    for arm, about in grid.arms.items():
        for value in about.tune:
            recipe = recipe_of(grid, arm, point, grid.tune.seed, {grid.tune.setting: value})
            name = f"{TUNING}.{slug(arm)}.{value:g}"
            job = Job(name, arm, point, grid.tune.seed, recipe, validated=True)
            found.setdefault(arm, []).append(job._replace(name=_apart(taken, job)))
    return found


def _apart(taken: dict[str, str], job: Job) -> str:
    """Names a run; where another recipe's has the name, as at the points -1 and 1, its digest tells them apart."""
    return job.name if taken.setdefault(job.name, job.digest) == job.digest else f"{job.name}.{job.digest}"


def recipe_of(grid: Grid, arm: str, point: int, seed: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """Resolves the recipe of a run: without baselines, and with the study alone that is measured.

    Raises:
        ValueError: as `jobs`.
    """
    about, measure = grid.arms[arm], grid.measure_of(arm)
    along = {key: each[point] for key, each in grid.axis.settings.items()} if grid.axis is not None else {}
    try:
        recipe = load(about.recipe)
        left_out = {"baseline", "baseline_fit", "pace", *components("study")}
        bare = {key: value for key, value in recipe.items() if key not in left_out}
        if measure.study:
            bare[measure.study] = measure.keywords
        return resolve(bare, {**grid.settings, **about.settings, **along, **values, "seed": seed})
    except ValueError as error:
        raise ValueError(f"arm {arm!r}, recipe {about.recipe}: {error}") from error
