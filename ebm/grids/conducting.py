"""Conducting a grid: what is not done yet is run, as time allows, and what was found is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ebm.files import atomic, check_writable, hold, holding, write_text
from ebm.grids.affording import affords
from ebm.grids.findings import Finding, write_finding
from ebm.grids.grid import READINGS as LEAST
from ebm.grids.grid import Grid, read
from ebm.grids.launching import Launch
from ebm.grids.picture import picture
from ebm.grids.plan import Job, jobs, tuning
from ebm.grids.progress import Progress
from ebm.grids.readings import READINGS, Reading
from ebm.grids.table import Table, balanced, rows_of, write_table
from ebm.grids.work import LOGS, OUTCOMES, RUNS, Outcome
from ebm.grids.workers import Clock, Workers
from ebm.registry import check_keywords
from ebm.runs.folder import differences

STUDY = "study.toml"  # marks the folder of a study, and says what it is


@holding()
def conduct(
    grid: Grid,
    folder: Path,
    launch: Callable[[Path], Launch],
    *,
    name: str,
    at_once: int = 1,
    clock: Clock | None = None,
    command: str = "",
) -> Finding:
    """Conducts a grid, or goes on with it: writes table.csv, picture.png and finding.json.

    Runs that ended are not done again. A process that is killed leaves a run that goes on where it
    was saved last, so that the same call ends with the same table.

    Arguments:
        grid: the study.
        folder: where its runs lie, and what is found.
        launch: makes of the folder what starts a run.
        name: what the study is called.
        at_once: how many runs are done at a time.
        clock: how much time there is.
        command: what to type to do it again.

    Raises:
        ValueError: the folder holds another study or a person's files, a recipe or a keyword cannot
            be, or no value that was tried for an arm could be trained with.
    """
    clock = Clock() if clock is None else clock
    reading = READINGS[grid.test.use]
    check_keywords(f"test {grid.test.use!r}", reading, {**grid.test.keywords, "table": None})
    _, tried = jobs(grid), tuning(grid)  # refuses what cannot be before anything is run
    _open(folder, grid)

    def look(whole: Mapping[tuple[str, int, int], Job]) -> None:
        rows_of(grid, whole, workers.outcomes, folder)  # a number that no run has is missed after the first

    with Workers(folder, launch(folder), at_once, clock, Progress(0)) as workers:
        tuned: dict[str, Any] = {}
        if tried:
            flat = [job for each in tried.values() for job in each]
            workers.carry_out(flat, lambda job: True, lambda: None)
            if failed := [job.name for job in flat if job.name in workers.outcomes and not workers.outcomes[job.name].final]:
                raise ValueError(f"{failed[0]}: {workers.outcomes[failed[0]].verdict}; the same command tries it again")
            if any(job.name not in workers.outcomes for job in flat):
                setting = grid.tune.setting if grid.tune is not None else ""
                return _conclude(grid, folder, name, command, workers, {}, {}, f"The time ended while {setting} was tuned")
            tuned = {arm: _best(grid, arm, each, workers.outcomes) for arm, each in tried.items()}
        whole = jobs(grid, {arm: found["value"] for arm, found in tuned.items()} if tried else None)
        unique = [*{job.name: job for job in whole.values()}.values()]
        workers.carry_out(unique, lambda job: affords(grid, whole, job, workers), lambda: look(whole))
    return _conclude(grid, folder, name, command, workers, whole, tuned)


def _best(grid: Grid, arm: str, tried: Sequence[Job], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Chooses the tried value that is best on validation data."""
    measure = grid.measure_of(arm)
    sign = 1.0 if measure.better == "higher" else -1.0
    found = {
        value: outcomes[job.name].validation.get(measure.metric, math.nan)
        for value, job in zip(grid.arms[arm].tune, tried, strict=True)
    }
    finite = {value: sign * score for value, score in found.items() if math.isfinite(score)}
    if not finite:
        why = outcomes[tried[0].name].verdict
        raise ValueError(
            f"arm {arm!r}: no value of {grid.tune.setting if grid.tune else ''} that was tried gave a {measure.metric} ({why})"
        )
    value = max(finite, key=finite.__getitem__)
    return {
        "value": value,
        "tried": {f"{each:g}": score for each, score in found.items()},
        "at_end": value in (min(found), max(found)),
    }


def _open(folder: Path, grid: Grid) -> None:
    """Makes the folder of a study, or finds the same study in it, and holds it."""
    check_writable(folder)
    mine = grid.model_dump(exclude_none=True)
    if folder.is_dir():
        hold(folder)
        if (folder / STUDY).exists():
            before = read(folder / STUDY).model_dump(exclude_none=True)
            if different := [place for place in differences(before, mine) if place != "seeds"]:
                raise ValueError(f"{folder} holds another study (another {', '.join(sorted(different))}): choose another --out")
        elif any(folder.iterdir()):
            raise ValueError(f"{folder} holds files, and is no study's folder: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder)
    write_text(folder / STUDY, tomli_w.dumps(mine))
    for each in (RUNS, OUTCOMES, LOGS):
        (folder / each).mkdir(exist_ok=True)


def _conclude(
    grid: Grid,
    folder: Path,
    name: str,
    command: str,
    workers: Workers,
    whole: Mapping[tuple[str, int, int], Job],
    tuned: Mapping[str, Any],
    stopped: str = "",
) -> Finding:
    """Writes the table, the picture and the finding of what is done."""
    rows = rows_of(grid, whole, workers.outcomes, folder)
    write_table(folder / "table.csv", rows)
    inside, left = balanced(grid, rows, LEAST[grid.test.use])
    table = Table(grid, inside)
    reading = (
        READINGS[grid.test.use](table, **grid.test.keywords)
        if inside
        else Reading("undecided", f"{stopped or 'No run is complete'}.", [])
    )
    if inside:
        with atomic(folder / "picture.png") as draft:
            draft.write_bytes(picture(table, reading))
    else:
        (folder / "picture.png").unlink(missing_ok=True)  # of other seeds
    return write_finding(folder, name, grid, reading, table, left, tuned, workers.outcomes, command)
