"""Packs documents into arrays of tokens, in memory or in files that are mapped; serves them as windows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ebm.files import read_json
from ebm.interfaces import Batch
from ebm.tasks.text.tokenizers import Tokenizer

AT_ONCE = 1_000  # documents that are tokenized at a time
CHARACTERS = 1 << 21  # that are tokenized at a time, a longer document aside
PIECE = 1 << 20  # characters of a longer document that are tokenized at a time, where it can be cut
BESIDE = 64  # characters on each side of a cut that must encode alike, cut or not
TABLE = "packed.json"

Part = tuple[str, int]  # a split, and which of several weighed sources


class Packed(NamedTuple):
    """Tokens of joined documents, each with an end-of-text behind it and the first with one before it.

    Attributes:
        ids: the tokens (1 + tokens,), whole numbers.
        size: how many bytes of text they stand for, an end-of-text being one.
        documents: how many there are.
    """

    ids: np.ndarray
    size: int
    documents: int


class Mapped:
    """An array of whole numbers in a file, which is opened again where it is unpickled, never copied."""

    def __new__(cls, path: Path, dtype: str) -> Any:
        found = np.memmap(path, dtype, "r").view(_Memmap)
        found.path = path
        return found


class _Memmap(np.memmap):
    path: Path

    def __reduce__(self) -> Any:
        if not hasattr(self, "path"):
            return np.asarray(self).__reduce__()
        return Mapped, (self.path, self.dtype.str)


def dtype_of(tokenizer: Tokenizer) -> str:
    """Names the smallest whole numbers that hold a tokenizer's ids."""
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<i4"


def pack(documents: Iterable[tuple[str, int, str]], tokenizer: Tokenizer) -> dict[Part, Packed]:
    """Packs documents (split, source, text) in memory.

    >>> from ebm.tasks.text.tokenizers import Bytes
    >>> pack([("train", 0, "hi"), ("train", 0, "é")], Bytes())["train", 0].ids.tolist()
    [256, 104, 105, 256, 195, 169, 256]
    """
    sinks: dict[Part, Any] = {}
    counts = _pack(documents, tokenizer, lambda part: sinks.setdefault(part, io.BytesIO()))
    return {part: Packed(np.frombuffer(sinks[part].getbuffer(), dtype_of(tokenizer)), *count) for part, count in counts.items()}


def pack_into(
    folder: Path, documents: Iterable[tuple[str, int, str]], tokenizer: Tokenizer, *, most: float, total: int | None, way_out: str
) -> None:
    """Packs documents into files of a folder, with memory that stays flat; `packed_in` opens them.

    Arguments:
        folder: where to write; it exists.
        documents: as `pack` takes them.
        tokenizer: what makes tokens of them.
        most: how many bytes the files may have together.
        total: how many bytes of text there are, roughly, for the progress that a terminal shows.
        way_out: what the error says where there are more.

    Raises:
        ValueError: the files would be larger than `most`.
    """
    sinks: dict[Part, Any] = {}

    def sink(part: Part) -> Any:
        if sum(file.tell() for file in sinks.values()) > most:
            raise ValueError(f"the tokens take more than {most / 1e9:,g} GB: {way_out}")
        return sinks.get(part) or sinks.setdefault(part, (folder / _file_of(part)).open("wb"))

    try:
        with tqdm(total=total, desc="preparing tokens", unit="B", unit_scale=True, disable=None, dynamic_ncols=True) as bar:
            counts = _pack(documents, tokenizer, sink, bar.update)
    finally:
        for file in sinks.values():
            file.close()
    rows = [{"split": split, "source": source, "size": size, "documents": n} for (split, source), (size, n) in counts.items()]
    (folder / TABLE).write_text(json.dumps({"dtype": dtype_of(tokenizer), "parts": rows}), encoding="utf-8")


def packed_in(folder: Path) -> dict[Part, Packed]:
    """Maps what `pack_into` wrote; ValueError names a file that is damaged."""
    table = read_json(folder / TABLE)
    parts = {(row["split"], row["source"]): (row["size"], row["documents"]) for row in table["parts"]}
    return {part: Packed(Mapped(folder / _file_of(part), table["dtype"]), *count) for part, count in parts.items()}


def _file_of(part: Part) -> str:
    return f"{part[0]}-{part[1]}.ids"


