"""Queens: place one in each row so that none attacks another, beside those that stand already."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor

from ebm.figures import INK
from ebm.interfaces import Batch
from ebm.randomness import stream, subseed
from ebm.tasks.puzzles.marks import Mark
from ebm.tasks.puzzles.sudoku import keeps


@dataclass(frozen=True)
class Queens:
    """n queens on an n x n board: a row's answer is its queen's column; any placement counts.

    `train`, `validation` and `test` give between low and high of the queens, `hard` gives `hard`,
    and `hardest` none but one. Where few are given there are several answers, of which the data
    hold one.

    Arguments:
        side: n.
        queens: (low, high), the queens that are given in training.
        hard: the queens that are given in `hard`, fewer than low.
    """

    side: int = 10
    queens: tuple[int, int] = (4, 8)
    hard: int = 2

    def __post_init__(self) -> None:
        if not 4 <= self.side <= 14 or len(self.queens) != 2 or not 1 <= self.hard < self.queens[0] <= self.queens[1] < self.side:
            way_out = "pass a side from 4 to 14, and 1 <= hard < low <= high < side"
            raise ValueError(f"side={self.side}, queens={self.queens}, hard={self.hard}: {way_out}")

    @property
    def spec(self) -> dict[str, Any]:
        return {"vocab_size": self.side, "positions": self.side, "relations": {"kind": "order", "reach": self.side - 1}}

    def draw(self, n: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Draws boards: split -> columns (n, S) and given columns (n, S), −1 where none is given."""
        boards = list(placements(self.side))
        random.Random(subseed(seed, "queens")).shuffle(boards)
        share = min(n, len(boards)) // 12
        if not share:
            raise ValueError(f"n={n}: draw 12 boards or more (there are {len(boards)} placements)")
        boards, generator = boards[: max(n, 12)], stream(seed, "given")
        parts = torch.tensor(boards).split([len(boards) - 4 * share, *[share] * 4])
        found = {}
        for split, part in zip(("train", "validation", "test", "hard", "hardest"), parts, strict=True):
            given = torch.randint(self.queens[0], self.queens[1] + 1, (len(part), 1), generator=generator)
            given = {"hard": torch.full_like(given, self.hard), "hardest": torch.ones_like(given)}.get(split, given)
            rank = torch.rand(part.shape, generator=generator).argsort(1).argsort(1)
            found[split] = (part, torch.where(rank < given, part, -1))
        return found

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells on which boards (*more, B, S) no queen attacks another, and the given ones stand."""
        row = torch.arange(self.side, device=answer.device)
        distinct = [
            torch.nn.functional.one_hot(lines, 2 * self.side).sum(-2).amax(-1) <= 1
            for lines in (answer, answer + row, answer - row + self.side)
        ]
        return distinct[0] & distinct[1] & distinct[2] & keeps(answer, batch.context)

    def turned(self, batch: Batch, generator: Generator) -> Batch:
        """Mirrors a batch's boards, all alike."""
        flipped, mirrored = (bool(torch.rand((), generator=generator) < 0.5) for _ in range(2))
        target, context = (values.flip(1) if flipped else values for values in batch[:2])
        if mirrored:
            target, context = (torch.where(values < 0, values, self.side - 1 - values) for values in (target, context))
        return Batch(target, context)

    def read(self, text: str) -> Tensor:
        """Reads columns (S,) from lines with a Q where a queen stands; a line without one is open.

        Raises:
            ValueError: there are not `side` lines of as many signs.
        """
        lines = [line.replace(" ", "") for line in text.upper().splitlines() if line.strip()]
        if len(lines) != self.side or any(len(line) != self.side or line.count("Q") > 1 for line in lines):
            raise ValueError(
                f"a board of {len(lines)} lines: write {self.side} lines of {self.side} signs, at most one Q in each"
            )
        return torch.tensor([line.find("Q") for line in lines])

    def show(self, answer: Tensor, context: Tensor | None = None) -> str:
        """Writes columns (S,) as lines, with a Q where a queen stands."""
        return "\n".join(" ".join("Q" if column == place else "." for column in range(self.side)) for place in answer.tolist())

    def draw_on(self, axes: Any, marks: Sequence[Mark]) -> None:
        """Draws a board on matplotlib's axes."""
        for line in range(self.side + 1):
            axes.axhline(line, color=INK, linewidth=0.3)
            axes.axvline(line, color=INK, linewidth=0.3)
        for row, mark in enumerate(marks):
            axes.plot(mark.symbol + 0.5, row + 0.5, "o", color=mark.color, alpha=mark.alpha, markersize=5)
        axes.set(xlim=(0, self.side), ylim=(self.side, 0))


@cache
def placements(side: int) -> tuple[tuple[int, ...], ...]:
    """Lists all ways to place `side` queens.

    >>> len(placements(6)), len(placements(8))
    (4, 92)
    """
    found: list[tuple[int, ...]] = []

    def place(columns: tuple[int, ...], taken: int, up: int, down: int) -> None:
        if len(columns) == side:
            found.append(columns)
            return
        for column in range(side):
            bit = 1 << column
            if not (taken | up | down) & bit:
                place((*columns, column), taken | bit, (up | bit) << 1, (down | bit) >> 1)

    place((), 0, 0, 0)
    return tuple(found)
