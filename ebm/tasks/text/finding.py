"""Finds the files of a corpus, and tells by what they are called which split they belong to."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Suffix -> the format, which ebm.tasks.text.reading knows how to read.
KINDS = {
    ".txt": "text",
    ".md": "text",
    ".json": "json",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
READABLE = f"{', '.join(KINDS)}, each also with {', '.join(COMPRESSED)}"
LONGEST = 1_000  # characters of a source's name
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
ABOUT = ("readme", "license", "licence", "citation", "dataset_dict", "dataset_info", "dataset_infos")  # files about data, by stem


class Found(NamedTuple):
    """The files that a source names, in their order, and what was left out beside them."""

    root: Path  # what the files' names are told below
    files: list[Path]
    hidden: int = 0  # hidden files and folders
    other: int = 0  # files of other kinds, and about the data


def kind_of(file: Path) -> str | None:
    """Names a file's format by its suffix, under that of its compression; None for an unknown one.

    >>> kind_of(Path("a.jsonl.gz")), kind_of(Path("b.TXT")), kind_of(Path("c.png"))
    ('lines', 'text', None)
    """
    plain = file.with_suffix("") if file.suffix.lower() in COMPRESSED else file
    return KINDS.get(plain.suffix.lower())


def find_files(source: str | Path) -> Found | None:
    """Lists the files that a source names; None where it names nothing local.

    Arguments:
        source: a file, a folder (with all below it), or a glob. Of a folder, hidden files and
            folders are left out and counted, and others that are of no kind to read, or about the
            data, such as README.md. A folder of `Dataset.save_to_disk` gives the files of its rows.

    Raises:
        FileNotFoundError: there is no such file, or none of a kind that can be read.
        ValueError: a file that is named is of another kind, or the source is a text itself, or empty.
    """
    if isinstance(source, str) and ("\n" in source or len(source) > LONGEST):
        raise ValueError(f"source={source[:40]!r}... is a text and no name: put texts into a list")
    if source == "":
        raise ValueError("source='': name a file, a folder, a hub dataset, or a bundled corpus such as kjv")
    path = Path(source).expanduser()
    if path.is_dir():
        found = _below(path)
    elif path.is_file():
        found = Found(path.parent, [path])
    elif isinstance(source, str) and glob.has_magic(source):
        parts = path.parts
        fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
        names = sorted(glob.glob(str(path), recursive=True))
        found = Found(Path(*parts[:fixed]), [file for name in names if (file := Path(name)).is_file()])
    elif isinstance(source, Path) or kind_of(path) or str(source).startswith((".", "~", "/")):
        raise FileNotFoundError(f"there is no file {source}")
    else:
        return None
    if not found.files:
        raise FileNotFoundError(f"{source} holds no file: name a file, a folder or a glob of {READABLE}")
    if unknown := sorted({file.suffix.lower() or file.name for file in found.files if kind_of(file) is None}):
        raise ValueError(f"{source}: {', '.join(unknown)} cannot be read, only {READABLE}")
    return found


def split_of_file(file: Path) -> str | None:
    """Tells a file's split by a whole word of its name or, failing that, of its nearest folder's.

    None where no name says one, or one name says two.

    >>> [split_of_file(Path(name)) for name in ("my-train-00001.jsonl", "val/0.txt", "latest.txt")]
    ['train', 'validation', None]
    """
    for name in reversed(file.parts):
        words = re.split(r"[\W\d_]+", name.lower())
        said = [split for split, known in WORDS.items() if set(words) & set(known)]
        if said:
            return said[0] if len(said) == 1 else None
    return None


def _below(folder: Path) -> Found:
    files, hidden, other = [], 0, 0
    for place, names in _walk(folder):
        hidden += sum(name.startswith(".") for name in names)
        names = [name for name in names if not name.startswith(".") and (place / name).is_file()]
        if rows := _saved_rows(place, names):
            files += rows
            continue
        known = [place / name for name in names if kind_of(Path(name)) and name.lower().partition(".")[0] not in ABOUT]
        other += len(names) - len(known)
        files += known
    return Found(folder, sorted(files), hidden, other)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Walks a folder, through links too, each folder once; hidden folders are named, not entered."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield Path(place), [*names, *(name for name in folders if name.startswith("."))]
        folders[:] = [name for name in folders if not name.startswith(".")]


def _saved_rows(folder: Path, names: list[str]) -> list[Path]:
    """Lists the files of a dataset's rows: others beside them are results that `datasets` caches."""
    if not {"state.json", "dataset_info.json"} <= {*names}:
        return []
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / part["filename"] for part in state.get("_data_files", [])]
