"""Queens: place n on an n x n board so that none attacks another, beside those that stand already."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ebm.figures import INK
from ebm.interfaces import Batch
from ebm.randomness import stream, subseed
from ebm.tasks.puzzles.marks import Mark
from ebm.tasks.puzzles.sudoku import keeps


@dataclass(frozen=True)
class Queens:
    """n queens on an n x n board: a cell's answer is 1 with a queen, 0 without; any placement counts.

    `train`, `validation` and `test` give between low and high of the queens, `hard` gives `hard`,
    and `hardest` none but one. Where few are given there are several answers, of which the data
    hold one.

    Arguments:
        side: n.
        queens: (low, high), the queens that are given in training.
        hard: the queens that are given in `hard`, fewer than low.
    """

    side: int = 8
    queens: tuple[int, int] = (3, 6)
    hard: int = 2

    def __post_init__(self) -> None:
        if not 4 <= self.side <= 14 or len(self.queens) != 2 or not 1 <= self.hard < self.queens[0] <= self.queens[1] < self.side:
            way_out = "pass a side from 4 to 14, and 1 <= hard < low <= high < side"
            raise ValueError(f"side={self.side}, queens={self.queens}, hard={self.hard}: {way_out}")

    @property
    def spec(self) -> dict[str, Any]:
        return {"vocab_size": 2, "length": self.side**2, "relations": {"kind": "lines", "rows": self.side, "columns": self.side}}

    def draw(self, n: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Draws boards: split -> cells (n, S) and given queens (n, S), −1 where nothing is known."""
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
            cells = F.one_hot(part, self.side)
            known = torch.where((cells == 1) & (rank < given)[..., None], 1, -1)
            found[split] = (cells.flatten(1), known.flatten(1))
        return found

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells on which boards (*more, B, S) no queen attacks another, and the given ones stand."""
        board = answer.unflatten(-1, (self.side, self.side))
        place = torch.arange(self.side, device=answer.device)
        right = (board.sum(-1) == 1).all(-1) & (board.sum(-2) == 1).all(-1)
        for line in (place[:, None] + place, place[:, None] - place + self.side):  # the number of each cell's diagonal
            on = F.one_hot(line.flatten(), 2 * self.side)
            right = right & (answer @ on <= 1).all(-1)
        return right & keeps(answer, batch.context)

    def turned(self, batch: Batch, generator: Generator) -> Batch:
        """Turns and mirrors a batch's boards, all alike."""
        turns, mirrored = (int(torch.randint(high, (), generator=generator)) for high in (4, 2))
        target, context = (values.unflatten(1, (self.side, self.side)).rot90(turns, (1, 2)) for values in batch[:2])
        return Batch(*((values.flip(2) if mirrored else values).flatten(1) for values in (target, context)))

    def read(self, text: str) -> Tensor:
        """Reads given queens (S,) from lines with a Q where one stands, and . elsewhere.

        Raises:
            ValueError: there are not `side` lines of as many signs.
        """
        lines = [line.replace(" ", "") for line in text.upper().splitlines() if line.strip()]
        if len(lines) != self.side or any(len(line) != self.side for line in lines):
            raise ValueError(f"a board of {len(lines)} lines: write {self.side} lines of {self.side} signs, Q for a queen")
        return torch.tensor([1 if sign == "Q" else -1 for line in lines for sign in line])

    def show(self, answer: Tensor, context: Tensor | None = None) -> str:
        """Writes cells (S,) as lines, with a Q where a queen stands."""
        signs = ["Q" if cell == 1 else "." for cell in answer.tolist()]
        return "\n".join(" ".join(signs[row : row + self.side]) for row in range(0, len(signs), self.side))

    def draw_on(self, axes: Any, marks: Sequence[Mark]) -> None:
        """Draws a board on matplotlib's axes."""
        for line in range(self.side + 1):
            axes.axhline(line, color=INK, linewidth=0.3)
            axes.axvline(line, color=INK, linewidth=0.3)
        for place, mark in enumerate(marks):
            if mark.symbol == 1:
                row, column = divmod(place, self.side)
                axes.plot(column + 0.5, row + 0.5, "o", color=mark.color, alpha=mark.alpha, markersize=4)
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
