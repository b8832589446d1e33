"""Runs that wait are done, so many at a time, until all are or the time is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ebm.grids.launching import Launch, Running
from ebm.grids.plan import Job
from ebm.grids.progress import Progress
from ebm.grids.work import FAILED, OUTCOMES, Outcome, outcome_of, write_outcome

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
