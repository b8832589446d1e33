"""Progress of a study: one line for all runs; in a log file a line for each that ends."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from ebm.grids.plan import Job
from ebm.grids.work import FINISHED, Outcome
from ebm.words import visible


class Progress:
    """Shows on stderr how many runs have ended, which was the last, and how long the others may take."""

    def __init__(self, count: int) -> None:
        self.logs = not sys.stderr.isatty()
        self.bar = tqdm(total=count, unit="run", disable=self.logs, dynamic_ncols=True)
        self.expects(count, 0)

    def expects(self, count: int, done: int) -> None:
        """Begins anew, with so many runs, of which some are done."""
        self.count, self.first, self.done, self.began = count, done, done, time.monotonic()
        self.bar.reset(total=count)
        self.bar.update(done)

    def ended(self, job: Job, found: Outcome) -> None:
        """Tells of a run that has ended."""
        self.done += 1
        said = job.name if found.status == FINISHED else f"{job.name} {found.status}: {found.verdict[:100]}"
        self.bar.set_postfix_str(visible(said), refresh=False)
        self.bar.update()
        if self.logs:
            left = (time.monotonic() - self.began) / (self.done - self.first) * (self.count - self.done)
            line = f"run {self.done} of {self.count}, {said}, {tqdm.format_interval(left)} left"
            print(visible(line), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line."""
        self.bar.close()
