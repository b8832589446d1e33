"""One run of a grid: done in a process of its own, which leaves what came of it in a file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ebm import recipes
from ebm.files import hold, holding, read_json, write_text
from ebm.grids.measured import MEASURED
from ebm.grids.plan import Job
from ebm.registry import components, reason_of
from ebm.runs.folder import finished

RUNS, OUTCOMES, LOGS = "runs", "outcomes", "logs"  # folders of a study
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
PATIENCE = 120.0  # seconds that a run's folder may be held by a process that is saving its last step


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    status: str  # FINISHED, DIVERGED or FAILED
    verdict: str  # what the doctor says, or why it could not end
    digest: str  # of its recipe
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)  # of the run's end
    validation: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether the same run would come to the same: what failed otherwise is tried again."""
        return self.status != FAILED


def outcome_of(folder: Path, job: Job) -> Outcome | None:
    """Reads what came of a run; None where nothing has yet.

    Raises:
        ValueError: the run was of another recipe, as that of another version of the toolkit.
    """
    path = folder / OUTCOMES / f"{job.name}.json"
    if not path.exists():
        return None
    try:
        found = Outcome(**read_json(path))
    except TypeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if found.digest != job.digest:
        raise ValueError(f"{folder} holds the run {job.name} of another recipe, which has changed since: choose another --out")
    return found


def write_outcome(folder: Path, job: Job, found: Outcome) -> None:
    """Keeps what came of a run."""
    write_text(folder / OUTCOMES / f"{job.name}.json", json.dumps(asdict(found), indent=2) + "\n")


def rows_at(folder: Path, run: str, study: str) -> Path:
    """Says where a grid keeps what a study found of a run: asking the run anew leaves that alone."""
    return folder / OUTCOMES / f"{run}.{study}.csv"


def work(folder: Path, job: Job) -> None:
    """Does one run, or goes on with it, measures it, and writes what came of it.

    Whatever a run raises is its outcome, and no other's; what stops it (a signal) is none.
    """
    began, path = time.monotonic(), folder / RUNS / job.name
    before = 0.0

    def done(status: str, verdict: str, **found: Any) -> None:
        seconds = round(before + time.monotonic() - began, 3)
        write_outcome(folder, job, Outcome(status, verdict, job.digest, seconds, **found))

    try:
        _await(path)
        began, before = time.monotonic(), start_of(folder / LOGS / f"{job.name}.starts.json", path)
        run = recipes.load_run(path) if finished(path) else recipes.run(job.recipe, out=path)
        validation = run.evaluate("validation") if job.validated else {}
        measured = {name: measure(run) for name, measure in MEASURED.items()} if job.measured else {}
        verdict = run.verdict
    except FloatingPointError as error:
        done(DIVERGED, str(error))
    except Exception as error:
        done(FAILED, reason_of(error))
    else:
        for name in components("study"):
            if name in job.recipe and (rows := path / f"{name}.csv").exists():
                write_text(rows_at(folder, job.name, name), rows.read_text(encoding="utf-8"))
        metrics = {name: float(value) for name, value in run.metrics.items()}
        line = "healthy" if verdict.healthy else str(verdict.cause or verdict.line)
        done(FINISHED, line, metrics=metrics, validation=validation, measured=measured)


def start_of(file: Path, run: Path) -> float:
    """Counts the seconds of a run's earlier starts, each up to the last file that it wrote, and notes the next."""
    before, at = read_json(file) if file.exists() else (0.0, math.inf)
    last = max((each.stat().st_mtime for each in run.rglob("*") if each.exists()), default=0.0)
    before += max(0.0, last - at)
    write_text(file, json.dumps([before, time.time()]))
    return before


def _await(path: Path, sleep: Callable[[float], None] = time.sleep) -> None:
    """Waits until nobody holds a run's folder: the process of a killed study may still be saving."""
    waited = 0.0
    while path.is_dir() and waited < PATIENCE:
        try:
            with holding():
                hold(path)
            return
        except BlockingIOError:
            sleep(0.2)
            waited += 0.2
