"""Reads the documents of one file: a format a function, one row after another."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ebm.optional import installed
from ebm.tasks.text.finding import kind_of
from ebm.words import nearest

CHUNK = 1 << 20  # characters that are searched for a separator at a time
AT_ONCE = 1_000  # rows of a table that are held at a time


class Reader(NamedTuple):
    """How documents are read from files.

    Attributes:
        column: where the text of a row is: a name, or a path of names (`document.text`). A path
            through a list joins what it finds there by line ends (`messages.content`).
        separator: what stands between documents of a text file; None makes a file a document.
        encoding: of text, JSON and csv files.
    """

    column: str = "text"
    separator: str | None = None
    encoding: str = "utf-8"

    def texts(self, file: Path) -> Iterator[str]:
        """Iterates over a file's documents, blank ones included: they stand for rows without text.

        Raises:
            ValueError: the file cannot be read, or a row holds no text; it names file and row.
        """
        return texts_of(self.rows(file), self.column, str(file))

    def rows(self, file: Path) -> Iterator[Any]:
        """Iterates over a file's rows: mappings, or the documents of a text file themselves."""
        kind = kind_of(file)
        assert kind is not None
        count = -1
        try:
            with _opened(file) as stream:
                for count, row in enumerate(FORMATS[kind](stream, self)):  # noqa: B007
                    yield row
        except UnicodeDecodeError as error:
            what = f"{file}, after row {count}" if count >= 0 else str(file)
            likely = "utf-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"
            way_out = f"name its encoding, as in --task.encoding {likely}"
            raise ValueError(f"{what}: it is no {self.encoding} ({error.reason}): {way_out}") from error
        except (ValueError, csv.Error, EOFError, OSError, RecursionError, zlib.error, lzma.LZMAError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{file}, row {count + 1}, cannot be read: {reason}") from error


def texts_of(rows: Iterator[Any], column: str, name: str) -> Iterator[str]:
    """Takes the text out of each row, "" where it has none; `name` says in errors whose rows they are.

    >>> list(texts_of(iter([{"a": {"b": "one"}}, {"a": None}, "two"]), "a.b", "rows"))
    ['one', '', 'two']
    """
    missing: Any = None
    there = False
    for index, row in enumerate(rows):
        text = row if isinstance(row, str) else _at(row, column) if isinstance(row, Mapping) else row
        if text is ABSENT:
            missing = row if missing is None else missing
            text = None
        else:
            there = True
        if text is None:
            yield ""
            continue
        if not isinstance(text, str):
            raise ValueError(f"{name}, column {column!r}, row {index}: {_shown(text)} is no text{_way_out(text, column)}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name}, row {index}: the text holds half a character, {error.object[error.start]!r}"
                ) from error
        yield text
    if missing is not None and not there:
        known = list(_paths(missing))
        inner = sorted((path for path in known if "." in path), key=lambda path: path.endswith((f".{column}", ".content")))
        way_out = f". A path names a place within, as in --task.column {inner[-1]}" if inner else ""
        raise ValueError(f"{name} has no column {column!r}: {nearest(column, known)}{way_out}")


class _Absent:
    """Stands for a value that a row does not have at all."""


ABSENT = _Absent()


def _at(row: Any, path: str) -> Any:
    """Finds the value at a path: the whole path may be one name, too."""
    if row is None:
        return None
    if isinstance(row, list):
        found = [_at(item, path) for item in row]
        texts = [text for text in found if text is not None]
        if ABSENT in texts:
            return ABSENT
        return "\n".join(texts) if all(isinstance(text, str) for text in texts) else texts
    if not isinstance(row, Mapping):
        return ABSENT
    if path in row:
        return row[path]
    for name in row:
        if path.startswith(f"{name}."):
            return _at(row[name], path[len(name) + 1 :])
    return ABSENT


def _paths(row: Mapping[str, Any]) -> Iterator[str]:
    """Lists the places of a row that may hold text."""
    for name, value in row.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping) and inner:
            yield from (f"{name}.{path}" for path in _paths(inner))
        else:
            yield name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _way_out(value: Any, column: str) -> str:
    inner = value[0] if isinstance(value, list) and value else value
    if not isinstance(inner, Mapping):
        return ""
    ways = [f"--task.column {column}.{path}" for path in _paths(inner)]
    join = ", which joins what the list holds by line ends" if inner is not value else ""
    return f": name a place in it, as in {ways[-1]}{join}" if ways else ""


# ---------------------------------------------------------------------------------------------------------------- formats


