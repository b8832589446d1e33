"""Opens corpora: bundled ones that need no network, local files, hub datasets, what Python holds."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ebm.optional import installed
from ebm.tasks.rows import SPLITS
from ebm.tasks.sources import from_hub
from ebm.tasks.text.finding import LONGEST, WORDS, Found, find_files, kind_of, split_of_file
from ebm.tasks.text.reading import Reader
from ebm.tasks.text.shards import FileShard, ListShard, Pool, Shard, Stream, shards_of_rows
from ebm.tasks.text.splits import dealt_out
from ebm.words import nearest

SHARDS = 8  # of a bundled corpus that is streamed: this many workers can share it
WAY_OUT = "`--task.source kjv` needs no network"


@dataclass(frozen=True)
class Corpus:
    """Documents, and the splits that they belong to. `open_corpus` makes one.

    Attributes:
        pools: the documents, apart by source and by the splits they may go to.
        name: what the documents are of.
        how: which splits names, lists or draws decide, and what was left out; "" where there is
            nothing to say.
        weights: the share of each source in training; one source without weights has all.
    """

    pools: tuple[Pool, ...]
    name: str
    how: str = ""
    weights: tuple[float, ...] = (1.0,)

    def documents(self) -> Iterator[tuple[str, int, str]]:
        """Iterates over (split, source, text), each split's documents in their order.

        Only those of training are told apart by source.

        Raises:
            ValueError: a file cannot be read, or there is no text.
        """
        for pool in self.pools:
            yield from self._dealt(pool, pool)

    def held(self) -> tuple[list[tuple[str, int, str]], int]:
        """Reads all documents as `documents` does, each file once; and counts them."""
        found, count = [], 0
        for pool in self.pools:
            texts = [*pool]
            count += len(texts)
            found += [*self._dealt(pool, texts)]
        return found, count

    def _dealt(self, pool: Pool, texts: Iterable[str]) -> Iterator[tuple[str, int, str]]:
        empty = True
        for split, text in dealt_out(texts, pool.seed, pool.splits):
            if text and not text.isspace():  # a part of a document may be blank
                empty = False
                yield split, pool.source if split == "train" else 0, text
        if empty:
            pool.raise_empty()

    def streams(self, split: str, source: int | None = None) -> list[Stream]:
        """Lists streams of a split's documents, in pieces that workers can share; of all sources, or of
        one in training."""
        pools = (pool for pool in self.pools if split in pool.splits and (split != "train" or source in (None, pool.source)))
        return [stream for pool in pools for stream in pool.streams(split)]

    def size(self) -> int:
        """Tells roughly how many bytes the documents have."""
        return sum(shard.size() for pool in self.pools for shard in pool.shards)

    def fingerprint(self) -> str:
        """Digests the content, whatever it is called: the bytes of files, and documents without a file.

        A stream without files is known by its first 100 documents. The digest of a large file is kept,
        and holds as long as its size and its time of change do.
        """
        digest = hashlib.sha256()
        for pool in self.pools:
            digest.update(f"{pool.splits} {pool.source} {len(pool.shards)}".encode())
            for shard in pool.shards:
                digest.update(shard.digest())
        return digest.hexdigest()


def open_corpus(
    source: Any = "kjv",
    *,
    weights: Sequence[float] | None = None,
    validation: Any = None,
    test: Any = None,
    column: str = "text",
    separator: str | None = None,
    encoding: str = "utf-8",
    config: str | None = None,
    hub_split: str | None = None,
    streaming: bool = False,
    seed: int = 0,
    limit: int | None = None,
) -> Corpus:
    """Opens documents and tells which splits they belong to; files are read when they are iterated over.

    A split is what a list says (`validation`, `test`); else what files, folders, keys or the hub
    call it: train, validation (valid, val, dev) or test (eval), as a whole word of a file's name or
    of its nearest folder's. A split that nothing names is drawn from the documents of training, by
    their text and the seed. Where names say only one split, they say nothing.

    Arguments:
        source: "kjv" (the King James text, a chapter a document), "documentation" (the language
            reference of the running Python, a topic a document), "source-code" (the top level of
            its standard library, a file a document); a file, folder or glob of .txt or .md (a file
            a document), .json, .jsonl, .ndjson, .csv, .tsv, .parquet, .arrow (a row a document),
            each also compressed (.gz, .zst, .bz2, .xz); a folder of `save_to_disk`; or a hub
            dataset. In Python also a list of documents or rows, a dataset of `datasets`, or a
            dictionary of splits. Several sources are a list of these.
        weights: for each of several sources, its share in training; None joins them.
        validation: the documents of validation, said as `source` is; None: by name, or drawn.
        test: the same for the test.
        column: where the text of a row is, a name or a path (`document.text`).
        separator: what stands between the documents of a text file, "\\n" for a document a line.
        encoding: of text, JSON and csv files.
        config: the hub dataset's configuration, where it has several.
        hub_split: the one split of a hub dataset to take, in which splits are then drawn.
        streaming: whether hub datasets are streams, and bundled ones in eight shards.
        seed: decides what is drawn.
        limit: how many documents are taken at most of each source, and of each split that is named.

    Raises:
        FileNotFoundError: there is no such file, or none of a kind that can be read.
        ImportError: a package that the source needs is not installed.
        ValueError: a hub dataset cannot be reached, names leave nothing to train on, or an argument
            is out of range.

    >>> corpus = open_corpus({"train": ["one", "two", "three"], "test": ["four"]})
    >>> [(split, text) for split, _, text in corpus.documents()]
    [('validation', 'one'), ('train', 'two'), ('train', 'three'), ('test', 'four')]
    >>> corpus.how
    'train and test by its keys, validation drawn from train'
    """
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(
            f"encoding={encoding!r} is unknown: name one of Python's, such as utf-8, latin-1, cp1252, utf-16"
        ) from error
    if separator == "":
        raise ValueError("separator='': name what stands between documents, as in separator='\\n', or leave it out")
    if separator is not None:  # as a shell hands them over
        separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    opening = _Opening(Reader(column, separator, encoding), config, hub_split, streaming)
    sources = _sources(source)
    if not sources:
        raise ValueError(f"source={source!r}: no text, it has no documents")
    listed = {
        split: opening.flat(given, split) for split, given in (("validation", validation), ("test", test)) if given is not None
    }
    taken = {shard.file.resolve() for part in listed.values() for shard in part.files}
    pools: list[Pool] = []
    said: list[str] = []
    opened = [opening.open(one) for one in sources] if weights is not None else opening.together(sources)
    for index, one in enumerate(opened):
        place = index if weights is not None else 0
        named = {split: [shard for shard in shards if _file(shard) not in taken] for split, shards in one.shards.items()}
        whole = named.pop(None, None)
        by_name = {split: named[split] for split in SPLITS if named.get(split) and split not in listed}
        drawn = [split for split in SPLITS[1:] if split not in by_name and split not in listed]
        train = by_name.get("train", whole or [])
        if not train and one.all():
            raise ValueError(f"{one.name}: no file is left to train on, {_words(list(listed))} takes them all")
        groups: dict[tuple[str, ...], list[Shard]] = {
            ("train", *drawn): train,
            **{(split,): shards for split, shards in by_name.items() if split != "train"},
        }
        pools += [Pool(tuple(shards), splits, place, seed, limit) for splits, shards in groups.items()]
        if whole is None:
            said.append(f"{_words(list(by_name))} by {one.by}")
            said += [f"{_words(drawn)} drawn from train"] * bool(drawn)
        elif drawn and (one.by or listed):
            said.append(f"{_words(drawn if listed else list(SPLITS))} drawn")
        said += one.notes
    for split, part in listed.items():
        pools.append(Pool(tuple(part.all()), (split,), 0, seed, limit))
        said.append(f"{split} of {part.name}")
    name = _words([one.name for one in opened])
    _check_apply([shard for pool in pools for shard in pool.shards], name, column, separator)
    return Corpus(tuple(pools), name, ", ".join(dict.fromkeys(said)), _shares(weights, len(sources)))


class _Opened(NamedTuple):
    """One source: its shards by the split that a name says (None: no name does), and what to say of it."""

    shards: dict[str | None, list[Shard]]
    name: str
    by: str = ""  # what names the splits
    notes: tuple[str, ...] = ()

    def all(self) -> list[Shard]:
        return [shard for shards in self.shards.values() for shard in shards]

    @property
    def files(self) -> list[FileShard]:
        return [shard for shard in self.all() if isinstance(shard, FileShard)]


class _Opening(NamedTuple):
    """Opens sources of every kind, all in the same way."""

    reader: Reader
    config: str | None
    hub_split: str | None
    streaming: bool

    def open(self, source: Any) -> _Opened:
        if isinstance(source, str) and source in BUNDLED:
            texts = BUNDLED[source]()
            count = min(SHARDS, len(texts)) if self.streaming else 1
            edges = [round(len(texts) * index / count) for index in range(count + 1)]
            shards = [ListShard(texts[a:b], source) for a, b in pairwise(edges)]
            return _Opened({None: [*shards]}, source)
        if isinstance(source, str | Path):
            found = _found(source)
            return self._hub(str(source)) if found is None else self._files(str(source), [found])
        if isinstance(source, Mapping):
            return self._splits(source, f"a {type(source).__name__}", "its keys", strict=type(source) is dict)
        name = f"a {type(source).__name__}"
        if hasattr(source, "select_columns"):
            return _Opened({None: self._rows(source, name)}, name, "draws")
        if isinstance(source, Sequence):
            column = self.reader.column if _are_rows(source) else ""
            return _Opened({None: [ListShard([*source], name, column)]}, name, "draws")
        wanted = "a path, a hub name, a list of texts or rows, a dataset of `datasets`, or a dictionary of splits"
        raise ValueError(f"source is {name}: {wanted} is wanted")

    def together(self, sources: list[Any]) -> list[_Opened]:
        """Opens sources that are joined: local files are sorted by their names among each other."""
        local = [(str(source), found) for source in sources if (found := _found(source)) is not None]
        names, founds = zip(*local, strict=True) if local else ((), ())
        joined = [self._files(_words(names), founds)] if local else []
        return joined + [self.open(source) for source in sources if _found(source) is None]

    def flat(self, source: Any, split: str) -> _Opened:
        """Opens what one split is made of: all of it, or what is called so where keys name splits."""
        shards: list[Shard] = []
        names = []
        for one in _sources(source):
            if (found := _found(one)) is not None:
                shards += [FileShard(file, self.reader) for file in found.files]
                names.append(str(one))
                continue
            opened = self.open(one)
            if None not in opened.shards and split not in opened.shards:
                raise ValueError(f"{split}={opened.name!r} has no split {split!r}: {nearest(split, map(str, opened.shards))}")
            shards += opened.shards.get(split) or opened.all()
            names.append(opened.name)
        return _Opened({None: shards}, _words(names))

    def _files(self, source: str, founds: Sequence[Found]) -> _Opened:
        named: dict[str | None, list[Path]] = {}
        every = [file for found in founds for file in found.files]
        for found in founds:
            for file in found.files:
                named.setdefault(split_of_file(file.relative_to(found.root)), []).append(file)
        left: list[Path] = []
        if len(named) == 1 or not {"validation", "test"} & {*named}:
            named = {None: every}
        elif "train" in named:
            left = named.pop(None, [])
        elif None in named:
            named["train"] = named.pop(None)
        else:
            called = _words([split for split in SPLITS if split in named])
            raise ValueError(f"{source}: its files are called {called}, none is left to train on: {_TRAIN}")
        hidden, other = sum(found.hidden for found in founds), sum(found.other for found in founds)
        counted = [_count(hidden, "hidden file"), _count(other, "other file"), _count(len(left), "file of no split's name")]
        shards: dict[str | None, list[Shard]] = {
            split: [FileShard(file, self.reader) for file in files] for split, files in named.items()
        }
        by = "draws" if None in named else "the files' names"
        return _Opened(shards, source, by, tuple(f"{note} left out" for note in counted if note))

    def _rows(self, rows: Any, name: str) -> list[Shard]:
        if not hasattr(rows, "data") and not self.streaming:
            raise ValueError(f"{name} is a stream: read it with streaming=True")
        return shards_of_rows(rows, self.reader.column, name)

    def _hub(self, source: str) -> _Opened:
        where: dict[str, Any] = {"local": "file", "way_out": WAY_OUT, "known": BUNDLED}
        rows = from_hub(source, self.config, self.hub_split, **where, streaming=self.streaming)
        if isinstance(rows, Mapping):
            return self._splits(rows, source, "the hub", strict=False)
        return _Opened({None: self._rows(rows, source)}, source, "draws")

    def _splits(self, parts: Mapping[Any, Any], name: str, by: str, strict: bool) -> _Opened:
        """Sorts by keys. Keys that name no split are left out where the data are not the user's own words."""
        of_key = {key: next((split for split, words in WORDS.items() if str(key).lower() in words), None) for key in parts}
        unknown = [str(key) for key, split in of_key.items() if split is None]
        if len(parts) == 1 and not strict:
            return _Opened({None: self._value(next(iter(parts.values())), name)}, name, "draws")
        if "train" not in of_key.values() or (strict and unknown):
            known = f": {nearest(unknown[0], SPLITS)}" if strict and unknown else ""
            way_out = "" if strict else ", or name the one to take, as in --task.hub-split " + str(next(iter(parts), ""))
            raise ValueError(
                f"{name} has the splits {', '.join(map(str, parts)) or 'none'}, and 'train' is wanted{way_out}{known}"
            )
        shards: dict[str | None, list[Shard]] = {}
        for key, split in of_key.items():
            if split is not None:
                shards.setdefault(split, []).extend(self._value(parts[key], f"{name}[{key!r}]"))
        notes = (f"{', '.join(unknown)} left out",) if unknown else ()
        return _Opened(shards, name, by, notes)

    def _value(self, value: Any, name: str) -> list[Shard]:
        if hasattr(value, "select_columns"):
            return self._rows(value, name)
        return [shard for one in _sources(value) for shard in self.open(one).all()]


