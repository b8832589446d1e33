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
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from ebm.optional import installed
from ebm.tasks.text.finding import kind_of
from ebm.words import nearest

CHUNK = 1 << 14  # characters that are searched for a separator at a time, and read again behind a place
AT_ONCE = 1_000  # rows of a table that are held at a time

Part = tuple[int, int]  # (i, n): the i-th of n parts, which together are all
ALL: Part = (0, 1)
Mark = tuple[int, int] | None  # of a text: where a chunk begins, and how many characters of it lie before
END = -1  # in place of characters: nothing comes any more
Place = tuple[int, Mark]  # how many rows lie before, and where in a text that is
START: Place = (0, None)
P = TypeVar("P")


class Wanted(NamedTuple):
    """Which rows of a file are wanted: those of a part, behind a place."""

    first: int = 0
    mark: Mark = None
    part: int = 0
    of: int = 1

    def __contains__(self, number: object) -> bool:
        assert isinstance(number, int)
        return number >= self.first and number % self.of == self.part


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

    def read(self, file: Path, place: Place | None = None, part: Part = ALL) -> Iterator[tuple[Place, str]]:
        """Iterates over (place behind it, document) of a part of the rows, behind a place, blank ones included.

        What lies before the place is skipped without being parsed, and where a format allows it not
        even read; so are the rows of other parts. Errors are those of `texts`.
        """
        index, of = part
        rows = self._rows(file, Wanted(*(place or START), index, of))
        return placed_texts(rows, self.column, str(file), others=self.texts(file))

    def rows(self, file: Path) -> Iterator[Any]:
        """Iterates over a file's rows: mappings, or the documents of a text file themselves."""
        return (row for _, _, row in self._rows(file, Wanted()))

    def _rows(self, file: Path, wanted: Wanted) -> Iterator[tuple[int, Place, Any]]:
        """Iterates over (number, place behind it, row) of the rows that are wanted."""
        kind = kind_of(file)
        assert kind is not None
        count = wanted.first - 1
        try:
            with _opened(file) as stream:
                for count, mark, row in FORMATS[kind](stream, self, wanted):
                    if count in wanted:
                        yield count, (count + 1, mark), row
        except GeneratorExit:  # an interpreter that ends has no modules any more, which the errors below are of
            raise
        except UnicodeDecodeError as error:
            what = f"{file}, after row {count}" if count >= 0 else str(file)
            likely = "utf-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"
            way_out = f"name its encoding, as in --task.encoding {likely}"
            raise ValueError(f"{what}: it is no {self.encoding} ({error.reason}): {way_out}") from error
        except (ValueError, csv.Error, EOFError, OSError, RecursionError, zlib.error, lzma.LZMAError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{file}, row {count + 1}, cannot be read: {reason}") from error


def texts_of(rows: Iterable[Any], column: str, name: str) -> Iterator[str]:
    """Takes the text out of each row, "" where it has none; `name` says in errors whose rows they are.

    >>> list(texts_of(iter([{"a": {"b": "one"}}, {"a": None}, "two"]), "a.b", "rows"))
    ['one', '', 'two']
    """
    return (text for _, text in placed_texts(((number, None, row) for number, row in enumerate(rows)), column, name))


def placed_texts(
    rows: Iterable[tuple[int, P, Any]], column: str, name: str, others: Iterable[str] | None = None
) -> Iterator[tuple[P, str]]:
    """Takes the text out of each (number, place, row), as `texts_of` does, beside its place.

    Where these are not all rows, `others` are the texts of all: only there can it be seen whether
    none has the column.
    """
    missing: Any = None
    there = False
    for index, place, row in rows:
        text = row if isinstance(row, str) else _at(row, column) if isinstance(row, Mapping) else row
        if text is ABSENT:
            missing = row if missing is None else missing
            text = None
        else:
            there = True
        if text is None:
            yield place, ""
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
        yield place, text
    if missing is not None and not there and others is not None:
        for _ in others:  # raises where none has the column
            pass
    elif missing is not None and not there:
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

# The number of a row, what marks the next, and the row; of one that is not wanted it need not be read.
Found = Iterator[tuple[int, Mark, Any]]


def _text(stream: BinaryIO, reader: Reader, wanted: Wanted) -> Found:
    with _decoded(stream, reader) as text:
        if reader.separator is not None:
            for number, (mark, document) in enumerate(_cut(text, reader.separator, wanted.mark), wanted.first):
                yield number, mark, _trimmed(document)
        elif whole := text.read():
            yield 0, None, whole


def _trimmed(document: str) -> str:
    """Takes away the line end that follows a separator, and the one that goes before it."""
    return document.removeprefix("\n").removesuffix("\n")


def _lines(stream: BinaryIO, reader: Reader, wanted: Wanted) -> Found:
    number = wanted.first
    with _decoded(stream, reader) as text:
        for mark, line in _cut(text, "\n", wanted.mark):
            if not line or line.isspace():
                continue
            yield number, mark, _row(json.loads(f"{line}\n")) if number in wanted else None
            number += 1


def _cut(text: io.TextIOWrapper, separator: str, mark: Mark) -> Iterator[tuple[Mark, str]]:
    """Cuts a text at separators, behind a mark: (mark of what comes next, piece)."""
    begin, skipped = mark or (0, 0)
    if skipped == END:
        return
    seeks = text.seekable()  # what does not is marked by the number of the chunk
    if seeks:
        text.seek(begin)
    else:
        for _ in range(begin):
            text.read(CHUNK)
    held: list[str] = []  # of a piece that goes on, but for as much as may begin a separator
    carried = ""
    while True:
        here = text.tell() if seeks else begin
        if not (chunk := text.read(CHUNK)):
            break
        begin += 1
        before, chunk, skipped = skipped - len(carried), chunk[skipped:], 0
        *found, left = (carried + chunk).split(separator)
        for piece in found:
            before += len(piece) + len(separator)
            yield (here, before), "".join([*held, piece])
            held = []
        edge = max(0, len(left) - len(separator) + 1)
        held.append(left[:edge])
        carried = left[edge:]
    yield (here, END), "".join([*held, carried])


def _json(stream: BinaryIO, reader: Reader, wanted: Wanted) -> Found:
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
    for number, row in enumerate(found):
        yield number, None, _row(row)


def _row(row: Any) -> Any:
    if not isinstance(row, Mapping | str):
        raise ValueError(f"{_shown(row)} is no row: objects with a column of text are wanted, or texts")
    return row


def _csv(stream: BinaryIO, reader: Reader, wanted: Wanted, delimiter: str = ",") -> Found:
    csv.field_size_limit(2**31 - 1)  # its usual limit is 128 kB, and a document may be longer
    with _decoded(stream, reader, newline="") as text:
        for number, row in enumerate(csv.DictReader(text, delimiter=delimiter, strict=True)):
            if None in row or None in row.values():  # what csv makes of too many cells, and of too few
                raise ValueError("it has not as many cells as there are columns")
            yield number, None, row


def _tsv(stream: BinaryIO, reader: Reader, wanted: Wanted) -> Found:
    return _csv(stream, reader, wanted, "\t")


def _parquet(stream: BinaryIO, reader: Reader, wanted: Wanted) -> Found:
    installed("pyarrow")
    from pyarrow import parquet

    table = parquet.ParquetFile(_at_hand(stream))
    columns = needed_of(reader.column, table.schema_arrow.names)
    ends = [*accumulate(table.metadata.row_group(group).num_rows for group in range(table.num_row_groups))]
    group = bisect_right(ends, wanted.first)  # those before it are not read
    number = ends[group - 1] if group else 0
    for batch in table.iter_batches(AT_ONCE, columns=columns, row_groups=[*range(group, len(ends))]):
        yield from _taken(batch, number, wanted)
        number += batch.num_rows


def _arrow(stream: BinaryIO, reader: Reader, wanted: Wanted) -> Found:
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
    number = 0
    for batch in batches:
        part = batch.select(needed_of(reader.column, batch.schema.names))
        for first in range(0, part.num_rows, AT_ONCE):
            yield from _taken(part.slice(first, AT_ONCE), number + first, wanted)
        number += part.num_rows


def _taken(batch: Any, number: int, wanted: Wanted) -> Found:
    """Takes the rows that are wanted out of a batch whose first has this number."""
    numbers = [found for found in range(number, number + batch.num_rows) if found in wanted]
    if not numbers:
        return iter(())
    rows = batch if len(numbers) == batch.num_rows else batch.take([found - number for found in numbers])
    return ((found, None, row) for found, row in zip(numbers, rows.to_pylist(), strict=True))


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


FORMATS: dict[str, Callable[[BinaryIO, Reader, Wanted], Found]] = {
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
