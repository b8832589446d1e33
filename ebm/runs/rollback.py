"""Rollback: after divergence, training resumes from the last good checkpoint with new draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tqdm import tqdm

from ebm.files import read_json, write_text
from ebm.runs import checkpoints
from ebm.words import visible

P = ParamSpec("P")
R = TypeVar("R")

MOST = 5  # rollbacks of a run: a sixth divergence is not bad luck
FILE = "rollbacks.json"


class RolledBack(Exception):
    """Raised by a training that then resumes from an earlier checkpoint."""

    def __init__(self, folder: Path, line: str) -> None:
        super().__init__(line)
        self.folder = folder


def rollbacks(folder: Path) -> list[dict[str, Any]]:
    """Lists a run's rollbacks: to which step (`to`) and why (`because`)."""
    path = folder / FILE
    return read_json(path) if path.exists() else []


def roll_back(folder: Path, because: str) -> RolledBack | None:
    """Prepares a run's folder to resume from its last good checkpoint; None if that is impossible.

    If training diverged from the same checkpoint before, that checkpoint is removed and the one
    before it is used. The draws after the n-th rollback follow from the run's seed and n.
    """
    before, saved = rollbacks(folder), checkpoints.steps(folder / "checkpoints")
    if not saved or len(before) == MOST:
        return None
    if before and before[-1]["to"] == saved[-1] and len(saved) > 1:
        checkpoints.remove(checkpoints.at(folder / "checkpoints", saved.pop()))
    write_text(folder / FILE, json.dumps([*before, {"to": saved[-1], "because": because}], indent=2) + "\n")
    return RolledBack(folder, f"rollback {len(before) + 1} of {MOST}, to step {saved[-1]}: {because}")


def retried(fit: Callable[P, R]) -> Callable[P, R]:
    """Calls a training function again after each rollback; the folder tells it where to resume."""

    @wraps(fit)
    def trained(*args: P.args, **keywords: P.kwargs) -> R:
        while True:
            try:
                return fit(*args, **keywords)
            except RolledBack as again:
                tqdm.write(visible(again))
                keywords["out"], keywords["overwrite"] = again.folder, False

    return trained
