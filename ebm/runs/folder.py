"""The folder of a run: found, made, told from another run's and from a person's files, and cleared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from ebm.files import hold, read_json, write_text
from ebm.registry import components
from ebm.runs import checkpoints, learned

BASELINE = "baseline"  # the folder, in a run's own, of the run that it is compared with
MARKER = "run.json"  # says that this toolkit wrote the files of these names; the first that a run writes
FOLDERS = ("checkpoints", "tensorboard", learned.FOLDER)
EXTENDED = "extended.json"  # lists where a finished run was trained on from: {"step", "metrics"}
WRITTEN = ("recipe.toml", "metrics.csv", "metrics.json", "rollbacks.json", EXTENDED, "report.html")
# What an extension may change, beside callbacks: how long training goes on, by which schedule, and how it is told.
SCHEDULE = ("steps", "lr", "sampler_lr", "warmup", "schedule", "lr_end", "scheduler")
SHARED = ("devices", "strategy", "num_nodes")  # which processes train: the batches stay the same
MADE = ("compile", "activation_checkpointing")  # how it is computed: the same numbers, but for rounding
TOLD = ("log_every", "evaluate_every", "evaluate_limit", "checkpoint_every", "on_divergence", *MADE, *SHARED)
EVENTS = "events.out.tfevents.*"  # what TensorBoard's writer calls its files


def finished(path: Path) -> bool:
    """Tells whether a folder holds a finished run: final metrics, and the report after them."""
    return (path / "metrics.json").exists() and (path / "report.html").exists()


def open_folder(
    out: str | Path | None, described: Mapping[str, Any], recipe: Mapping[str, Any] | None, overwrite: bool, extend: bool = False
) -> Path:
    """Makes a run's folder, or finds the unfinished run of the same description in it, and holds it.

    With `extend`, that is also a finished run that shall take more steps, or another schedule.
    Files that no run of this toolkit wrote are never touched. To be called inside `holding`.

    Raises:
        ValueError: where the folder holds another run or a finished one, or a person's files of a
            run's names, where another command writes to it, or where it cannot be written to.
    """
    path = Path(out) if out is not None else fresh_folder(Path("runs") / "run")
    described = json.loads(json.dumps({**described, "recipe": recipe}))
    try:
        path.mkdir(parents=True, exist_ok=True)
        hold(path)
        check_ours(path)
        if not overwrite and (path / MARKER).exists():
            before = check_same(path, described, extend)
            if finished(path):
                _reopen(path)
            if checkpoints.latest(path / "checkpoints") is not None:
                if before != described:
                    _describe(path, described, recipe, marker_last=True)
                return path
        clear(path)  # a run that left no checkpoint starts anew
        _describe(path, described, recipe)
    except BlockingIOError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(f"the run folder {path} cannot be written to: {error}") from error
    return path


def _describe(path: Path, described: Mapping[str, Any], recipe: Mapping[str, Any] | None, marker_last: bool = False) -> None:
    """Writes what a run is: its marker first, or last where an older one stands and says what to write."""
    texts = {MARKER: json.dumps(described, indent=2) + "\n"}
    if recipe is not None:
        texts["recipe.toml"] = tomli_w.dumps(recipe)
    for name in reversed(texts) if marker_last else texts:
        write_text(path / name, texts[name])


def check_ours(path: Path, whole: Path | None = None) -> None:
    """Raises ValueError where a folder has files of a run's names that no run here wrote.

    The marker of a run is its run.json; without one, such files are somebody's. Symbolic links of
    these names are nobody's run's, since nothing is written through a link; nor is one from the
    folder of the `whole` run to that of its baseline.
    """
    if path != whole and whole is not None and path.is_symlink():
        raise ValueError(f"{path} is a symbolic link, through which no baseline is written: choose another out")
    names = [name for name in _names() if (path / name).exists() or (path / name).is_symlink()]
    links = [name for name in names if (path / name).is_symlink()]
    if links:
        raise ValueError(
            f"{path} holds the symbolic link {', '.join(links)}, through which no run is written: choose another out"
        )
    if names and not _is_marker(path / MARKER):
        raise ValueError(
            f"{path} holds {', '.join(names)}, which no run of this toolkit wrote and none will touch: choose another out, "
            f"or move them away"
        )


def _names() -> list[str]:
    return [MARKER, *FOLDERS, *WRITTEN, *(f"{study}.csv" for study in components("study"))]


def _is_marker(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no run's description: {error}; choose another out, or restore it") from error
    return isinstance(found, dict) and {"settings", "parts"} <= found.keys()


def fresh_folder(path: Path) -> Path:
    """Finds a name that no finished run has taken: path, path-2, path-3 …"""
    number, found = 1, path
    while finished(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def clear(path: Path) -> None:
    """Removes what a run wrote into a folder, and nothing else; its marker stays until the next one."""
    checkpoints.clear(path / "checkpoints")
    learned.forget(path)
    for events in (path / "tensorboard").glob(EVENTS):
        events.unlink()
    for folder in FOLDERS:
        with suppress(OSError):  # it is not there, or holds what is not ours
            (path / folder).rmdir()
    for name in set(_names()) - {MARKER, *FOLDERS}:
        (path / name).unlink(missing_ok=True)


def _reopen(path: Path) -> None:
    """Makes a finished run one that goes on: notes its last step and metrics, then takes those away."""
    noted = {"step": checkpoints.steps(path / "checkpoints")[-1], "metrics": read_json(path / "metrics.json")}
    write_text(path / EXTENDED, json.dumps([*extensions(path), noted], indent=2) + "\n")
    (path / "metrics.json").unlink()


def extensions(path: Path) -> list[dict[str, Any]]:
    """Lists where a run, once finished, was trained on from: its step, and its metrics there."""
    return read_json(path / EXTENDED) if (path / EXTENDED).exists() else []


def _check_extension(path: Path, before: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Raises ValueError where a run cannot be trained on as it is described now."""
    free = {f"{table}.{name}" for table in ("settings", "recipe.fit") for name in (*SCHEDULE, *TOLD)}
    free |= {"recipe.summary", "parts.scheduler", "recipe.pace"}
    before, described = (_without_rates(each) for each in (before, described))
    different = sorted(differences(before, described))
    others = [name for name in different if name not in free and not re.search(r"\.(scheduler|callbacks)\b", name)]
    if others:
        what = f"an extension may change {', '.join(SCHEDULE)}, and nothing that is learned or learned from"
        raise ValueError(f"{path} holds a run with another {', '.join(others)}: {what}")
    steps, taken = described["settings"]["steps"], checkpoints.steps(path / "checkpoints")[-1:]
    if not taken or steps <= taken[0]:
        done = f"has taken {taken[0]}" if taken else "has no checkpoint to go on from"
        raise ValueError(f"steps={steps}: the run in {path} {done}: ask for more steps, as in --extend --steps {2 * steps}")


