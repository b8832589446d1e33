"""Going back: where training diverged, the last good checkpoint and new draws, as practitioners do
by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tqdm import tqdm

from ebm.files import write_text
from ebm.runs import checkpoints

P = ParamSpec("P")
R = TypeVar("R")

MOST = 5  # times that a run goes back: what diverges again and again is no bad luck
FILE = "rollbacks.json"


class RolledBack(Exception):
    """Raised out of a training that goes on from an earlier checkpoint."""

    def __init__(self, folder: Path, line: str) -> None:
        super().__init__(line)
        self.folder = folder


def rollbacks(folder: Path) -> list[dict[str, Any]]:
    """Lists how often a run went back: to which step (`to`) and why (`because`)."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def roll_back(folder: Path, because: str) -> RolledBack | None:
    """Makes a run's folder ready to go on from its last good checkpoint; None where there is none,
    or it went back too often.

    A checkpoint from which training has diverged again is given up for the one before it, where
    there is one. The draws after the n-th time follow from the run's seed and n: all that is to be
    known stands in the folder.
    """
    before, saved = rollbacks(folder), checkpoints.steps(folder / "checkpoints")
    if not saved or len(before) == MOST:
        return None
    if before and before[-1]["to"] == saved[-1] and len(saved) > 1:
        checkpoints.remove(checkpoints.at(folder / "checkpoints", saved.pop()))
    write_text(folder / FILE, json.dumps([*before, {"to": saved[-1], "because": because}], indent=2) + "\n")
    return RolledBack(folder, f"rollback {len(before) + 1} of {MOST}, to step {saved[-1]}: {because}")


def retried(fit: Callable[P, R]) -> Callable[P, R]:
    """Calls a training function again for as long as it rolls back; it finds in its folder where to
    go on."""

    @wraps(fit)
    def trained(*args: P.args, **keywords: P.kwargs) -> R:
        while True:
            try:
                return fit(*args, **keywords)
            except RolledBack as again:
                tqdm.write(str(again))
                keywords["out"], keywords["overwrite"] = again.folder, False

    return trained
