"""`ebm eval RUN`: judge a run once more."""

from __future__ import annotations

from ebm.commands.console import print_json, print_numbers
from ebm.runs.run import Run


def evaluate(run: Run, /, *, split: str = "test", limit: int | None = None, seed: int | None = None, json: bool = False) -> None:
    """Evaluate a run by its task; without options, to the numbers that the run ended with.

    Args:
        run: the run folder.
        split: the part of the data to judge by.
        limit: how many examples at most; by default what the recipe says.
        seed: what every random draw is derived from; by default the recipe's.
        json: print JSON.
    """
    (print_json if json else print_numbers)(run.evaluate(split, limit=limit, seed=seed))