_TRAIN = "rename one, or name a source and --task.validation and --task.test apart"


def _check_apply(shards: Sequence[Shard], name: str, column: str, separator: str | None) -> None:
    """Raises ValueError where a keyword has nothing that it could apply to."""
    rows = [shard for shard in shards if not isinstance(shard, ListShard) or shard.column]
    texts = [shard for shard in rows if isinstance(shard, FileShard) and kind_of(shard.file) == "text"]
    if separator is not None and not texts:
        raise ValueError(f"separator={separator!r}: it cuts text files, and {name} has none: leave it out")
    if column != "text" and len(texts) == len(rows):
        raise ValueError(f"column={column!r}: {name} has no column {column!r}, its documents are whole texts: leave it out")


def _found(source: Any) -> Found | None:
    """Finds the files of a local source; None for what is no path."""
    return find_files(source) if isinstance(source, str | Path) and source not in BUNDLED else None


def _file(shard: Shard) -> Path | None:
    return shard.file.resolve() if isinstance(shard, FileShard) else None


def _sources(source: Any) -> list[Any]:
    """Lists the sources that are meant: a list of texts is one, a list of names and datasets several.

    >>> _sources(["a.jsonl", "b.txt"]), _sources(["one text", "two"])
    (['a.jsonl', 'b.txt'], [['one text', 'two']])
    """
    if hasattr(source, "tolist"):  # an array's or a series' texts
        source = source.tolist()
    if isinstance(source, str) or not isinstance(source, Sequence) or hasattr(source, "select_columns") or _are_rows(source):
        return [source]
    names = [_names_a_source(item) for item in source]
    if any(names) and not all(names) and not all(isinstance(item, str) for item in source):
        raise ValueError("source: some items of the list are texts, others are not: put texts into a list of their own")
    return list(source) if all(names) else [source]


