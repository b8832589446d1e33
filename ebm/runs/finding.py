"""Finds what is named: a run's or a model's folder, a registered model, or one of the hub."""

from __future__ import annotations

from pathlib import Path

from ebm.registry import component, components
from ebm.runs import hub
from ebm.runs.folder import MARKER
from ebm.runs.index import INDEX, is_model
from ebm.words import nearest


def find(path: str | Path) -> Path:
    """Finds the folder of a run or a model: a folder, a registered name, or `owner/name` of the hub.

    A folder that holds neither does not hide a registered model of its name.

    Raises:
        ValueError: there is none; names the nearest known model.
        OSError: it may be one of the hub, which cannot be reached.
    """
    folder, name, known = Path(path), str(path), components("model")
    if is_model(folder) or (folder / MARKER).exists() or (folder / "checkpoints").is_dir():
        return folder
    if any(name in (found.name, f"{found.distribution}:{found.name}") for found in known.values()):
        return Path(str(component("model", name).factory))
    models = f"of the models {nearest(name, known)}" if known else "no model is registered"
    if folder.exists():
        raise ValueError(f"{path} holds no run with a checkpoint, and no model, which has a {INDEX}; {models}")
    if hub.is_name(name) and not folder.parent.exists():
        return hub.fetch(name, f"{path} is no folder here and holds no run with a checkpoint; {models}")
    asked = f" ({folder.parent} is a folder here, so the hub is not asked)" if hub.is_name(name) else ""
    raise ValueError(f"{path} holds no run with a checkpoint: there is no such folder{asked}; {models}")
