"""Turns text into tokens: bytes, byte pairs learned on the spot, or a tokenizer of Hugging Face's; saves
and reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ebm.files import commit, discard, draft_of, read_json, write_text
from ebm.tasks.text.brackets import Brackets
from ebm.tasks.text.subwords import BytePairs, Pretrained, Slow, Subwords, is_foreign
from ebm.tasks.text.writing import pieces as pieces


@runtime_checkable
class Tokenizer(Protocol):
    """What text needs of a tokenizer. Text never encodes to `end`, unless special tokens are encoded
    whole; `decode` leaves it out."""

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


def make_tokenizer(
    name: Any,
    documents: Callable[[], Iterable[str]],
    vocab_size: int | None = None,
    *,
    end_token: str | None = None,
    special_tokens: bool = False,
) -> Tokenizer:
    """Makes a tokenizer: "bytes", "bpe" (learned from `documents()`), or what `Pretrained` takes.

    A tokenizer of this module or of a plugin stays as it is. ValueError where vocab_size is
    missing, or a keyword does not apply.

    >>> make_tokenizer("bytes", list).vocab_size
    257
    """
    if name == "bpe" and vocab_size is None:
        raise ValueError("tokenizer='bpe' needs vocab_size, the number of tokens to learn, as in vocab_size=4096")
    if name != "bpe" and vocab_size is not None:
        raise ValueError(f"vocab_size={vocab_size} with tokenizer={name!r}: vocab_size is a keyword of tokenizer='bpe'")
    if not name and isinstance(name, str):
        raise ValueError("tokenizer='': choose bytes, bpe, or a Hugging Face tokenizer's folder, file or name")
    if name not in ("bytes", "bpe") and (isinstance(name, str | Path) or is_foreign(name)):
        return Pretrained(name, end_token, special_tokens)
    for keyword, value in (("end_token", end_token), ("special_tokens", special_tokens)):
        if value:
            what = f"{keyword}={value!r} with tokenizer={name if isinstance(name, str) else type(name).__name__!r}"
            raise ValueError(f"{what}: {keyword} is a keyword of Hugging Face tokenizers, this one has an end-of-text of its own")
    if vocab_size is not None:
        return BytePairs(documents(), vocab_size)
    if isinstance(name, str):
        return Bytes()
    if missing := [part for part in ("vocab_size", "end", "encode", "encode_batch", "decode") if not hasattr(name, part)]:
        raise ValueError(f"tokenizer={type(name).__name__} has no {' and no '.join(missing)}: pass a tokenizer, or its name")
    return name


SETTINGS = "tokenizer.settings.json"  # beside tokenizer.json, or beside the folder `tokenizer` of transformers


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a tokenizer into a folder that exists, for `read_tokenizer` to read without a network.

    The files are tokenizer.settings.json, and tokenizer.json in the format of `tokenizers`; a
    transformers tokenizer that has no such form goes into the folder `tokenizer`. Those of a
    tokenizer that was there are replaced. A plugin's own tokenizer is asked to `save(folder)`.

    Raises:
        ValueError: it is a plugin's own without `save`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tokenizer(Bytes(), Path(folder))
    ...     read_tokenizer(Path(folder)).encode("né")
    [110, 195, 169]
    """
    settings: dict[str, Any]
    save = getattr(tokenizer, "save", None)
    if type(tokenizer) is Bytes:
        settings = {"kind": "bytes"}
    elif type(tokenizer) is Brackets:
        settings = {"kind": "brackets", "kinds": len(tokenizer.signs) // 2}
    elif isinstance(tokenizer, Subwords) and type(tokenizer) in (Subwords, BytePairs, Pretrained):
        settings = {key: getattr(tokenizer, key) for key in ("end", "unknown", "special_tokens")}
        if isinstance(tokenizer.model, Slow):
            settings = {"kind": "transformers", **settings}
            draft, place = draft_of(folder / "tokenizer"), folder / "tokenizer"
            discard(draft)
            tokenizer.model.inner.save_pretrained(draft)
            discard(place)
            commit(draft, place)
        else:
            settings = {"kind": "tokenizers", **settings}
            write_text(folder / "tokenizer.json", tokenizer.model.to_str())
    elif callable(save):
        settings = {"kind": "own", "class": type(tokenizer).__qualname__}
        save(folder)
    else:
        raise ValueError(
            f"the tokenizer {type(tokenizer).__name__} cannot be saved: give it save(folder), "
            f"or pass a tokenizer of `tokenizers` or transformers, which can be"
        )
    write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads the tokenizer that `save_tokenizer` wrote, which encodes as the saved one did.

    No code of the folder runs, and there is no network.

    Raises:
        FileNotFoundError: the folder holds no tokenizer.
        ImportError: `tokenizers`, or transformers where it needs that, is not installed.
        ValueError: a file is damaged, or it is a plugin's own tokenizer, which its task reads.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no tokenizer: there is no {SETTINGS}")
    settings = read_json(path)
    kind = settings.pop("kind", None) if isinstance(settings, dict) else None
    if kind == "own":
        raise ValueError(f"{folder} holds {settings.get('class')}, a plugin's own tokenizer: pass the task that has it")
    try:
        if kind == "bytes":
            return Bytes(**settings)
        if kind == "brackets":
            return Brackets(**settings)
        if kind == "tokenizers":
            from tokenizers import Tokenizer as Model

            return Subwords(Model.from_file(str(folder / "tokenizer.json")), **settings)
        if kind == "transformers":
            from transformers import AutoTokenizer

            safe = {"trust_remote_code": False, "local_files_only": True}
            return Subwords(Slow(AutoTokenizer.from_pretrained(str(folder / "tokenizer"), **safe)), **settings)
    except ImportError as error:
        raise ImportError(f"{folder}: its tokenizer needs {error.name}: pip install {error.name}") from error
    except Exception as error:  # tokenizers' and transformers' own, of a dozen types
        raise ValueError(f"{folder}: its tokenizer is damaged, or of a newer version ({error})") from error
    raise ValueError(f"{path} is damaged, or of a newer version: it names no kind of tokenizer")


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
