"""What a model says of itself in its model.json, which is read without its weights, and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ebm.files import read_json
from ebm.registry import CORE

FORMAT = 1
INDEX, CARD = "model.json", "README.md"


class Stat(NamedTuple):
    """A number over seeds: its mean, its standard deviation (None for one seed), and of how many."""

    mean: float
    deviation: float | None = None
    seeds: int = 1

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.deviation is None else f"{self.mean:.4g} ± {self.deviation:.2g}"


def is_model(folder: Path) -> bool:
    """Tells whether a folder is that of an exported model."""
    return (folder / INDEX).is_file()


def check_is_run(folder: Path, asked: str) -> None:
    """Raises ValueError where a folder is a model, which has no history, and a run is needed.

    >>> check_is_run(Path("runs/x"), "a study")
    """
    if is_model(folder) and not (folder / "run.json").exists():
        raise ValueError(
            f"{folder} is a model, which has no history, and {asked} needs that of its run: its card tells its numbers"
        )


def index_of(folder: Path) -> dict[str, Any]:
    """Reads a model's model.json: "format", "parameters", "dtype", "headline", "requires", "files" …

    Raises:
        ValueError: it is no model of this toolkit, or of a newer version.
        CheckpointError: it is damaged.
    """
    path = folder / INDEX
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("format"), int) or not isinstance(found.get("files"), dict):
        raise ValueError(
            f"{folder} is no model of this toolkit: its {INDEX} has no format and no files, as `ebm export` writes them"
        )
    if found["format"] > FORMAT:
        what = f"format {found['format']} of ebm-toolkit {found.get('toolkit')}, and this one reads up to {FORMAT}"
        raise ValueError(f"{folder} was made by a newer version, in {what}: pip install --upgrade {CORE}")
    if found.pop("sha256", None) != seal(found):
        from ebm.runs.checkpoints import CheckpointError  # lazy: it takes torch

        raise CheckpointError(f"{path} is damaged: it is not what was written, by its SHA-256")
    return found


def headline_of(folder: Path) -> dict[str, str]:
    """Says of a model, without its weights, its first number over seeds, and its parameters."""
    if is_model(folder):
        index = index_of(folder)
        stat = dict(index["headline"] or {})
        name = stat.pop("name", "")
        return {"number": f"{name} {Stat(**stat)}" if name else "", "parameters": f"{index['parameters']:,}"}
    path = folder / "metrics.json"  # of a run
    found = [f"{name} {value:.4g}" for name, value in (read_json(path) if path.exists() else {}).items()]
    return {"number": next(iter(found), ""), "parameters": ""}


def seal(index: Mapping[str, Any]) -> str:
    """Hashes what a model.json holds, beside its own hash."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
