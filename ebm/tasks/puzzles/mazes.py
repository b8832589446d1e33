"""Mazes without circles: mark the only path from the start to the goal."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Generator, Tensor

from ebm.figures import INK
from ebm.interfaces import Batch
from ebm.randomness import subseed
from ebm.tasks.puzzles.marks import Mark

STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: bits 1, 2, 4, 8 of a cell's openings
OPENINGS = 16
PLAIN, START, GOAL = 0, 1, 2  # what a cell is, times 16, on top of its openings


@dataclass(frozen=True)
class Mazes:
    """Mazes of side x side cells, each a random spanning tree; the answer is 1 on the path, 0 off it.

    The context says of each cell which of its four walls are open, and whether it is the start or
    the goal: what is asked for is all the rest. `train`, `validation` and `test` have mazes of one
    size, `hard` and `hardest` of larger ones, whose paths are longer.

    Arguments:
        side: cells along a side in training.
        hard: cells along a side of `hard`.
        hardest: cells along a side of `hardest`.
    """

    side: int = 6
    hard: int = 9
    hardest: int = 12

    def __post_init__(self) -> None:
        if not 2 <= self.side < self.hard < self.hardest:
            raise ValueError(f"side={self.side}, hard={self.hard}, hardest={self.hardest}: pass 2 <= side < hard < hardest")

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "vocab_size": 2,
            "context_vocab": 3 * OPENINGS,
            "fixed": False,
            "relations": {"kind": "offsets", "reach": 1, "window": True},
        }

    def draw(self, n: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Draws mazes: split -> paths (n, S) and cells (n, S)."""
        share = n // 12
        if not share:
            raise ValueError(f"n={n}: draw 12 mazes or more")
        sizes = {"train": self.side, "validation": self.side, "test": self.side, "hard": self.hard, "hardest": self.hardest}
        rng = random.Random(subseed(seed, "mazes"))
        found, seen = {}, set[tuple[int, ...]]()
        for split, side in sizes.items():
            rows = []
            for _ in range(n - 4 * share if split == "train" else share):
                path, cells = maze(side, rng)
                if tuple(cells) not in seen:  # no maze is in two splits
                    seen.add(tuple(cells))
                    rows.append((path, cells))
            answers, contexts = (torch.tensor(part) for part in zip(*rows, strict=True))
            found[split] = (answers, contexts)
        return found

    def unknown(self, context: Tensor) -> Tensor:
        return torch.ones_like(context, dtype=torch.bool)

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells which answers (*more, B, S) mark a path from the start to the goal: there is only one.

        Start and goal have one marked neighbour behind an open wall, other marked cells two. Where no
        circle is, that is one path.
        """
        side = isqrt(batch.context.shape[-1])
        marked = answer.unflatten(-1, (side, side))
        kind, open_to = (values.unflatten(-1, (side, side)) for values in (batch.context // OPENINGS, batch.context % OPENINGS))
        ringed = torch.nn.functional.pad(marked, (1, 1, 1, 1))
        around = torch.zeros_like(marked)
        for bit, (down, right) in enumerate(STEPS):
            beside = ringed[..., 1 + down : 1 + down + side, 1 + right : 1 + right + side]
            around = around + beside * (open_to >> bit & 1)
        wanted = torch.where(kind == PLAIN, 2, 1)
        ends = ((kind == PLAIN) | (marked == 1)).flatten(-2).all(-1)
        return ((marked == 0) | (around == wanted)).flatten(-2).all(-1) & ends

    def turned(self, batch: Batch, generator: Generator) -> Batch:
        """Turns and mirrors a batch's mazes, all alike."""
        side = isqrt(batch.context.shape[1])
        turns, mirrored = (int(torch.randint(high, (), generator=generator)) for high in (4, 2))
        target, context = (values.unflatten(1, (side, side)).rot90(turns, (1, 2)) for values in batch[:2])
        kind, open_to = context // OPENINGS, context % OPENINGS
        for _ in range(turns):  # a quarter turn against the clock: what was open to the right is open upwards
            open_to = (open_to >> 1) | ((open_to & 1) << 3)
        if mirrored:
            target, kind, open_to = (values.flip(2) for values in (target, kind, open_to))
            open_to = (open_to & 5) | ((open_to & 2) << 2) | ((open_to & 8) >> 2)
        return Batch(target.flatten(1), (kind * OPENINGS + open_to).flatten(1))

    def read(self, text: str) -> Tensor:
        """Reads cells (S,) from a drawing: lines of # for walls, S for the start and G for the goal.

        Raises:
            ValueError: it is no square drawing of 2 side + 1 lines, or lacks a start or a goal.
        """
        lines = [line for line in text.upper().splitlines() if line.strip()]
        size = len(lines)
        lines = [line.ljust(size)[:size] if len(line.rstrip()) <= size else line for line in lines]
        joined = "".join(lines)
        if (
            size < 5
            or size % 2 == 0
            or any(len(line) != size for line in lines)
            or joined.count("S") != 1
            or joined.count("G") != 1
        ):
            raise ValueError(f"a maze of {size} lines: draw 2 k + 1 lines of as many signs, # for walls, with one S and one G")
        cells = []
        for row in range(1, size, 2):
            for column in range(1, size, 2):
                opened = sum(1 << bit for bit, (down, right) in enumerate(STEPS) if lines[row + down][column + right] != "#")
                cells.append({"S": START, "G": GOAL}.get(lines[row][column], PLAIN) * OPENINGS + opened)
        return torch.tensor(cells)

    def show(self, answer: Tensor, context: Tensor) -> str:
        """Draws a maze (S,) as text, with a dot in each cell of the path."""
        side = isqrt(len(answer))
        grid = [["#"] * (2 * side + 1) for _ in range(2 * side + 1)]
        for place, (on_path, cell) in enumerate(zip(answer.tolist(), context.tolist(), strict=True)):
            row, column = 2 * (place // side) + 1, 2 * (place % side) + 1
            grid[row][column] = {START: "S", GOAL: "G"}.get(cell // OPENINGS, "." if on_path else " ")
            for bit, (down, right) in enumerate(STEPS):
                if cell >> bit & 1:
                    grid[row + down][column + right] = " "
        return "\n".join(map("".join, grid))

    def draw_on(self, axes: Any, marks: Sequence[Mark]) -> None:
        """Draws a maze on matplotlib's axes: walls, and a dot in each cell that is marked or missed."""
        side = isqrt(len(marks))
        for place, mark in enumerate(marks):
            row, column = divmod(place, side)
            ends = (((0, 0), (1, 0)), ((1, 0), (1, 1)), ((0, 1), (1, 1)), ((0, 0), (0, 1)))  # above, right, below, left
            for bit, ((x1, y1), (x2, y2)) in enumerate(ends):
                if not mark.known >> bit & 1:
                    axes.plot([column + x1, column + x2], [row + y1, row + y2], color=INK, linewidth=0.7)
            kind = mark.known // OPENINGS
            if kind or mark.symbol or mark.wrong:
                sign = {START: "s", GOAL: "*"}.get(kind, "o")
                style = {"color": INK if kind else mark.color, "alpha": 1.0 if kind else mark.alpha}
                axes.plot(column + 0.5, row + 0.5, sign, markersize=3.5 if side <= 6 else 2.0, **style)
        axes.set(xlim=(-0.1, side + 0.1), ylim=(side + 0.1, -0.1))


def maze(side: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """Draws a maze by a random depth-first walk: (1 on the path, each cell's kind and openings)."""
    open_to, came_from = [0] * side**2, [-1] * side**2
    stack, seen = [rng.randrange(side**2)], set[int]()
    seen.add(stack[0])
    while stack:
        cell = stack[-1] if rng.random() < 0.7 else stack[rng.randrange(len(stack))]  # more branches than by depth alone
        row, column = divmod(cell, side)
        around = []
        for bit, (down, right) in enumerate(STEPS):
            if 0 <= row + down < side and 0 <= column + right < side and (cell + down * side + right) not in seen:
                around.append((bit, cell + down * side + right))
        if not around:
            stack.remove(cell)
            continue
        bit, other = rng.choice(around)
        open_to[cell] |= 1 << bit
        open_to[other] |= 1 << (bit + 2) % 4
        came_from[other] = cell
        seen.add(other)
        stack.append(other)
    start, goal = rng.sample(range(side**2), 2)
    ways = [_to_root(start, came_from), _to_root(goal, came_from)]
    while len(ways[0]) > 1 and len(ways[1]) > 1 and ways[0][-2] == ways[1][-2]:
        ways = [way[:-1] for way in ways]
    path = {*ways[0], *ways[1]}
    kinds = {start: START, goal: GOAL}
    return [int(c in path) for c in range(side**2)], [kinds.get(c, PLAIN) * OPENINGS + open_to[c] for c in range(side**2)]


def _to_root(cell: int, came_from: list[int]) -> list[int]:
    way = [cell]
    while came_from[way[-1]] >= 0:
        way.append(came_from[way[-1]])
    return way