def _are_rows(source: Sequence[Any]) -> bool:
    return len(source) > 0 and all(type(item) is dict for item in source)


def _names_a_source(item: Any) -> bool:
    if not isinstance(item, str):
        return item is not None and not isinstance(item, int | float)
    if "\n" in item or len(item) > LONGEST or "\0" in item:
        return False
    there = item in BUNDLED or kind_of(Path(item)) is not None or Path(item).expanduser().exists()
    return there or re.fullmatch(r"[\w.-]+/[\w.-]+", item) is not None


def _shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,)
    if len(weights) != count or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"weights={[*weights]}: one positive number for each source is wanted, and there are {count}")
    return tuple(weight / sum(weights) for weight in weights)


def _count(count: int, what: str) -> str:
    return f"{count:,} {what.replace('file', 'files', count != 1)}" if count else ""


def _words(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def documents(source: Any = "kjv", **where: Any) -> list[str]:
    """Reads all documents of a corpus, in its order; blank ones are left out.

    Arguments and errors are those of `open_corpus`; ValueError, too, where a file cannot be read or
    holds no text.

    >>> len(documents("documentation")) > 50
    True
    """
    pools = open_corpus(source, **where).pools
    texts = [text for pool in pools for text in pool]
    if not texts:
        pools[0].raise_empty()
    return texts


def read_rows(source: str, config: str | None = None, hub_split: str = "train", *, way_out: str = WAY_OUT) -> Any:
    """Reads the rows of local files, a list, or of a hub dataset; errors are those of `documents`.

    `way_out` says in the hub's error what needs no network.
    """
    found = find_files(source)
    if found is None:
        return from_hub(source, config, hub_split, local="file", way_out=way_out, known=BUNDLED, streaming=False)
    return [row for file in found.files for row in Reader(column="").rows(file)]


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
