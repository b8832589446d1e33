"""Subword tokenizers: byte pairs learned on the spot, and those of `tokenizers` and transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ebm.words import nearest

WAY_OUT = 'tokenizer="bytes" needs no network, no package and no training'
LEAST = 257  # tokens of byte pairs: the 256 bytes and end-of-text


class Subwords:
    """Takes the pieces of a `tokenizers` model as tokens; what a model wraps around a text is left out.

    Arguments:
        model: a `tokenizers.Tokenizer`, which this object owns from now on.
        end: the id of end-of-text, which may lie behind the model's own ids.
        unknown: the id of what the vocabulary cannot say, where there is such a thing.
        special_tokens: whether special tokens that a text names are encoded whole, as in chat data;
            then a text can say end-of-text, too. False: they are split like any other text.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> model = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "?": 2}, unk_token="?"))
    >>> model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    >>> words = Subwords(model, end=3, unknown=2)
    >>> words.encode("the black cat"), words.vocab_size
    ([0, 2, 1], 4)
    """

    def __init__(self, model: Any, end: int, unknown: int | None = None, *, special_tokens: bool = False) -> None:
        self.model, self.end, self.special_tokens = model, end, special_tokens
        self.unknown = None if unknown == end else unknown  # GPT-2's byte-level vocabulary has everything, and calls eos unknown
        # Some vocabularies have holes: ids, not entries, are what an embedding must reach.
        self.vocab_size = 1 + max(end, *model.get_vocab().values())
        self._fit_model()

    def _fit_model(self) -> None:
        self.model.encode_special_tokens = not self.special_tokens  # which `tokenizers` does not save
        self.model.no_truncation()  # windows are cut later: no text is too long
        self.model.no_padding()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fit_model()

    def encode(self, text: str) -> list[int]:
        return self.model.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self.model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Joins tokens to a text; bytes that are no UTF-8 become U+FFFD."""
        return self.model.decode([token for token in ids if token != self.end], skip_special_tokens=False)


class BytePairs(Subwords):
    """Merges frequent pairs of bytes into tokens; equal documents give equal vocabularies.

    Arguments:
        documents: what the merges are learned from.
        vocab_size: how many tokens there are, end-of-text (the last id) included, at least 257;
            fewer where the documents have no more pairs to merge.

    >>> pairs = BytePairs(["low lower lowest"] * 4, vocab_size=260)
    >>> pairs.vocab_size, pairs.decode(pairs.encode("slow, né"))
    (260, 'slow, né')
    """

    def __init__(self, documents: Iterable[str], vocab_size: int) -> None:
        if vocab_size < LEAST:
            raise ValueError(f"vocab_size={vocab_size}: at least {LEAST}, for the 256 bytes and end-of-text")
        try:
            from tokenizers import Tokenizer as Model
            from tokenizers import decoders, models, pre_tokenizers, trainers
        except ImportError as error:
            raise ImportError("tokenizers is not installed: pip install 'ebm-toolkit[recipes]'") from error
        model = Model(models.BPE())
        model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        options: dict[str, Any] = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
        model.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=vocab_size - 1, **options))
        super().__init__(model, end=model.get_vocab_size())


class Pretrained(Subwords):
    """Takes a tokenizer that somebody made: a transformers or `tokenizers` object, a file, or a name.

    Arguments:
        source: the object; a tokenizer.json; a transformers tokenizer's folder, or its hub name.
        end_token: the token that ends a text, as in "<|im_end|>"; the source's eos_token if None.
        special_tokens: whether special tokens that a text names are encoded whole.

    Raises:
        ValueError: the source cannot be loaded, has no vocabulary, encodes at random, or names no
            end-of-text where `end_token` names none, either.
    """

    def __init__(self, source: Any, end_token: str | None = None, special_tokens: bool = False) -> None:
        name = str(source) if isinstance(source, str | Path) else f"{type(source).__module__}.{type(source).__qualname__}"
        try:
            model, eos, unknown = _opened(source)
        except Exception as error:  # tokenizers' and transformers' own, of a dozen types
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"the Hugging Face tokenizer {name!r} cannot be loaded ({reason}): {WAY_OUT}") from error
        vocabulary = model.get_vocab()
        if len(vocabulary) < 2:
            raise ValueError(f"tokenizer {name!r} has {len(vocabulary)} tokens, its vocabulary was not found: {WAY_OUT}")
        if getattr(getattr(model, "model", None), "dropout", None):
            raise ValueError(
                f"tokenizer {name!r} drops merges at random: set its model's dropout to null, as in its tokenizer.json"
            )
        ends = eos if end_token is None else end_token
        if ends is None:
            special = _special(model)
            known = f" (its special tokens: {', '.join(special[:9])})" if special else ""
            raise ValueError(
                f"tokenizer {name!r} has no eos_token, which has to end every document: name it, "
                f"as in end_token={special[0] if special else '</s>'!r}{known}; or {WAY_OUT}"
            )
        if ends not in vocabulary:
            raise ValueError(f"end_token={ends!r} is no token of {name!r}: {nearest(ends, [*_special(model), *vocabulary])}")
        if ends not in _special(model):
            model.add_special_tokens([ends])  # or a text that names it would end there
        super().__init__(model, vocabulary[ends], vocabulary.get(unknown), special_tokens=special_tokens)


