"""Documents as windows of tokens: predicting text, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ebm.interfaces import Batch
from ebm.randomness import stream, subseed
from ebm.tasks.rows import SPLITS
from ebm.tasks.text.corpora import BUNDLED, documents, streamed_documents
from ebm.tasks.text.tokenizers import Tokenizer, make_tokenizer, read_tokenizer, save_tokenizer
from ebm.tasks.text.tokens import TokenTask
from ebm.words import nearest

HELD_OUT = 0.05  # the share of documents in each of validation and test
FOREIGN = ("documentation", "source-code")  # corpora that serve as splits out of distribution
TAUGHT = 10_000  # documents of a stream that byte pairs are learned from
AT_ONCE = 1_000  # documents that are tokenized at a time


class Text(TokenTask):
    """Text as next-token prediction: documents are joined, and cut into windows of tokens.

    Window i holds the targets i C … (i+1) C - 1 of the stream, for C = `context`, and as context
    the tokens just before them: each token, end-of-text included, is a target exactly once. The
    stream begins with an end-of-text that is context alone, and its last window is padded with
    tokens of weight 0.

    A document's text and the seed decide its split: 90 % go to train, 5 % to validation, 5 % to
    test, and copies of a document go together. Where that leaves a split empty, the documents are
    dealt in the order of the same draws. Fewer than three documents are each cut into contiguous
    parts of 90, 5 and 5 % of their characters. A streamed document's draw alone decides its split,
    since the stream's length is unknown. Two more splits are always there, from outside the corpus
    unless one of them is the source: all of "documentation" and "source-code" of this Python.

    Arguments:
        source: "kjv" (the King James Bible), "documentation", "source-code"; a file, folder or glob
            of .txt, .json, .jsonl or .parquet; or the name of a hub dataset.
        tokenizer: "bytes"; "bpe", byte pairs learned from the training documents; a Hugging Face
            tokenizer's folder, tokenizer.json or name; or a tokenizer, of `tokenizers` or transformers too.
        context: tokens that a window predicts.
        vocab_size: how many tokens "bpe" learns.
        end_token: the token that ends a document, where a Hugging Face tokenizer names none, or another.
        special_tokens: whether special tokens that a document names are encoded whole, as in chat data.
        column: where the text of a row is.
        config: the hub dataset's configuration, where it has several.
        hub_split: which split of a hub dataset is read, and then dealt out.
        streaming: whether documents are read as they are needed, for corpora larger than memory.
        start: where thinking starts, "uniform" or "noise".
        limit_documents: how many documents of the source are taken at most, in its order.
        shuffle_buffer: windows that a training stream draws from.
        seed: decides the split of each document.
        learned: what a run of this task keeps: its tokenizer; with it the corpus is opened when its
            documents are needed.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that the source or the tokenizer needs is not installed.
        ValueError: the source or the tokenizer cannot be read, the training documents do not fill a
            window, or an argument is out of range.

    >>> task = Text("documentation", context=64)
    >>> batch = next(iter(task.loader("train", 8)))
    >>> batch.target.shape, task.spec, task.bytes_per_token("train")
    (torch.Size([8, 64]), {'vocab_size': 257}, 1.0)
    >>> torch.equal(batch.context[:, 1:], batch.target[:, :-1])
    True
    """

    inherits: ClassVar = ("tokenizer", "vocab_size", "end_token", "special_tokens")
    paths: ClassVar = {"source": BUNDLED, "tokenizer": ("bytes", "bpe")}

    def __init__(
        self,
        source: str = "kjv",
        tokenizer: str | Tokenizer = "bytes",
        context: int = 128,
        *,
        vocab_size: int | None = None,
        end_token: str | None = None,
        special_tokens: bool = False,
        column: str = "text",
        config: str | None = None,
        hub_split: str = "train",
        streaming: bool = False,
        start: Literal["uniform", "noise"] = "uniform",
        limit_documents: int | None = None,
        shuffle_buffer: int = 1000,
        seed: int = 0,
        learned: Path | None = None,
    ) -> None:
        super().__init__(start)
        for name, value in (("context", context), ("limit_documents", limit_documents), ("shuffle_buffer", shuffle_buffer)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        self.context_length, self.column, self.shuffle_buffer, self.seed = context, column, shuffle_buffer, seed
        self.source, self.streaming, self.limit_documents = source, streaming, limit_documents
        self.where: dict[str, Any] = {"column": column, "config": config, "hub_split": hub_split}
        self._packed: dict[str, tuple[Tensor, int]] = {}
        if learned is not None:
            self.tokenizer = read_tokenizer(learned)
        else:
            how: dict[str, Any] = {"end_token": end_token, "special_tokens": special_tokens}
            _ = self._rows if streaming else self._documents  # what cannot be read is refused now
            self.tokenizer = make_tokenizer(tokenizer, self._taught, vocab_size, **how)
        self.spec = {"vocab_size": self.tokenizer.vocab_size}
        if learned is None and not streaming and (count := len(self._pack("train")[0]) - 1) < context:
            found = f"the training documents of {source!r} have only {count} tokens"
            raise ValueError(f"context={context}: {found}: choose a smaller context")

    @cached_property
    def reads(self) -> str:  # type: ignore[override]
        """Which data are read."""
        limit = "all" if self.limit_documents is None else f"{self.limit_documents:,}"
        many = f"a stream of {limit}" if self.streaming else f"{len(self._texts):,}"
        return f"{many} documents of {self.source}"

    @cached_property
    def _rows(self) -> Any:
        """The rows of a stream; None where all documents are in memory."""
        if not self.streaming:
            return None
        rows, limit = streamed_documents(self.source, **self.where), self.limit_documents
        # Workers would share out the limit, too, and take other documents.
        return rows if limit is None else rows.take(limit)

    @cached_property
    def _texts(self) -> list[str]:
        return documents(self.source, **self.where)[: self.limit_documents]

    @cached_property
    def _documents(self) -> dict[str, list[str]]:
        return deal(self._texts, self.seed)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Hashes the documents of all splits; of a stream, whose end may be far, nothing."""
        if self.streaming:
            return ""
        whole = blake2b(digest_size=8)
        for split, texts in self._documents.items():
            for text in texts:
                whole.update(f"{split} {len(text)} {text}".encode())
        return whole.hexdigest()

    def save_learned(self, folder: Path) -> None:
        """Writes the tokenizer."""
        save_tokenizer(self.tokenizer, folder)

    def data(self, split: str, *, seed: int = 0) -> Dataset[Batch]:
        """Serves the windows of a split; the seed orders those of a training stream."""
        if split not in (*SPLITS, *FOREIGN):
            raise ValueError(f"unknown split {split!r}: {nearest(split, [*SPLITS, *FOREIGN])}")
        if self._rows is not None and split in SPLITS:
            return _Stream(self, split, seed)
        return _Windows(self._pack(split)[0], self.context_length, self.tokenizer.end)

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader as every token task does; a stream has at most a worker per shard."""
        if self._rows is not None:
            workers = min(workers, self._rows.num_shards if self.limit_documents is None else 1)
        return super().loader(split, batch_size, seed=seed, workers=workers)

    def bytes_per_token(self, split: str) -> float | None:
        """Divides a split's bytes by its tokens; None for a stream, whose length is unknown.

        Bytes are UTF-8's, and one for each end-of-text.
        """
        if self._rows is not None and split in SPLITS:
            return None
        self.data(split)  # checks the name
        tokens, size = self._pack(split)
        return size / (len(tokens) - 1)

    def _pack(self, split: str) -> tuple[Tensor, int]:
        """Joins a split's documents, once: ids (1 + tokens,), and the bytes they stand for."""
        if split not in self._packed:
            texts = documents(split) if split in FOREIGN else self._documents[split]
            end, pieces = np.array([self.tokenizer.end], np.int32), []
            for first in range(0, len(texts), AT_ONCE):
                for ids in self.tokenizer.encode_batch(texts[first : first + AT_ONCE]):
                    pieces += [ids, end]
            tokens = torch.from_numpy(np.concatenate([end, *pieces], dtype=np.int32))
            self._packed[split] = tokens, sum(len(text.encode()) + 1 for text in texts)
        return self._packed[split]

    def _taught(self) -> Iterable[str]:
        if self._rows is None:
            return self._documents["train"]
        return islice(self._streamed("train", self._rows), TAUGHT)

    def _streamed(self, split: str, rows: Any) -> Iterator[str]:
        return (text for row in rows if split_of(draw(text := row[self.column], self.seed)) == split)


