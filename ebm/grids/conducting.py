"""Conducting a grid: what is not done yet is run, as time allows, and what was found is written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ebm.files import atomic, check_writable, hold, holding, write_text
from ebm.grids import budget as budgets
from ebm.grids.findings import Finding, write_finding
from ebm.grids.grid import READINGS as LEAST
from ebm.grids.grid import Grid, read
from ebm.grids.launching import Launch, Running
from ebm.grids.picture import picture
from ebm.grids.plan import Job, jobs, points, tuning
from ebm.grids.progress import Progress
from ebm.grids.readings import READINGS, Reading
from ebm.grids.table import Table, balanced, rows_of, write_table
from ebm.grids.work import FAILED, FINISHED, LOGS, OUTCOMES, RUNS, Outcome, outcome_of, write_outcome
from ebm.registry import check_keywords
from ebm.runs.folder import differences

STUDY = "study.toml"  # marks the folder of a study, and says what it is
RESERVE = 0.1  # of the time that is left, for what takes longer than it did before
POLL = 0.05  # seconds between looks at what is running
TRIES = 2  # of a run whose process is killed
DIED = "its process ended without a word, as one does that runs out of memory or is killed"


class Clock:
    """How much time is left of a budget; without one, endless time."""

    def __init__(self, seconds: float = math.inf, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.end = now, now() + seconds

    @property
    def left(self) -> float:
        return self.end - self.now()


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
    reading = READINGS[grid.test["use"]]
    keywords = {key: value for key, value in grid.test.items() if key != "use"}
    check_keywords(f"test {grid.test['use']!r}", reading, {**keywords, "table": None})
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
                return _conclude(grid, folder, name, command, workers, {}, {}, "The time ended while learning rates were tuned")
            tuned = {arm: _best(grid, arm, each, workers.outcomes) for arm, each in tried.items()}
        whole = jobs(grid, {arm: found["value"] for arm, found in tuned.items()} if tried else None)
        unique = [*{job.name: job for job in whole.values()}.values()]
        workers.carry_out(unique, lambda job: _allowed(grid, whole, job, workers), lambda: look(whole))
    return _conclude(grid, folder, name, command, workers, whole, tuned)


class Workers:
    """Runs what is waiting, so many at a time, until all is done or the time is over."""

    def __init__(self, folder: Path, launch: Launch, at_once: int, clock: Clock, progress: Progress) -> None:
        self.folder, self.launch, self.at_once, self.clock, self.progress = folder, launch, at_once, clock, progress
        self.outcomes: dict[str, Outcome] = {}
        self.running: dict[str, tuple[Job, Running, float]] = {}  # with when it began

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.close()
        self._stop()

    def _stop(self) -> None:
        for _, process, _ in self.running.values():
            process.stop()
        for _, process, _ in self.running.values():
            process.wait()

    def carry_out(self, wanted: Sequence[Job], allowed: Callable[[Job], bool], look: Callable[[], None]) -> None:
        """Does runs in their order, each once it is allowed, and looks at what came of them."""
        self.outcomes |= {
            job.name: found for job in wanted if (found := outcome_of(self.folder, job)) is not None and found.final
        }
        waiting = [job for job in wanted if job.name not in self.outcomes]
        self.progress.expects(len(wanted), len(wanted) - len(waiting))
        tries = dict.fromkeys((job.name for job in waiting), 0)
        while waiting or self.running:
            if self.clock.left <= 0:
                self._stop()
                self._collect(waiting, {name: TRIES for name in tries})
                return
            for job in [*waiting]:
                if len(self.running) < self.at_once and allowed(job):
                    waiting.remove(job)
                    tries[job.name] += 1
                    (self.folder / OUTCOMES / f"{job.name}.json").unlink(missing_ok=True)  # what failed is tried again
                    self.running[job.name] = (job, self.launch(job), self.clock.now())
            if not self.running:
                return  # nothing that waits is allowed
            if self._collect(waiting, tries):
                look()
            time.sleep(POLL)

    def _collect(self, waiting: list[Job], tries: Mapping[str, int]) -> bool:
        """Reads what came of runs that have ended, and tells whether any has."""
        before = len(self.outcomes)
        for name, (job, process, _) in [*self.running.items()]:
            if not process.done():
                continue
            del self.running[name]
            found = outcome_of(self.folder, job)
            if found is None and tries[name] < TRIES:
                waiting.insert(0, job)  # it was killed, and goes on where it was saved
            elif found is not None or self.clock.left > 0:
                if found is None:
                    write_outcome(self.folder, job, found := Outcome(FAILED, DIED, job.digest))
                self.outcomes[name] = found
                self.progress.ended(job, found)
        return len(self.outcomes) > before


def _allowed(grid: Grid, whole: Mapping[tuple[str, int, int], Job], job: Job, workers: Workers) -> bool:
    """Tells whether a budget has room for a run: after a first seed at the first point, by the rule of `keep`."""
    if workers.clock.left == math.inf:
        return True
    seeds, count = grid.drawn(), len(points(grid))
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
                total += max(0.0, budgets.expected(places, means.get(arm, {}), point) - spent)
        return total / workers.at_once

    kept = budgets.keep(count, len(seeds), LEAST[grid.test["use"]], cost, workers.clock.left * (1 - RESERVE))
    return job.point < kept.points and job.seed in seeds[: kept.seeds]


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
    inside, left = balanced(grid, rows, LEAST[grid.test["use"]])
    table = Table(grid, inside)
    keywords = {key: value for key, value in grid.test.items() if key != "use"}
    reading = (
        READINGS[grid.test["use"]](table, **keywords)
        if inside
        else Reading("undecided", f"{stopped or 'No run is complete'}.", [])
    )
    write_table(folder / "table.csv", rows)
    if inside:
        with atomic(folder / "picture.png") as draft:
            draft.write_bytes(picture(table, reading))
    return write_finding(folder, name, grid, reading, table, left, tuned, workers.outcomes, command)
