"""The bundled studies, shrunken to a step each, end: their recipes train, and the numbers they measure are there."""

from __future__ import annotations

import csv

import pytest

from ebm.grids.conducting import conduct
from ebm.grids.grid import Grid, load, parse
from tests.fake_plugins import quick_report
from tests.grids.grids import Here
from tests.grids.test_grid import BUNDLED

SMALL = {"fit.steps": 1, "fit.batch_size": 2, "fit.evaluate_limit": 1, "fit.warmup": 0}


def shrunken(grid: Grid) -> Grid:
    """Makes of a study one with the same arms, points and reading, of one seed and a step of training for each run."""
    made = grid.model_dump(exclude_none=True)
    made["seeds"] = 1
    axis = made.get("axis", {})
    for setting, values in axis.get("settings", {}).items():
        axis["settings"][setting] = [n + 1 for n in range(len(values))] if setting.startswith("fit.") else values
    for arm in made["arms"].values():
        arm["settings"] = {key: value for key, value in arm["settings"].items() if not key.startswith("fit.")}
        if "objective.steps" in arm["settings"]:
            arm["settings"]["objective.steps"] = [0]  # by the last objective from the start
        arm["tune"] = arm["tune"][:1]
        if "passes" in arm["measure"].get("keywords", {}):
            arm["measure"]["keywords"]["passes"], arm["measure"]["where"]["steps"] = [2], 2
    for measure in (made["measure"], *(arm["measure"] for arm in made["arms"].values())):
        if "limit" in (keywords := measure.get("keywords", {})):
            keywords["limit"] = 40 if made["measure"]["study"] == "probe" else 1
    made["settings"] = {**made["settings"], **{key: value for key, value in SMALL.items() if key not in axis.get("settings", {})}}
    return parse(made)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_study_ends(name, tmp_path, monkeypatch):
    quick_report(monkeypatch)
    grid = shrunken(load(name))
    found = conduct(grid, tmp_path / "s", Here(), name=name)
    assert (found.left_out, found.verdict) == ([], "undecided")  # one seed decides nothing
    with (tmp_path / "s" / "table.csv").open() as file:
        measured = [(row["arm"], row["point"], row["value"], row["verdict"]) for row in csv.DictReader(file)]
    assert [row for row in measured if not row[2]] == []
    assert [(arm, point) for arm, point, *_ in measured] == [(arm, point) for arm in grid.arms for point in grid.points_of(arm)]
