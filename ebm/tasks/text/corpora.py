"""Reads text documents: bundled corpora that need no network, local files, hub datasets."""

from __future__ import annotations

import glob
import json
import sysconfig
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from ebm.optional import installed
from ebm.tasks.sources import from_hub, load_files
from ebm.words import nearest

KINDS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # what `datasets` calls them
SHARDS = 8  # of a bundled corpus that is streamed: this many workers can share it


def documents(source: str = "kjv", *, column: str = "text", config: str | None = None, hub_split: str = "train") -> list[str]:
    """Reads all documents of a corpus, in its order; empty ones are left out.

    Arguments:
        source: "kjv" (the King James text, a chapter a document), "documentation" (the language
            reference of the running Python, a topic a document), "source-code" (the top level of
            its standard library, a file a document); a file, folder or glob of .txt (a file a
            document), .json, .jsonl or .parquet (a row a document); or a hub dataset.
        column: where the text of a row is.
        config: the hub dataset's configuration, where it has several.
        hub_split: which split of a hub dataset is read.

    Raises:
        FileNotFoundError: there is no such file, or none of a kind that can be read.
        ImportError: a package that the source needs is not installed.
        ValueError: a hub dataset cannot be reached, the column is missing or holds no text, or
            there is no text at all.

    >>> len(documents("documentation")) > 50
    True
    """
    if source in BUNDLED:
        return [text for text in BUNDLED[source]() if text]
    rows = read_rows(source, config, hub_split)
    _check(source, column, rows.column_names)
    found = rows.select_columns(column)[:][column]  # at once: row by row, a large corpus takes minutes
    _check_text(source, column, found)
    full = [text for text in found if text]
    if not full:
        raise ValueError(f"{source}: no text, {f'all {len(found)} documents are empty' if found else 'it has no documents'}")
    return full


def streamed_documents(source: str, *, column: str = "text", config: str | None = None, hub_split: str = "train") -> Any:
    """Opens a corpus without reading it: an `IterableDataset` whose `column` holds the text.

    A file is a shard, and a bundled corpus has eight; `documents` has the arguments and errors.
    Empty documents are left out.

    >>> len(list(streamed_documents("documentation"))) == len(documents("documentation"))
    True
    """
    installed("datasets")
    if source in BUNDLED:
        from datasets import Dataset

        found = documents(source)
        return Dataset.from_dict({column: found}).to_iterable_dataset(num_shards=min(SHARDS, len(found)))
    rows = read_rows(source, config, hub_split, streaming=True)
    try:
        first = next(iter(rows), None)
    except ValueError as error:  # Arrow's, for one
        raise ValueError(f"{source}: no rows could be read ({error})") from error
    if first is None:
        raise ValueError(f"{source}: no text, it has no documents")
    _check(source, column, first)
    _check_text(source, column, [first[column]])
    return rows.select_columns([column]).filter(bool, input_columns=[column])


WAY_OUT = "`--task.source kjv` needs no network"


def read_rows(
    source: str, config: str | None = None, hub_split: str = "train", *, streaming: bool = False, way_out: str = WAY_OUT
) -> Any:
    """Reads the rows of local files or of a hub dataset through `datasets`.

    Arguments and errors are those of `documents`; `streaming` rows are read when they are asked
    for, and `way_out` says in the hub's error what needs no network.
    """
    installed("datasets")
    from datasets.exceptions import DatasetsError

    files = _local_files(source)
    if files is None:
        known: dict[str, Any] = {"local": "file", "way_out": way_out, "known": BUNDLED}
        return from_hub(source, config, hub_split, **known, streaming=streaming)
    kind = KINDS[files[0].suffix.lower()]
    options: dict[str, Any] = {"sample_by": "document"} if kind == "text" else {}
    try:
        return load_files(kind, files, streaming=streaming, **options)
    except (DatasetsError, ValueError) as error:
        raise ValueError(f"{source}: no rows could be read as {kind} ({error.__cause__ or error})") from error


def _local_files(source: str) -> list[Path] | None:
    """Lists the files that a source names, or None where it names no local file."""
    path, kinds = Path(source).expanduser(), ", ".join(KINDS)
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in KINDS]
    elif path.is_file():
        found = [path]
    elif glob.has_magic(source):
        found = [file for name in sorted(glob.glob(str(path), recursive=True)) if (file := Path(name)).is_file()]
    elif path.suffix.lower() in KINDS or source.startswith((".", "~", "/")):
        raise FileNotFoundError(f"there is no file {source}")
    else:
        return None
    if not found:
        raise FileNotFoundError(f"{source} holds no file: name a file, a folder or a glob of {kinds}")
    suffixes = sorted({file.suffix.lower() for file in found})
    if not set(suffixes) <= set(KINDS):
        raise ValueError(f"{source}: {', '.join(suffixes)} cannot be read, only {kinds}")
    if len({KINDS[suffix] for suffix in suffixes}) > 1:
        raise ValueError(f"{source} holds {' and '.join(suffixes)} files: name a glob of one kind, as in *{suffixes[0]}")
    return found


def _check(source: str, column: str, known: Iterable[str]) -> None:
    if column not in known:
        raise ValueError(f"{source} has no column {column!r}: {nearest(column, known)}")


def _check_text(source: str, column: str, texts: Iterable[Any]) -> None:
    for row, text in enumerate(texts):
        if not isinstance(text, str | None):
            raise ValueError(f"{source}, column {column!r}, row {row}: {text!r} is no text")


def _kjv() -> list[str]:
    with (installed("bible") / "data" / "kjv.jsonl").open(encoding="utf-8") as lines:
        verses = [json.loads(line) for line in lines]
    chapters = groupby(verses, key=lambda verse: (verse["book"], verse["chapter"]))
    return ["\n".join(verse["text"] for verse in chapter) for _, chapter in chapters]


def _source_code() -> list[str]:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [file.read_text(encoding="utf-8", errors="replace") for file in files]


BUNDLED: dict[str, Callable[[], list[str]]] = {
    "kjv": _kjv,
    "documentation": lambda: list(import_module("pydoc_data.topics").topics.values()),
    "source-code": _source_code,
}
