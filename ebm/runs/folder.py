"""The folder of a run: found, made, told from another run's, and cleared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from ebm.files import write_text
from ebm.registry import components
from ebm.runs import checkpoints

BASELINE = "baseline"  # the folder, in a run's own, of the run that it is compared with
WRITTEN = ("run.json", "recipe.toml", "metrics.csv", "metrics.json", "rollbacks.json", "report.html")


def finished(path: Path) -> bool:
    """Tells whether a folder holds a finished run: final metrics, and the report after them."""
    return (path / "metrics.json").exists() and (path / "report.html").exists()


def open_folder(out: str | Path | None, described: Mapping[str, Any], recipe: Mapping[str, Any] | None, overwrite: bool) -> Path:
    """Makes a run's folder, or finds the unfinished run of the same description in it.

    Raises:
        ValueError: where the folder holds another run or a finished one, or cannot be written to.
    """
    path = Path(out) if out is not None else fresh_folder(Path("runs") / "run")
    described = json.loads(json.dumps({**described, "recipe": recipe}))
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not overwrite and (path / "run.json").exists():
            _check_same(path, described)
            if checkpoints.latest(path / "checkpoints") is not None:
                return path
        clear(path)  # a run that left no checkpoint starts anew
        if recipe is not None:
            write_text(path / "recipe.toml", tomli_w.dumps(recipe))
        write_text(path / "run.json", json.dumps(described, indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"the run folder {path} cannot be written to: {error}") from error
    return path


def fresh_folder(path: Path) -> Path:
    """Finds a name that no finished run has taken: path, path-2, path-3 …"""
    number, found = 1, path
    while finished(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def clear(path: Path) -> None:
    """Removes what a run wrote into a folder, and nothing else."""
    for name in ("checkpoints", "tensorboard"):
        if (path / name).exists():
            shutil.rmtree(path / name)
    for name in (*WRITTEN, *(f"{study}.csv" for study in components("study"))):
        (path / name).unlink(missing_ok=True)


def _check_same(path: Path, described: Mapping[str, Any]) -> None:
    if finished(path):
        raise ValueError(f"{path} holds a finished run: choose another out, or pass overwrite=True to start anew")
    if checkpoints.latest(path / "checkpoints") is None and _is_json(path / "run.json"):
        return  # it trained nothing that could be lost
    try:
        before = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / 'run.json'} is no run's description: {error}; pass overwrite=True to start anew") from error
    # A run that the doctor stopped may go on with another answer to divergence.
    different = sorted(path for path in _differences(before, described) if not path.endswith("on_divergence"))
    if different:
        raise ValueError(
            f"{path} holds an unfinished run with another {', '.join(different)}: choose another out, "
            f"or pass overwrite=True to start anew"
        )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [d for key in a.keys() | b.keys() for d in _differences(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))]
    return [] if a == b else [path]