def _without_rates(described: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves learning rates out of what a description says of the optimiser."""
    parts = {**described["parts"], "optimizer": re.sub(r"\blr=[^,)]*", "", described["parts"].get("optimizer", ""))}
    return {**described, "parts": parts}


def check_same(path: Path, described: Mapping[str, Any], extend: bool) -> Mapping[str, Any]:
    """Returns the description of the unfinished run that may go on."""
    before = read_json(path / MARKER)
    if finished(path) and not extend:
        raise ValueError(
            f"{path} holds a finished run: choose another out, or pass overwrite=True to start anew, "
            f"or extend=True and more steps to train it on"
        )
    if extend and (finished(path) or before != described):
        _check_extension(path, before, described)
        return before
    saved = checkpoints.steps(path / "checkpoints")
    if not saved:
        return before  # it trained nothing that could be lost
    # A run that the doctor stopped may go on with another answer to divergence, any may be computed
    # otherwise, and trained by another number of processes, and one that has been trained to its end
    # may be evaluated by another limit.
    trained = saved[-1] == before["settings"].get("steps")
    different = [
        name
        for name in sorted(differences(before, described))
        if not name.endswith(tuple(f".{name}" for name in ("on_divergence", *MADE, *SHARED)))
        and not (trained and name.endswith("evaluate_limit"))
    ]
    if different == ["data"]:
        raise ValueError(
            f"{path} holds an unfinished run with another data: they have changed since it began (their fingerprint was "
            f"{before['data']}, and now it is {described.get('data')}): bring them back, choose another out, or pass "
            f"overwrite=True to start anew"
        )
    if different:
        raise ValueError(
            f"{path} holds an unfinished run with another {', '.join(different)}: choose another out, "
            f"or pass overwrite=True to start anew"
        )
    return before


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Lists the paths at which two descriptions differ.

    >>> differences({"fit": {"steps": 3, "lr": 1.0}}, {"fit": {"steps": 4, "lr": 1.0}})
    ['fit.steps']
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [d for key in a.keys() | b.keys() for d in differences(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))]
    return [] if a == b else [path]