def _text(stream: BinaryIO, reader: Reader) -> Iterator[str]:
    with _decoded(stream, reader) as text:
        if reader.separator is None:
            if whole := text.read():
                yield whole
            return
        held = ""
        while chunk := text.read(CHUNK):
            *found, held = (held + chunk).split(reader.separator)
            yield from map(_trimmed, found)
        yield _trimmed(held)


def _trimmed(document: str) -> str:
    """Takes away the line end that follows a separator, and the one that goes before it."""
    return document.removeprefix("\n").removesuffix("\n")


def _lines(stream: BinaryIO, reader: Reader) -> Iterator[Any]:
    with _decoded(stream, reader) as text:
        for line in text:
            if not line.isspace():
                yield _row(json.loads(line))


def _json(stream: BinaryIO, reader: Reader) -> Iterator[Any]:
    with _decoded(stream, reader) as text:
        whole = text.read()
    try:
        found = json.loads(whole) if whole.strip() else []
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        found = [json.loads(line) for line in whole.split("\n") if line.strip()]  # rows, though its name says .json
    if isinstance(found, Mapping):
        lists = [name for name, value in found.items() if isinstance(value, list)]
        itself = isinstance(_at(found, reader.column), str) or not lists
        if len(lists) > 1 and not itself:
            raise ValueError(f"it holds several lists, {', '.join(lists)}, and one is wanted")
        found = [found] if itself else found[lists[0]]
    if not isinstance(found, list):
        raise ValueError(f"it holds {_shown(found)}, and a list of rows is wanted")
    yield from map(_row, found)


def _row(row: Any) -> Any:
    if not isinstance(row, Mapping | str):
        raise ValueError(f"{_shown(row)} is no row: objects with a column of text are wanted, or texts")
    return row


def _csv(stream: BinaryIO, reader: Reader, delimiter: str = ",") -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)  # its usual limit is 128 kB, and a document may be longer
    with _decoded(stream, reader, newline="") as text:
        for row in csv.DictReader(text, delimiter=delimiter, strict=True):
            if None in row or None in row.values():  # what csv makes of too many cells, and of too few
                raise ValueError("it has not as many cells as there are columns")
            yield row


def _tsv(stream: BinaryIO, reader: Reader) -> Iterator[dict[str, str]]:
    return _csv(stream, reader, "\t")


def _parquet(stream: BinaryIO, reader: Reader) -> Iterator[Any]:
    installed("pyarrow")
    from pyarrow import parquet

    table = parquet.ParquetFile(_at_hand(stream))
    names = table.schema_arrow.names
    for batch in table.iter_batches(AT_ONCE, columns=needed_of(reader.column, names)):
        yield from batch.to_pylist()


def _arrow(stream: BinaryIO, reader: Reader) -> Iterator[Any]:
    installed("pyarrow")
    from pyarrow import ipc

    stream = _at_hand(stream)
    start = stream.read(6)
    stream.seek(0)
    if start == b"ARROW1":  # the format of files, Feather's second version, and not of streams
        file = ipc.open_file(stream)
        batches = (file.get_batch(index) for index in range(file.num_record_batches))
    else:
        batches = iter(ipc.open_stream(stream))
    for batch in batches:
        part = batch.select(needed_of(reader.column, batch.schema.names))
        for first in range(0, part.num_rows, AT_ONCE):
            yield from part.slice(first, AT_ONCE).to_pylist()


def _at_hand(stream: BinaryIO) -> BinaryIO:
    """Holds what is decompressed in memory, where a reader may jump."""
    return stream if isinstance(stream, io.BufferedReader) else io.BytesIO(stream.read())


def needed_of(column: str, names: list[str]) -> list[str]:
    """Names the column of a table that a path begins with, or all for an empty path.

    >>> needed_of("document.text", ["id", "document"])
    ['document']
    """
    found = [name for name in names if f"{column}.".startswith(f"{name}.")] if column else names
    if not found:
        raise ValueError(f"it has no column {column!r}: {nearest(column, names)}")
    return found


FORMATS: dict[str, Callable[[BinaryIO, Reader], Iterator[Any]]] = {
    "text": _text,
    "lines": _lines,
    "json": _json,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
    "arrow": _arrow,
}


def _decoded(stream: BinaryIO, reader: Reader, newline: str | None = None) -> io.TextIOWrapper:
    # The byte order mark is no text.
    encoding = "utf-8-sig" if reader.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else reader.encoding
    return io.TextIOWrapper(stream, encoding, newline=newline)


def _opened(file: Path) -> Any:
    """Opens a file's bytes, decompressed."""
    match file.suffix.lower():
        case ".gz":
            return gzip.open(file)
        case ".bz2":
            return bz2.open(file)
        case ".xz":
            return lzma.open(file)
        case ".zst":
            installed("pyarrow")
            import pyarrow

            return pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd")
    return file.open("rb")
