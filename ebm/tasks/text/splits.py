"""Deals documents out to splits by draws of their own text and a seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice

from ebm.tasks.rows import SPLITS

HELD_OUT = 0.05  # the share of documents in each of validation and test


def draw(document: str, seed: int) -> float:
    """Draws a number in [0, 1) from a document's text and a seed."""
    digest = blake2b(document.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little") / 2**64


def split_of(number: float, splits: Sequence[str] = SPLITS) -> str:
    """Names the split of a document with this draw, among those that are drawn.

    >>> [split_of(number) for number in (0.01, 0.07, 0.5)]
    ['test', 'validation', 'train']
    >>> [split_of(number, ["train", "validation"]) for number in (0.01, 0.07, 0.5)]
    ['validation', 'train', 'train']
    """
    if len(splits) == 1:
        return splits[0]
    held = [split for split in ("test", "validation") if split in splits]
    return next((split for place, split in enumerate(held, 1) if number < place * HELD_OUT), "train")


def deal(texts: Sequence[str], seed: int, splits: Sequence[str] = SPLITS) -> dict[str, list[str]]:
    """Deals documents out to splits, none of which is empty; each keeps the documents' order.

    >>> {split: len(texts) for split, texts in deal([str(i) for i in range(10)], seed=0).items()}
    {'train': 8, 'validation': 1, 'test': 1}
    >>> deal(["x" * 100], seed=0)["test"]
    ['xxxxx']
    """
    dealt: dict[str, list[str]] = {split: [] for split in splits}
    for split, text in dealt_out(texts, seed, splits):
        dealt[split].append(text)
    return dealt


def dealt_out(texts: Iterable[str], seed: int, splits: Sequence[str] = SPLITS) -> Iterator[tuple[str, str]]:
    """Deals as `deal` does, one document after another; `texts` are iterated twice, never held.

    >>> list(dealt_out(["one", "two"], 0, ["train"]))
    [('train', 'one'), ('train', 'two')]
    """
    draws, complete = draws_until_complete(texts, seed, splits)
    if complete:
        for text in texts:
            yield split_of(draw(text, seed), splits), text
    elif len(draws) < len(splits):
        held = [split for split in SPLITS[1:] if split in splits]
        edges = [0.0, *(1 - place * HELD_OUT for place in range(len(held), -1, -1))]
        for text in texts:
            for split, a, b in zip(["train", *held], edges[:-1], edges[1:], strict=True):
                yield split, text[round(a * len(text)) : round(b * len(text))]
    else:
        few = max(1, round(HELD_OUT * len(draws)))
        order = sorted(range(len(draws)), key=draws.__getitem__)
        held = [split for split in ("test", "validation") if split in splits]
        chosen = {index: held[place // few] for place, index in enumerate(order[: few * len(held)])}
        for index, text in enumerate(islice(texts, len(draws))):
            yield chosen.get(index, "train"), text


def draws_until_complete(texts: Iterable[str], seed: int, splits: Sequence[str]) -> tuple[list[float], bool]:
    """Draws documents until every split has one: the draws, and whether it came to that."""
    draws: list[float] = []
    missing = {*splits}
    for text in texts:
        draws.append(draw(text, seed))
        missing.discard(split_of(draws[-1], splits))
        if not missing:
            return draws, True
    return draws, False
