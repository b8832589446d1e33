"""What a study finds: rows of names and numbers, kept as a table in the run's folder."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ebm.files import atomic, read_csv
from ebm.registry import component, imported
from ebm.runs.run import Run

Row: TypeAlias = dict[str, Any]


class Finding(NamedTuple):
    """One number: who predicted, on which split, how it thought, and what was measured."""

    who: str = "run"  # or "baseline", or a rival's name
    split: str = "test"
    steps: int = 0  # per landscape, or a baseline's forward passes; 0: it does not think
    candidates: int = 1
    name: str = ""
    value: float = math.nan
    choice: str = ""  # how one of several candidates was chosen; "": by the lowest energy


def conduct(run: Run, name: str, keywords: Mapping[str, Any], *, seed: int | None = None) -> list[Row]:
    """Conducts a registered study, and keeps what it finds, if anything, as NAME.csv in the run's folder.

    Arguments:
        run: a trained run.
        name: the study's registered name.
        keywords: the study's keywords.
        seed: what the study's draws are derived from, where it has such a keyword.

    Raises:
        ValueError: for an unknown study, or findings that are no rows.
    """
    found = component("study", name)
    study = imported(found)
    if seed is not None and "seed" in signature(study).parameters:
        keywords = {"seed": seed, **keywords}
    rows = rows_of(study(run, **keywords), f"the study {name!r} of {found.distribution}")
    path = run.path / f"{name}.csv"
    if rows:
        write_rows(path, rows)
    else:
        path.unlink(missing_ok=True)  # of what was asked before
    return rows


def rows_of(found: Any, who: str = "the study") -> list[Row]:
    """Reads findings as rows: NamedTuples or dictionaries, or one dictionary of numbers.

    Raises:
        ValueError: for anything else.

    >>> rows_of({"roughness": 0.5})
    [{'name': 'roughness', 'value': 0.5}]
    >>> rows_of([Finding(name="loss", value=0.5, steps=4)])
    [{'who': 'run', 'split': 'test', 'steps': 4, 'candidates': 1, 'name': 'loss', 'value': 0.5, 'choice': ''}]
    """
    if found is None:
        return []
    if isinstance(found, Mapping):
        return [{"name": str(name), "value": _plain(value, who)} for name, value in found.items()]
    if isinstance(found, Iterable) and not isinstance(found, str | bytes):
        rows = [row._asdict() if hasattr(row, "_asdict") else row for row in found]
        if all(isinstance(row, Mapping) and row for row in rows):
            return [{str(key): _plain(value, who) for key, value in row.items()} for row in rows]
    raise ValueError(f"{who} returned {type(found).__name__}: return None, a dictionary of numbers, or a list of `Finding`s")


def _plain(value: Any, who: str) -> Any:
    """Reads a cell: a string, a number, or a tensor or array that holds one number."""
    value = value.item() if hasattr(value, "item") and callable(value.item) else value
    if not isinstance(value, str | int | float):
        raise ValueError(f"{who} returned a row with {value!r}: its cells are numbers and strings")
    return value


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as a csv file, floats in full; a column that is empty in all of them is left out."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key, cell in row.items() if cell != ""))
    with atomic(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            cells = [row.get(column, "") for column in columns]
            writer.writerow([repr(cell) if isinstance(cell, float) else cell for cell in cells])


def read_rows(path: Path) -> list[Row]:
    """Reads rows, numbers as numbers; nothing where there is no such file."""
    if not path.exists():
        return []
    return [{key: _number(cell) for key, cell in row.items()} for row in read_csv(path)]


T = TypeVar("T")


def read_as(kind: Callable[..., T], path: Path) -> list[T]:
    """Reads rows as values of a kind, as `Finding`; ValueError names a file that holds other rows."""
    try:
        return [kind(**row) for row in read_rows(path)]
    except TypeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _number(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


def headline_in(study: Any, rows: Sequence[Row]) -> str:
    """Names the number that a study is about: what its `headline` says, or the first that it found.

    >>> headline_in(None, [{"name": "roughness", "value": 0.5}]), headline_in(None, [{"split": "test", "wrong": 3}])
    ('roughness', 'wrong')
    """
    wanted = getattr(study, "headline", None)
    first = rows[0]
    if "name" in first and "value" in first:
        names = [str(row["name"]) for row in rows]
        return wanted if wanted in names else names[0]
    numbers = [column for column, cell in first.items() if isinstance(cell, int | float)]
    floats = [column for column in numbers if isinstance(first[column], float)]
    return wanted if wanted in first else next(iter(floats or numbers), next(iter(first)))
