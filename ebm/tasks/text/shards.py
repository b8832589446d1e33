"""Shards of a corpus: documents that can be read again and again, apart from all others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ebm.files import write_text
from ebm.tasks.rows import SPLITS
from ebm.tasks.sources import few_of
from ebm.tasks.text.finding import COMPRESSED
from ebm.tasks.text.iterables import placed_rows, rows_of
from ebm.tasks.text.keeping import cache_folder, kept, key_of
from ebm.tasks.text.reading import ALL, Part, Reader, needed_of, placed_texts, texts_of
from ebm.tasks.text.splits import draw, draws_until_complete, split_of

AT_ONCE = 1_000  # rows of a table that are held at a time
SQUEEZED = 4  # how many times smaller compressed text is, roughly
KNOWN = 100  # documents of a stream without files that its fingerprint knows
LARGE = 1 << 26  # bytes of a file whose digest is kept, so that a run on it starts in seconds


class Shard(Protocol):
    """Documents in their order, blank ones included.

    `read` iterates over (place behind it, document) of a part of them, (i, n) being the i-th of n
    parts, behind a place of that part; what lies before it is not read again where that can be.
    """

    @property
    def name(self) -> str: ...
    def __iter__(self) -> Iterator[str]: ...
    def read(self, place: Any = None, part: Part = ALL) -> Iterator[tuple[Any, str]]: ...
    def size(self) -> int: ...  # roughly, in bytes
    def digest(self) -> bytes: ...  # of the content


@dataclass(frozen=True)
class FileShard:
    """The documents of a file."""

    file: Path
    reader: Reader

    @property
    def name(self) -> str:
        return str(self.file)

    def __iter__(self) -> Iterator[str]:
        return self.reader.texts(self.file)

    def read(self, place: Any = None, part: Part = ALL) -> Iterator[tuple[Any, str]]:
        return self.reader.read(self.file, place, part)

    def size(self) -> int:
        return self.file.stat().st_size * (SQUEEZED if self.file.suffix.lower() in COMPRESSED else 1)

    def digest(self) -> bytes:
        found = self.file.stat()
        if found.st_size < LARGE:
            return self._hashed()
        key = key_of("digest", str(self.file.resolve()), found.st_size, found.st_mtime_ns)
        try:
            folder = kept(cache_folder(), key, lambda draft: write_text(draft / "sha256", self._hashed().hex()))
        except PermissionError:  # of the cache
            return self._hashed()
        return bytes.fromhex((folder / "sha256").read_text(encoding="ascii"))

    def _hashed(self) -> bytes:
        with self.file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()


@dataclass(frozen=True)
class ListShard:
    """The documents of a list, or those in a column of a list of rows."""

    texts: Sequence[Any]
    name: str
    column: str = ""

    def __iter__(self) -> Iterator[str]:
        return texts_of(iter(self.texts), self.column, self.name)

    def read(self, place: Any = None, part: Part = ALL) -> Iterator[tuple[Any, str]]:
        first, last = _edges(len(self.texts), part)
        rows = ((number, number + 1, self.texts[number]) for number in range(place or first, last))
        return placed_texts(rows, self.column, self.name, self)

    def size(self) -> int:
        return sum(len(text) for text in self.texts if isinstance(text, str))

    def digest(self) -> bytes:
        return _digest(self)


@dataclass(frozen=True)
class RowShard:
    """The documents in a column of a `datasets.Dataset` or `IterableDataset`."""

    rows: Any
    column: str
    name: str

    def __iter__(self) -> Iterator[str]:
        if hasattr(self.rows, "data"):
            return texts_of(self._taken(0, len(self.rows)), self.column, self.name)
        return texts_of(rows_of(self.rows), self.column, self.name)

    def read(self, place: Any = None, part: Part = ALL) -> Iterator[tuple[Any, str]]:
        rows: Iterable[tuple[int, Any, Any]]
        if hasattr(self.rows, "data"):
            first, last = _edges(len(self.rows), part)
            first = place or first
            rows = ((number, number + 1, row) for number, row in enumerate(self._taken(first, last), first))
        else:
            rows = placed_rows(self.rows, place, part)
        return placed_texts(rows, self.column, self.name, self)

    def _taken(self, first: int, last: int) -> Iterator[Any]:
        rows = self.rows.with_format("arrow").select(range(first, last)) if first < last else None
        for batch in [] if rows is None else rows.iter(AT_ONCE):
            yield from batch.to_pylist()

    def size(self) -> int:
        return getattr(getattr(self.rows, "data", None), "nbytes", 0)

    def digest(self) -> bytes:
        return _digest(self if hasattr(self.rows, "data") else islice(self, KNOWN))


def shards_of_rows(rows: Any, column: str, name: str) -> list[Shard]:
    """Takes the column of a dataset, in as many shards as a stream has; ValueError if it has no such column."""
    names = rows.column_names
    if names is not None:
        try:
            rows = rows.select_columns(needed_of(column, names))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if hasattr(rows, "data") or rows.num_shards < 2:
        return [RowShard(rows, column, name)]
    return [RowShard(rows.shard(rows.num_shards, index), column, name) for index in range(rows.num_shards)]


def _edges(count: int, part: Part) -> tuple[int, int]:
    """Tells where a part of so many things that lie side by side begins and ends."""
    index, of = part
    return count * index // of, count * (index + 1) // of


@dataclass(frozen=True)
class Pool:
    """Shards whose documents go to one split together, or are drawn into several; blank ones are left out.

    Attributes:
        shards: read one after another.
        splits: what the documents are drawn into.
        source: which of several weighed sources this is of.
        seed: of the draws.
        limit: how many documents are taken at most.
    """

    shards: tuple[Shard, ...]
    splits: tuple[str, ...] = SPLITS
    source: int = 0
    seed: int = 0
    limit: int | None = None

    def __iter__(self) -> Iterator[str]:
        return islice((text for shard in self.shards for text in shard if text and not text.isspace()), self.limit)

    def read(self, place: Any = None, part: Part = ALL) -> Iterator[tuple[Any, str]]:
        """Iterates over (place behind it, document) of a part, as a shard does; a limit is that of all parts."""
        (first, row, count), (index, of) = place or (0, None, 0), part
        for number in range(first, 0 if count == self.limit else len(self.shards)):
            for row, text in self.shards[number].read(row, part if self.limit is None else ALL):  # noqa: B020
                if not text or text.isspace():
                    continue
                count += 1
                if self.limit is None or (count - 1) % of == index:
                    yield (number, row, count), text
                if count == self.limit:
                    return
            row = None

    def streams(self, split: str) -> list[Stream]:
        """Divides a split's documents by shard, as far as a limit lets them be counted apart."""
        if self.limit is not None:
            return [Stream(self, split)]
        return [Stream(replace(self, shards=(shard,)), split) for shard in self.shards]

    def check_streams(self) -> None:
        """Raises ValueError where a stream's draws leave a split empty; reads until each has a document."""
        draws, complete = draws_until_complete(self, self.seed, self.splits)
        if draws and not complete:
            splits = ", ".join(self.splits)
            what = f"{self.name}: its documents, {len(draws)}, leave a split of {splits} empty as a stream draws them"
            way_out = "read them into memory (streaming=False), or name a split's file, as in --task.validation FILE"
            raise ValueError(f"{what}: {way_out}")
        if not draws:
            self.raise_empty()

    def raise_empty(self) -> NoReturn:
        """Raises the ValueError of a pool without text."""
        there = any(True for shard in self.shards for _ in shard)
        what = "all its documents are empty" if there else "it has no documents"
        split = f", the split {self.splits[0]!r}" if len(self.splits) == 1 else ""
        raise ValueError(f"{self.name}{split}: no text, {what}")

    @property
    def name(self) -> str:
        return few_of(list(dict.fromkeys(shard.name for shard in self.shards)))


@dataclass(frozen=True)
class Stream:
    """The documents of a pool that belong to one of its splits."""

    pool: Pool
    split: str

    def __iter__(self) -> Iterator[str]:
        seed, splits = self.pool.seed, self.pool.splits
        if len(splits) == 1:
            return iter(self.pool)
        return (text for text in self.pool if split_of(draw(text, seed), splits) == self.split)

    def read(self, place: Any = None, part: Part = ALL) -> Iterator[tuple[Any, str]]:
        """Iterates over (place behind it, document) of a part, as a shard does, of the split alone."""
        seed, splits = self.pool.seed, self.pool.splits
        found = self.pool.read(place, part)
        if len(splits) == 1:
            return found
        return ((behind, text) for behind, text in found if split_of(draw(text, seed), splits) == self.split)


def _digest(texts: Any) -> bytes:
    digest = hashlib.sha256()
    for text in texts:
        whole = text.encode()
        digest.update(len(whole).to_bytes(8, "little") + whole)
    return digest.digest()