def _pack(
    documents: Iterable[tuple[str, int, str]],
    tokenizer: Tokenizer,
    sink: Callable[[Part], Any],
    progress: Callable[[int], Any] = lambda _: None,
) -> dict[Part, tuple[int, int]]:
    """Writes tokens to the sink of their part; returns (bytes, documents) of each."""
    end = np.array([tokenizer.end])
    counts: dict[Part, tuple[int, int]] = {}
    for batch in _batches(documents, tokenizer):
        held: dict[Part, list[np.ndarray]] = {}
        for (part, piece, last), ids in zip(batch, tokenizer.encode_batch([piece for _, piece, _ in batch]), strict=True):
            if part not in counts:
                held[part] = [end]
            held.setdefault(part, []).extend((ids, end) if last else (ids,))
            size, count = counts.get(part, (0, 0))
            counts[part] = size + len(piece.encode()) + last, count + last
        for part, found in held.items():
            sink(part).write(np.concatenate(found).astype(dtype_of(tokenizer)).data)
        progress(sum(len(piece) for _, piece, _ in batch))
    return counts


def _batches(documents: Iterable[tuple[str, int, str]], tokenizer: Tokenizer) -> Iterator[list[tuple[Part, str, bool]]]:
    """Gathers what is tokenized at a time: (part, piece of a document, whether it is the last)."""
    held: list[tuple[Part, str, bool]] = []
    characters = 0
    for split, source, text in documents:
        for piece, last in cut(tokenizer, text):
            held.append(((split, source), piece, last))
            characters += len(piece)
            if len(held) == AT_ONCE or characters > CHARACTERS:
                yield held
                held, characters = [], 0
    if held:
        yield held


def cut(tokenizer: Tokenizer, text: str) -> Iterator[tuple[str, bool]]:
    """Cuts a long document before spaces at which its tokens part in any case; elsewhere it stays whole.

    A tokenizer takes many times the memory of a text. Each piece comes with whether it is the last.

    >>> from ebm.tasks.text.tokenizers import Bytes
    >>> [(len(piece), last) for piece, last in cut(Bytes(), "ten chars " * 300_000)]
    [(1048579, False), (1048580, False), (902841, True)]
    """
    first, place, tries = 0, PIECE, 0
    while tries < BESIDE and (place := text.find(" ", place, len(text) - 1)) > 0:
        before, after = text[max(first, place - BESIDE) : place], text[place : place + BESIDE]
        apart = not before[-1:].isspace() and not after[1].isspace()
        if apart and tokenizer.encode(before + after) == [*tokenizer.encode(before), *tokenizer.encode(after)]:
            yield text[first:place], False
            first, place, tries = place, place + PIECE, 0
        else:
            place, tries = place + 1, tries + 1
    yield text[first:], True


# ---------------------------------------------------------------------------------------------------------------- windows


class Windows(Dataset[Batch]):
    """Cuts (1 + tokens,) ids into windows, and serves them to a loader, a whole batch at a time."""

    by_index = True

    def __init__(self, ids: Any, context: int, end: int) -> None:
        self.ids, self.count, self.context, self.end = np.asanyarray(ids), len(ids) - 1, context, end

    def __len__(self) -> int:
        return -(-self.count // self.context)

    def __getitem__(self, rows: Any) -> Batch:
        places = np.asarray(rows)[..., None] * self.context + np.arange(self.context + 1)
        found = np.asarray(self.ids[np.minimum(places, self.count)]).astype(np.int64)
        found[places > self.count] = self.end
        windows = torch.from_numpy(found)
        weight = torch.from_numpy(places[..., 1:] <= self.count).to(torch.get_default_dtype())
        return Batch(windows[..., 1:], windows[..., :-1], weight)

    __getitems__ = __getitem__  # what torch's loader calls with all indices of a batch


class Mixed(Dataset[Batch]):
    """Windows of several sources, of each its share: all of each at least once, the smaller ones repeated.

    >>> a, b = (Windows(np.arange(n + 1), 1, end=99) for n in (2, 6))
    >>> mixed = Mixed([a, b], [0.5, 0.5])
    >>> mixed[range(len(mixed))].target.flatten().tolist()
    [1, 2, 1, 2, 1, 2, 1, 2, 3, 4, 5, 6]
    """

    by_index = True

    def __init__(self, sources: Sequence[Windows], shares: Sequence[float]) -> None:
        self.sources = sources
        whole = max(len(source) / share for source, share in zip(sources, shares, strict=True))
        counts = [max(len(source), round(share * whole)) for source, share in zip(sources, shares, strict=True)]
        self.edges = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.edges[-1])

    def __getitem__(self, rows: Any) -> Batch:
        rows = np.asarray(rows)
        which = np.searchsorted(self.edges, rows, side="right")
        if rows.ndim == 0:
            return self._source(int(which), rows)
        parts = [(np.flatnonzero(which == index)) for index in range(len(self.sources))]
        found = [self._source(index, rows[places]) for index, places in enumerate(parts)]
        order = torch.from_numpy(np.argsort(np.concatenate(parts)))
        return Batch(*(torch.cat(fields)[order] for fields in zip(*found, strict=True)))

    def _source(self, index: int, rows: np.ndarray) -> Batch:
        first = self.edges[index - 1] if index else 0
        return self.sources[index][(rows - first) % len(self.sources[index])]

    __getitems__ = __getitem__
