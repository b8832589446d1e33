"""Brackets as tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Brackets:
    """Takes brackets as tokens: the opening ones ( [ { <, then the closing ones, then an end.

    >>> Brackets(2).encode("([])"), Brackets(2).decode([0, 1, 3, 2, 4])
    ([0, 1, 3, 2], '([])')
    """

    unknown: int | None = None

    def __init__(self, kinds: int) -> None:
        if not 1 <= kinds <= 4:
            raise ValueError(f"kinds={kinds}: there are from 1 to 4 kinds of brackets")
        self.signs = "([{<"[:kinds] + ")]}>"[:kinds]
        self.end = len(self.signs)
        self.vocab_size = self.end + 1

    def encode(self, text: str) -> list[int]:
        """Lists the brackets of a text; ValueError where it has something else."""
        if other := set(text) - set(self.signs):
            raise ValueError(f"{text[:20]!r} has {min(other)!r}: pass brackets of {self.signs}")
        return [self.signs.index(sign) for sign in text]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self.encode(text), np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.signs[token] for token in ids if token != self.end)