def draw(document: str, seed: int) -> float:
    """Draws a number in [0, 1) from a document's text and a seed."""
    digest = blake2b(document.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little") / 2**64


def split_of(number: float) -> str:
    """Names the split of a document with this draw.

    >>> [split_of(number) for number in (0.01, 0.07, 0.5)]
    ['test', 'validation', 'train']
    """
    return "test" if number < HELD_OUT else "validation" if number < 2 * HELD_OUT else "train"


def deal(texts: list[str], seed: int) -> dict[str, list[str]]:
    """Deals documents out to splits, none of which is empty; each keeps the documents' order.

    >>> {split: len(texts) for split, texts in deal([str(i) for i in range(10)], seed=0).items()}
    {'train': 8, 'validation': 1, 'test': 1}
    >>> deal(["x" * 100], seed=0)["test"]
    ['xxxxx']
    """
    if len(texts) < len(SPLITS):
        cuts = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
        return {split: [text[round(a * len(text)) : round(b * len(text))] for text in texts] for split, (a, b) in cuts.items()}
    draws = [draw(text, seed) for text in texts]
    splits = [split_of(number) for number in draws]
    if len(set(splits)) < len(SPLITS):
        few = max(1, round(HELD_OUT * len(texts)))
        for place, index in enumerate(sorted(range(len(texts)), key=draws.__getitem__)):
            splits[index] = "test" if place < few else "validation" if place < 2 * few else "train"
    return {name: [text for text, split in zip(texts, splits, strict=True) if split == name] for name in SPLITS}


class _Windows(Dataset[Batch]):
    """Cuts (1 + tokens,) ids into windows, and serves them to a loader, a whole batch at a time."""

    def __init__(self, ids: Tensor, context: int, end: int) -> None:
        self.count, self.context = len(ids) - 1, context
        rows = -(-self.count // context)
        self.ids = F.pad(ids, (0, rows * context - self.count), value=end)

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.context

    def __getitem__(self, rows: Any) -> Batch:
        windows = self.ids.unfold(0, self.context + 1, self.context)[rows].long()
        places = torch.as_tensor(rows).unsqueeze(-1) * self.context + torch.arange(self.context)
        return Batch(windows[..., 1:], windows[..., :-1], (places < self.count).to(torch.get_default_dtype()))

    __getitems__ = __getitem__  # what torch's loader calls with all indices of a batch


class _Stream(IterableDataset[Batch]):
    """Packs streamed documents into windows as they come; each worker packs its own shards."""

    def __init__(self, text: Text, split: str, seed: int) -> None:
        self.text, self.split, self.seed = text, split, seed

    def __iter__(self) -> Iterator[Batch]:
        if self.split != "train":
            yield from self._windows(self.text._rows)
            return
        generator = stream(self.seed, "buffer", getattr(get_worker_info(), "id", 0))
        # The shards come in another order, too; a buffer of one row leaves their rows in order.
        rows = self.text._rows.shuffle(seed=subseed(self.seed, "shards"), buffer_size=1)
        held: list[Batch] = []
        for window in self._windows(rows):
            held.append(window)
            if len(held) == self.text.shuffle_buffer:
                chosen = int(torch.randint(len(held), (), generator=generator))
                held[chosen], held[-1] = held[-1], held[chosen]
                yield held.pop()
        yield from (held[index] for index in torch.randperm(len(held), generator=generator).tolist())

    def _windows(self, rows: Any) -> Iterator[Batch]:
        tokenizer, context = self.text.tokenizer, self.text.context_length
        end = np.array([tokenizer.end], np.int32)
        left = end
        for document in self.text._streamed(self.split, rows):
            left = np.concatenate([left, *tokenizer.encode_batch([document]), end], dtype=np.int32)
            full = (len(left) - 1) // context * context
            yield from self._rows(left[: full + 1])
            left = left[full:]
        yield from self._rows(left)

    def _rows(self, ids: np.ndarray) -> Iterator[Batch]:
        windows = _Windows(torch.from_numpy(ids), self.text.context_length, self.text.tokenizer.end)
        return (windows[row] for row in range(len(windows)))
