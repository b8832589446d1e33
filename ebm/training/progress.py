"""Progress: a bar on a terminal, and in a log file a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from ebm.words import visible

LINES = 20  # that a whole training writes into a log, at most
SHOWN = 4  # numbers of a logged row


class Progress:
    """Shows how far a training has come, on stderr.

    Arguments:
        done: steps that were taken before.
        steps: steps in all.
        shown: whether this process is the one that speaks.
    """

    def __init__(self, done: int, steps: int, shown: bool) -> None:
        self.done, self.steps = done, steps
        self.logs = shown and not sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=done, disable=not shown or self.logs, dynamic_ncols=True)
        self.row: Mapping[str, float] = {}
        self.began = time.monotonic()

    def took(self, step: int, row: Mapping[str, float]) -> None:
        """Counts a step, and shows the row that was logged of it, if there is one."""
        self.bar.update()
        if row:
            self.row = row
            self.bar.set_postfix(self._numbers())
        share = LINES * step // self.steps
        if self.logs and share > LINES * (step - 1) // self.steps:
            left = (time.monotonic() - self.began) / (step - self.done) * (self.steps - step)
            numbers = "".join(f", {name} {value}" for name, value in self._numbers().items())
            line = f"step {step} of {self.steps}{numbers}, {tqdm.format_interval(left)} left"
            print(visible(line), file=sys.stderr, flush=True)

    def _numbers(self) -> dict[str, str]:
        return {visible(name): f"{value:.4g}" for name, value in [*self.row.items()][:SHOWN]}

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()
