"""Documents as windows of tokens: predicting text, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch.utils.data import DataLoader, Dataset

from ebm.interfaces import Batch
from ebm.tasks.rows import SPLITS
from ebm.tasks.text.corpora import BUNDLED, Corpus, documents, open_corpus
from ebm.tasks.text.keeping import GIGABYTE, cache_folder, digest_of, kept, key_of, make_room
from ebm.tasks.text.lanes import LaneLoader
from ebm.tasks.text.packing import Mixed, Packed, Part, Windows, cut, pack, pack_into, packed_in
from ebm.tasks.text.streaming import StreamedWindows
from ebm.tasks.text.tokenizers import Bytes, Tokenizer, make_tokenizer, read_tokenizer, save_tokenizer
from ebm.tasks.text.tokens import TokenTask
from ebm.words import nearest

FOREIGN = ("documentation", "source-code")  # corpora that serve as splits out of distribution
TAUGHT = 10_000  # documents of a large corpus or a stream that byte pairs are learned from,
CHARACTERS = 1 << 24  # and characters of them
LARGE = 64 << 20  # bytes of text from which on tokens are kept in files


class Text(TokenTask):
    """Text as next-token prediction: documents are joined, and cut into windows of tokens.

    Window i holds the targets i C … (i+1) C - 1 of the stream, for C = `context`, and as context
    the tokens just before them: each token, end-of-text included, is a target exactly once. The
    stream begins with an end-of-text that is context alone, and its last window is padded with
    tokens of weight 0.

    Splits are what the source's files, folders or keys are called (train; valid, val, validation or
    dev; test or eval), or what `validation` and `test` list; `reads` says which. A split that
    nothing names is drawn from the other documents: a document's text and the seed decide; 90 % go
    to train, 5 % to validation, 5 % to test, and copies of a document go together. Where that
    leaves a split empty, the documents are dealt in the order of the same draws. Fewer documents
    than splits are each cut into contiguous parts of 90, 5 and 5 % of their characters. A streamed
    document's draw alone decides its split, since the stream's length is unknown. Two more splits
    are always there, from outside the corpus unless one of them is the source: all of
    "documentation" and "source-code" of this Python.

    The tokens of a corpus of 64 MB or more are prepared once and mapped from files in `cache`, under
    a name that is made of the corpus' content, the tokenizer and what decides the splits.

    Arguments:
        source: "kjv" (the King James Bible), "documentation", "source-code"; a file, folder or glob
            of .txt, .md, .json, .jsonl, .ndjson, .csv, .tsv, .parquet or .arrow, each also with
            .gz, .zst, .bz2 or .xz; a folder of `save_to_disk`; the name of a hub dataset; in Python
            also a list of texts or rows, a dataset of `datasets`, or a dictionary of splits. Or a list of
            several of these.
        tokenizer: "bytes"; "bpe", byte pairs learned from the training documents; a Hugging Face
            tokenizer's folder, tokenizer.json or name; or a tokenizer, of `tokenizers` or transformers too.
        context: tokens that a window predicts.
        weights: for each of several sources, its share of the training windows: each window comes at
            least once in a pass, those of sources that are smaller than their share again and again.
            None: the sources are joined.
        validation: what is read for validation, as `source` says it; None: as said above.
        test: the same for the test.
        vocab_size: how many tokens "bpe" learns.
        end_token: the token that ends a document, where a Hugging Face tokenizer names none, or another.
        special_tokens: whether special tokens that a document names are encoded whole, as in chat data.
        column: where the text of a row is: a name, or a path such as document.text; a path through a
            list joins what is there by line ends (messages.content).
        separator: what stands between the documents of a text file, "\\n" for a document a line;
            None: a file is a document.
        encoding: of text, JSON and csv files, one of Python's names.
        config: the hub dataset's configuration, where it has several.
        hub_split: the one split of a hub dataset that is read, and then dealt out; None: all, by name.
        streaming: whether documents are read as they are needed, and nothing is kept.
        start: where thinking starts, "uniform" or "noise".
        limit_documents: how many documents are taken at most of each source, and of each split that
            is named, in their order.
        shuffle_buffer: windows that a training stream draws from.
        cache: the folder that prepared tokens are kept in; by default $EBM_CACHE, or the user's cache.
        cache_limit: gigabytes that all of it may take; what was not used for longest goes first.
        seed: decides the split of each document.
        learned: what a run of this task keeps: its tokenizer; with it the corpus is opened when its
            documents are needed.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that the source or the tokenizer needs is not installed.
        ValueError: the source or the tokenizer cannot be read, a split has no text, the training
            documents do not fill a window, or an argument is out of range.

    >>> task = Text("documentation", context=64)
    >>> batch = next(iter(task.loader("train", 8)))
    >>> batch.target.shape, task.spec, task.bytes_per_token("train")
    (torch.Size([8, 64]), {'vocab_size': 257}, 1.0)
    >>> torch.equal(batch.context[:, 1:], batch.target[:, :-1])
    True
    """

    inherits: ClassVar = ("tokenizer", "vocab_size", "end_token", "special_tokens")
    paths: ClassVar = {"source": BUNDLED, "validation": BUNDLED, "test": BUNDLED, "tokenizer": ("bytes", "bpe"), "cache": ()}

    def __init__(
        self,
        source: Any = "kjv",
        tokenizer: str | Tokenizer = "bytes",
        context: int = 128,
        *,
        weights: Sequence[float] | None = None,
        validation: Any = None,
        test: Any = None,
        vocab_size: int | None = None,
        end_token: str | None = None,
        special_tokens: bool = False,
        column: str = "text",
        separator: str | None = None,
        encoding: str = "utf-8",
        config: str | None = None,
        hub_split: str | None = None,
        streaming: bool = False,
        start: Literal["uniform", "noise"] = "uniform",
        limit_documents: int | None = None,
        shuffle_buffer: int = 1000,
        cache: str | None = None,
        cache_limit: float = 50.0,
        seed: int = 0,
        learned: Path | None = None,
    ) -> None:
        super().__init__(start)
        for name, value in (("context", context), ("limit_documents", limit_documents), ("shuffle_buffer", shuffle_buffer)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        if not cache_limit > 0:
            raise ValueError(f"cache_limit={cache_limit}: it must be more than 0 gigabytes")
        self.context_length, self.shuffle_buffer, self.seed, self.streaming = context, shuffle_buffer, seed, streaming
        self.cache, self.cache_limit = None if cache is None else Path(cache).expanduser(), cache_limit
        self.opens: dict[str, Any] = {
            **{"source": source, "weights": weights, "validation": validation, "test": test},
            **{"column": column, "separator": separator, "encoding": encoding, "config": config, "hub_split": hub_split},
            **{"streaming": streaming, "seed": seed, "limit": limit_documents},
        }
        self._foreign: dict[Part, Packed] = {}
        self._held: list[tuple[str, int, str]] | None = None  # documents, until they are tokens
        if learned is not None:
            self.tokenizer = read_tokenizer(learned)
        else:
            how: dict[str, Any] = {"end_token": end_token, "special_tokens": special_tokens}
            _ = self.reads  # what cannot be read is refused now
            if tokenizer == "bpe" and vocab_size is not None and self._large:
                self.tokenizer = self._learned_once(vocab_size, how)
            else:
                self.tokenizer = make_tokenizer(tokenizer, self._taught, vocab_size, **how)
        self.spec = {"vocab_size": self.tokenizer.vocab_size}
        if learned is None and not streaming:
            self._check_tokens()

    def _check_tokens(self) -> None:
        """Raises ValueError where training documents do not fill a window, or a split is empty."""
        count = sum(len(part.ids) - 1 for part in self._parts("train"))
        if count < self.context_length:
            found = f"the training documents of {self.corpus.name!r} have only {count} tokens"
            raise ValueError(f"context={self.context_length}: {found}: choose a smaller context")
        for split in SPLITS[1:]:
            self._parts(split)

    @cached_property
    def corpus(self) -> Corpus:
        """The documents and their splits; they are opened when this is first asked for."""
        corpus = open_corpus(**self.opens)
        if self.streaming:
            for pool in corpus.pools:
                pool.check_streams()
        return corpus

    @cached_property
    def reads(self) -> str:  # type: ignore[override]
        """Which data are read, and what says their splits."""
        corpus, limit = self.corpus, self.opens["limit"]
        if self.streaming:
            what = f"a stream of {'all' if limit is None else f'{limit:,}'} documents"
        elif self._large:
            what = f"{corpus.size() / 1e6:,.0f} MB"
        else:
            held, count = corpus.held()
            self._held = None if "_tokens" in vars(self) else held
            what = f"{count:,} documents"
        return f"{what} of {corpus.name}{corpus.how and f'; {corpus.how}'}"

    @property
    def _large(self) -> bool:
        return not self.streaming and self.corpus.size() >= LARGE

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Digests the corpus, as `Corpus.fingerprint` does: content, whatever its files are called."""
        return self.corpus.fingerprint()[:16]

    def save_learned(self, folder: Path) -> None:
        """Writes the tokenizer."""
        save_tokenizer(self.tokenizer, folder)

    def data(self, split: str, *, seed: int = 0) -> Dataset[Batch]:
        """Serves the windows of a split; the seed orders those of a training stream."""
        if split not in (*SPLITS, *FOREIGN):
            raise ValueError(f"unknown split {split!r}: {nearest(split, [*SPLITS, *FOREIGN])}")
        shares = self.corpus.weights if split == "train" else (1.0,)
        if self.streaming and split in SPLITS:
            sources = [self.corpus.streams(split, source) for source in range(len(shares))]
            how: dict[str, Any] = {"buffer": self.shuffle_buffer if split == "train" else None, "seed": seed}
            return StreamedWindows(sources, shares, self.tokenizer, self.context_length, **how)
        windows = [Windows(part.ids, self.context_length, self.tokenizer.end) for part in self._parts(split)]
        return windows[0] if len(windows) == 1 else Mixed(windows, shares)

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader as every token task does; a stream has at most a worker per shard.

        `fit` reads a training stream in lanes, which go on without end (`ebm.tasks.text.lanes`).
        """
        most = workers
        if self.streaming and split in SPLITS and workers:
            sources = range(len(self.corpus.weights)) if split == "train" else [0]
            most = min(workers, *(len(self.corpus.streams(split, source)) for source in sources))
        found = super().loader(split, batch_size, seed=seed, workers=most)
        if isinstance(found, LaneLoader):
            found.readers = workers
        return found

    def bytes_per_token(self, split: str) -> float | None:
        """Divides a split's bytes by its tokens; None for a stream, whose length is unknown.

        Bytes are UTF-8's, and one for each end-of-text.
        """
        if self.streaming and split in SPLITS:
            return None
        self.data(split)  # checks the name
        parts = self._parts(split)
        return sum(part.size for part in parts) / sum(len(part.ids) - 1 for part in parts)

    def _parts(self, split: str) -> list[Packed]:
        """The packed documents of a split, of each weighed source."""
        if split in FOREIGN:
            if (split, 0) not in self._foreign:
                self._foreign |= pack(((split, 0, text) for text in documents(split)), self.tokenizer)
            return [self._foreign[split, 0]]
        found = [packed for (name, _), packed in sorted(self._tokens.items()) if name == split]
        if not found:
            what = f"{self.corpus.name}: its text is too short to be cut into {', '.join(SPLITS)}, {split} is empty"
            raise ValueError(f"{what}: bring more documents, or name a split's file, as in --task.validation FILE")
        return found

    @cached_property
    def _tokens(self) -> dict[Part, Packed]:
        """Joins the documents of all splits, once."""
        if self._large:
            return packed_in(self._prepared())
        _ = self.reads  # which holds the documents
        held, self._held = self._held, None
        return pack(held or (), self.tokenizer)

    def _prepared(self) -> Path:
        """Prepares the files of a large corpus' tokens, or finds them."""
        cache, limit = self._cache, self.cache_limit * GIGABYTE
        key = self._key(digest_of(self.tokenizer))
        way_out = f"set --task.cache-limit above {self.cache_limit:g}, or --task.streaming true, which keeps nothing"

        def make(folder: Path) -> None:
            size = self.corpus.size()
            make_room(cache, max(0.0, limit - 2 * size), keep=key)
            pack_into(folder, self.corpus.documents(), self.tokenizer, most=limit, total=size, way_out=way_out)

        return kept(cache, key, make)

    def _learned_once(self, vocab_size: int, how: dict[str, Any]) -> Tokenizer:
        """Learns byte pairs from the first documents of a large corpus, or finds what was learned."""
        return read_tokenizer(
            kept(
                self._cache,
                self._key("bpe", vocab_size, TAUGHT, CHARACTERS, how),
                lambda folder: save_tokenizer(make_tokenizer("bpe", self._taught, vocab_size, **how), folder),
            )
        )

    @property
    def _cache(self) -> Path:
        return cache_folder() if self.cache is None else self.cache

    def _key(self, *more: object) -> str:
        where = [self.opens[name] for name in ("column", "separator", "encoding", "seed", "limit")]
        return key_of(1, self.corpus.fingerprint(), where, *more)

    def _taught(self) -> Iterable[str]:
        """Gives what byte pairs are learned from: the training documents, the first ones of many."""
        if self._held is not None:
            return [text for split, _, text in self._held if split == "train"]
        first = islice((text for shard in self.corpus.streams("train") for text in shard), TAUGHT)
        pieces = (piece for text in first for piece, _ in cut(Bytes(), text))
        return _up_to(CHARACTERS, pieces)


def _up_to(characters: int, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return