def _opened(source: Any) -> tuple[Any, str | None, str | None]:
    """Opens a tokenizer: a model that is ours alone, and its texts of end-of-text and unknown."""
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.suffix == ".json" and path.is_file():
            return _copied(path.read_text(encoding="utf-8"))
        try:
            from transformers import AutoTokenizer
        except ImportError:
            if not (path / "tokenizer.json").is_file():
                raise
            return _from_folder(path)
        # Without the refusal, transformers asks on standard input whether to run the folder's code.
        source = AutoTokenizer.from_pretrained(str(path if path.exists() else source), trust_remote_code=False)
    if hasattr(source, "to_str"):  # of `tokenizers`, its ready-made implementations included
        return _copied(source.to_str())
    backend = getattr(source, "backend_tokenizer", None)
    model = Slow(source) if backend is None or not hasattr(backend, "to_str") else _copied(backend.to_str())[0]
    return model, source.eos_token, source.unk_token


def _copied(text: str) -> tuple[Any, str | None, str | None]:
    """Reads the text of a tokenizer.json, which says what is unknown, but never what ends a text."""
    from tokenizers import Tokenizer as Model

    says = json.loads(text)["model"]
    unknown = says.get("unk_token")
    if isinstance(place := says.get("unk_id"), int):  # Unigram's
        unknown = says["vocab"][place][0]
    return Model.from_str(text), None, unknown


def _from_folder(folder: Path) -> tuple[Any, str | None, str | None]:
    """Reads a transformers folder without transformers: its tokenizer.json, and which token ends a text."""
    model, _, unknown = _copied((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = folder / "tokenizer_config.json"
    says = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    named = {key: token.get("content") if isinstance(token, dict) else token for key, token in says.items() if "_token" in key}
    return model, named.get("eos_token"), named.get("unk_token", unknown)


def _special(model: Any) -> list[str]:
    return [token.content for token in model.get_added_tokens_decoder().values() if token.special]


class Slow:
    """Gives a transformers tokenizer that has no `tokenizers` model what Subwords asks of one."""

    encode_special_tokens = True

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def get_vocab(self) -> dict[str, int]:
        return self.inner.get_vocab()

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return self.inner.added_tokens_decoder

    def add_special_tokens(self, tokens: list[str]) -> None:
        self.inner.add_special_tokens({"additional_special_tokens": tokens}, replace_extra_special_tokens=False)

    def no_truncation(self) -> None: ...

    def no_padding(self) -> None: ...

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[Any]:
        if not texts:
            return []  # which transformers cannot encode
        how = {"add_special_tokens": add_special_tokens, "split_special_tokens": self.encode_special_tokens, "verbose": False}
        return [SimpleNamespace(ids=ids) for ids in self.inner(texts, **how)["input_ids"]]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return self.inner.decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)


def is_foreign(tokenizer: object) -> bool:
    """Tells whether an object is a tokenizer of `tokenizers` or of transformers; imports neither."""
    places = (
        ("tokenizers", "Tokenizer"),
        ("tokenizers.implementations", "BaseTokenizer"),
        ("transformers", "PreTrainedTokenizerBase"),
    )
    kinds = [getattr(sys.modules[module], name, None) for module, name in places if sys.modules.get(module) is not None]
    return isinstance(tokenizer, tuple(kind for kind in kinds if kind is not None))
