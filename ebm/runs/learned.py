"""What a run keeps of its data: all that its task learned from them, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import tomllib
import warnings
from pathlib import Path
from typing import Any

from ebm.files import commit, discard, draft_of, read_json, write_text
from ebm.runs.checkpoints import CheckpointError

FOLDER = "learned"  # in a run's folder
INDEX = "task.json"  # in that: the files beside it with their SHA-256, and what the data were


def fingerprint(task: Any) -> dict[str, str]:
    """Tells a task's data by what is in them, as {"data": …}; {} where that is not known."""
    return {"data": task.digest} if getattr(task, "digest", "") else {}


def keep(run: Path, task: Any, *, whole: bool = True) -> None:
    """Writes what a task learned into a run's folder, unless that was done; the index comes last.

    Without `whole` only what tells the data from others is written, as for a task made by hand,
    which is at hand when the run is loaded.
    """
    final = run / FOLDER
    if (final / INDEX).exists():
        return
    discard(draft := draft_of(final))
    draft.mkdir(parents=True)
    try:
        if whole and hasattr(task, "save_learned"):
            task.save_learned(draft)
        files = {str(path.relative_to(draft)): _sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()}
        index = {"data": "", **fingerprint(task), "reads": getattr(task, "reads", ""), "files": files}
        for name in files:
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            commit(draft / name, final / name)
        final.mkdir(exist_ok=True)
        write_text(final / INDEX, json.dumps(index, indent=2) + "\n")
    finally:
        discard(draft)


def kept(run: Path) -> Path | None:
    """Finds the folder of what a run keeps; None for a run that keeps nothing.

    Raises:
        CheckpointError: a file is missing, or is not what was written.
    """
    folder = run / FOLDER
    if not (folder / INDEX).exists():
        return None
    for name, digest in index_of(run)["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, which the run wrote and needs: restore it")
        if _sha256(path) != digest:
            raise CheckpointError(f"{path} is damaged: it is not what was written, by its SHA-256")
    return folder


def index_of(run: Path) -> dict[str, Any]:
    """Reads what a run says of its data: "data" (the fingerprint), "reads" and "files"."""
    path = run / FOLDER / INDEX
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict) or not isinstance(found.get("files", {}), dict):
        raise ValueError(f"{path} is damaged: it is no index of what a run keeps")
    return {"data": "", "reads": "", "files": {}, **found}


def read_recipe(run: Path) -> dict[str, Any]:
    """Reads a run's recipe.toml as it stands; ValueError names one that is damaged."""
    try:
        return tomllib.loads((path := run / "recipe.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a recipe: {error}") from error


def forget(run: Path) -> None:
    """Removes what a run keeps, and nothing else that is in its folder."""
    folder = run / FOLDER
    if folder.is_symlink() or not (folder / INDEX).exists():
        return
    for name in index_of(run)["files"]:
        path = folder / name
        if ".." not in Path(name).parts and not Path(name).is_absolute():
            path.unlink(missing_ok=True)
    (folder / INDEX).unlink()
    for place in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(place.iterdir()):
            place.rmdir()
    if not any(folder.iterdir()):
        folder.rmdir()


def warn_of_other_data(run: Path, task: Any, consequence: str) -> None:
    """Warns where a task's data are not those that a run was trained on, by their fingerprints."""
    before, now = index_of(run), fingerprint(task).get("data", "")
    if before["data"] and now and before["data"] != now:
        was = f"{before['reads']}; " if before["reads"] else ""
        warnings.warn(
            f"{run} was trained on other data ({was}their fingerprint was {before['data']}, and now it is {now}): {consequence}",
            stacklevel=3,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
