"""Paths in a recipe: kept absolute, so that a run finds its data from any folder, beside what was typed."""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ebm.registry import component
from ebm.runs.portable import TYPED


def absolute(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Makes local paths of a resolved recipe's task absolute; "typed" keeps what stood there.

    Which keywords may be paths the task's factory says, as `Task.paths`. A value is one where a
    file or a folder is called so, or where it begins as paths do.

    >>> recipe = {"task": {"use": "text", "source": "./x.txt", "tokenizer": "bytes"}}
    >>> found = absolute(recipe)
    >>> Path(found["task"]["source"]).is_absolute(), found["task"]["tokenizer"], found["typed"]
    (True, 'bytes', {'task.source': './x.txt'})
    """
    typed: dict[str, Any] = {}
    table = _table("task", recipe["task"], "task", typed)
    typed = {**recipe.get(TYPED, {}), **typed}
    return {**recipe, "task": table} | ({TYPED: typed} if typed else {})


def _table(kind: str, table: Mapping[str, Any], path: str, typed: dict[str, Any]) -> dict[str, Any]:
    known: Mapping[str, Collection[str]] = getattr(component(kind, table["use"]).factory, "paths", {})
    made = dict(table)
    for name, value in table.items():
        if isinstance(value, Mapping) and "use" in value:  # a task's encoder
            made[name] = _table(name, value, f"{path}.{name}", typed)
        elif name in known and (found := _absolute(value, known[name])) != value:
            typed[f"{path}.{name}"], made[name] = value, found
    return made


def _absolute(value: Any, words: Collection[str]) -> Any:
    if isinstance(value, list | tuple):
        return [_absolute(part, words) for part in value]
    if isinstance(value, Mapping):
        return {key: _absolute(part, words) for key, part in value.items()}
    if not isinstance(value, str) or value in words or not value:
        return value
    path = Path(value).expanduser()
    try:
        there = path.exists() or (glob.has_magic(value) and bool(glob.glob(str(path))))
    except OSError:  # a text, too long for a file's name
        return value
    is_path = there or value.startswith((".", "~", "/"))
    return str(path.absolute()) if is_path else value
