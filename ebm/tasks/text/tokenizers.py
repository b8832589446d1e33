"""Turns text into tokens: bytes, byte pairs learned on the spot, or a Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Tokenizer(Protocol):
    """What text needs of a tokenizer. Text never encodes to `end`; `decode` leaves it out."""

    vocab_size: int
    end: int  # the id of end-of-text
    unknown: int | None  # the id of what the vocabulary cannot say, where there is such a thing

    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class Bytes:
    """Takes the 256 bytes of UTF-8 as tokens, and end-of-text as the 257th.

    >>> Bytes().encode("né"), Bytes().decode([110, 195, 169, 256])
    ([110, 195, 169], 'né')
    """

    vocab_size = 257
    end = 256
    unknown: int | None = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Joins bytes to a text; bytes that are no UTF-8 become U+FFFD."""
        return bytes(token for token in ids if token != self.end).decode(errors="replace")


class BytePairs:
    """Merges frequent pairs of bytes into tokens; equal documents give equal vocabularies.

    Arguments:
        documents: what the merges are learned from.
        vocab_size: how many tokens there are, end-of-text (the last id) included, at least 257;
            fewer where the documents have no more pairs to merge.

    >>> pairs = BytePairs(["low lower lowest"] * 4, vocab_size=260)
    >>> pairs.vocab_size, pairs.decode(pairs.encode("slow, né"))
    (260, 'slow, né')
    """

    unknown: int | None = None

    def __init__(self, documents: Iterable[str], vocab_size: int) -> None:
        if vocab_size < Bytes.vocab_size:
            raise ValueError(f"vocab_size={vocab_size}: at least 257, for the 256 bytes and end-of-text")
        try:
            from tokenizers import Tokenizer as Model
            from tokenizers import decoders, models, pre_tokenizers, trainers
        except ImportError as error:
            raise ImportError("tokenizers is not installed: pip install 'ebm-toolkit[recipes]'") from error
        self.model = Model(models.BPE())
        self.model.pre_tokenizer, self.model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        options: dict[str, Any] = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
        self.model.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=vocab_size - 1, **options))
        self.end = self.model.get_vocab_size()
        self.vocab_size = self.end + 1

    def encode(self, text: str) -> list[int]:
        return self.model.encode(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(found.ids, np.int32) for found in self.model.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """Joins tokens to a text; bytes that are no UTF-8 become U+FFFD."""
        return self.model.decode([token for token in ids if token != self.end])


class Pretrained:
    """Takes a Hugging Face tokenizer, from a local folder or by its hub `name`.

    ValueError where it cannot be loaded, has no vocabulary, or knows no end-of-text.
    """

    def __init__(self, name: str) -> None:
        way_out = 'tokenizer="bytes" needs no network, no package and no training'
        try:
            from transformers import AutoTokenizer

            # Without the refusal, transformers asks on standard input whether to run the folder's code.
            self.model: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except Exception as error:  # transformers' own, of a dozen types
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"the Hugging Face tokenizer {name!r} cannot be loaded ({reason}): {way_out}") from error
        self.vocab_size = len(self.model)
        if self.vocab_size < 2:
            raise ValueError(f"tokenizer {name!r} has {self.vocab_size} tokens, its vocabulary was not found: {way_out}")
        if self.model.eos_token_id is None:
            raise ValueError(f"tokenizer {name!r} has no eos_token, which has to end every document: {way_out}")
        self.end: int = self.model.eos_token_id
        unknown = self.model.unk_token_id  # GPT-2's byte-level vocabulary has everything, and calls eos unknown
        self.unknown: int | None = None if unknown == self.end else unknown

    def encode(self, text: str) -> list[int]:
        return self._ids([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(ids, np.int32) for ids in self._ids(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        return self.model.decode([token for token in ids if token != self.end], clean_up_tokenization_spaces=False)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []  # which transformers cannot encode
        # A text may say "<|endoftext|>" without ending there; and windows are cut later, so no
        # length is too long.
        return self.model(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def make_tokenizer(name: str | Tokenizer, documents: Callable[[], Iterable[str]], vocab_size: int | None = None) -> Tokenizer:
    """Makes a tokenizer: "bytes", "bpe" (learned from `documents()`), or Hugging Face's.

    A tokenizer stays as it is. ValueError where vocab_size is missing or does not apply.

    >>> make_tokenizer("bytes", list).vocab_size
    257
    """
    if name == "bpe":
        if vocab_size is None:
            raise ValueError("tokenizer='bpe' needs vocab_size, the number of tokens to learn, as in vocab_size=4096")
        return BytePairs(documents(), vocab_size)
    if vocab_size is not None:
        raise ValueError(f"vocab_size={vocab_size} with tokenizer={name!r}: vocab_size is a keyword of tokenizer='bpe'")
    if not name:
        raise ValueError("tokenizer='': choose bytes, bpe, or a Hugging Face tokenizer's folder or name")
    if not isinstance(name, str):
        return name
    return Bytes() if name == "bytes" else Pretrained(name)


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encodes a prompt; an empty one is end-of-text, after which a document begins.

    ValueError names a piece of the text that has no token.

    >>> encode_prompt(Bytes(), ""), encode_prompt(Bytes(), "In")
    ([256], [73, 110])
    """
    ids = tokenizer.encode(text)
    unknown = getattr(tokenizer, "unknown", None)  # a plugin's tokenizer may have no word for it
    if unknown is not None and unknown in ids:
        words = (word for word in text.split() if unknown in tokenizer.encode(word))
        raise ValueError(f"the tokenizer has no token for {next(words, text)!r}: leave it out of the prompt")
    return ids or [tokenizer.end]


def pieces(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Decodes what follows a prompt as it comes, in whole characters, up to end-of-text.

    >>> list(pieces(Bytes(), [110], [195, 169, 33, 256, 33]))
    ['é', '!']
    """
    ids = [*prompt]
    text = said = tokenizer.decode(ids)
    for token in tokens:
        if token == tokenizer.end:
            break
        ids.append(token)
        text = tokenizer.decode(ids)
        whole = text.rstrip("\ufffd")  # what may be the beginning of a character
        if len(whole) > len(said):
            yield whole[len(said) :]
            said = whole
    if len(text) > len(said):
        yield text[len(said) :]
