"""How positions lie to each other: each pair's relation is a number, to which attention has a bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Relations:
    """Numbers the relation of every pair of positions from 0 to kinds − 1.

    `among` maps how many positions there are to (S, S) numbers, `hints` are the first numbers of
    attention's biases (hints, kinds), one head's in a row, and pairs of a relation in `hidden` do
    not see each other.
    """

    kinds: int
    among: Callable[[int], Tensor]
    hints: Tensor
    hidden: tuple[int, ...] = ()


Described: TypeAlias = Tensor | Mapping[str, Any] | None
STRENGTH = 3.0  # of a hint: its relation weighs e^3 as much as another


def boxes(height: int, width: int) -> Relations:
    """Relates the cells of a sudoku: 1 for the same row, plus 2 for the column, plus 4 for the box.

    >>> boxes(2, 3).among(36)[0, [0, 1, 6, 7, 35]].tolist()
    [7, 5, 6, 4, 0]
    """
    side = height * width

    def among(count: int) -> Tensor:
        row, column = _cells(count, side, side)
        return _same(row) + 2 * _same(column) + 4 * _same(row // height * height + column // width)

    return Relations(8, among, _bits(3))


def lines(rows: int, columns: int) -> Relations:
    """Relates cells of a grid: 1 for the same row, 2 column, 4 diagonal, 8 other diagonal, added.

    >>> lines(4, 4).among(16)[5, [5, 4, 1, 0, 8, 2, 11]].tolist()
    [15, 1, 2, 4, 8, 8, 0]
    """

    def among(count: int) -> Tensor:
        row, column = _cells(count, rows, columns)
        return _same(row) + 2 * _same(column) + 4 * _same(row - column) + 8 * _same(row + column)

    return Relations(16, among, _bits(4))


def offsets(reach: int = 1, columns: int | None = None, window: bool = False) -> Relations:
    """Relates cells of a grid by where one lies from the other, each coordinate clipped to ± reach.

    The grid is square where columns is None, and has any number of rows. With `window`, cells
    further apart than reach do not see each other.

    >>> offsets(1).kinds, offsets(1).among(9)[4, [4, 5, 7, 8]].tolist()
    (9, [4, 5, 7, 8])
    """
    most = reach + window  # relations more all around: further than reach
    width = 2 * most + 1

    def among(count: int) -> Tensor:
        wide = math.isqrt(count) if columns is None else columns
        row, column = _cells(count, count // wide, wide)
        down, right = (_clipped(values, most) for values in (row, column))
        return down * width + right

    near = torch.zeros(4, width * width)
    for head, (down, right) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
        near[head, (down + most) * width + right + most] = STRENGTH
    far = [place for place in range(width * width) if max(abs(place // width - most), abs(place % width - most)) > reach]
    return Relations(width * width, among, near, tuple(far) if window else ())


def order(reach: int = 4, window: bool = False) -> Relations:
    """Relates positions of any number by how far behind one is, clipped to ± reach.

    With `window`, positions further apart than reach do not see each other.

    >>> order(2).among(4)[0].tolist()
    [2, 3, 4, 4]
    >>> order(1, window=True).among(3)[0].tolist(), order(1, window=True).hidden
    ([2, 3, 4], (0, 4))
    """
    most = reach + window  # one relation more at either end: further than reach

    def among(count: int) -> Tensor:
        return _clipped(torch.arange(count), most)

    near = torch.zeros(3, 2 * most + 1)
    for head, step in enumerate((0, -1, 1)):
        near[head, most + step] = STRENGTH
    return Relations(2 * most + 1, among, near, (0, 2 * most) if window else ())


def given(numbers: Tensor) -> Relations:
    """Takes relations (S, S) as they are, whole numbers from 0.

    Raises:
        ValueError: they are not (S, S), or not whole numbers of at least 0.
    """
    whole = not numbers.is_floating_point() and not numbers.is_complex() and numbers.dtype != torch.bool
    if numbers.ndim != 2 or numbers.shape[0] != numbers.shape[1] or not numbers.numel() or not whole or bool((numbers < 0).any()):
        raise ValueError(f"relations are {numbers.dtype} {tuple(numbers.shape)}: pass whole numbers (S, S) of at least 0")

    def among(count: int) -> Tensor:
        if count != len(numbers):
            raise ValueError(f"there are {count} positions, but relations of {len(numbers)}")
        return numbers

    kinds = int(numbers.max()) + 1
    return Relations(kinds, among, torch.zeros(0, kinds))


NAMED: dict[str, Callable[..., Relations]] = {"boxes": boxes, "lines": lines, "offsets": offsets, "order": order}


def relations_of(described: Described) -> Relations | None:
    """Reads relations: numbers (S, S), or {"kind": "boxes", "height": 2, "width": 3} and the like.

    Raises:
        ValueError: for an unknown kind or numbers that cannot be.
    """
    if described is None:
        return None
    if not isinstance(described, Mapping):
        return given(torch.as_tensor(described))
    how = dict(described)
    kind = how.pop("kind", None)
    if kind not in NAMED:
        raise ValueError(f"relations={dict(described)}: choose a kind of {', '.join(NAMED)}, or pass numbers (S, S)")
    try:
        return NAMED[kind](**how)
    except TypeError as error:
        raise ValueError(f"relations={dict(described)}: {error}") from error


def _cells(count: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    if count != rows * columns:
        raise ValueError(f"there are {count} positions, but relations of {rows} x {columns} cells")
    place = torch.arange(count)
    return place // columns, place % columns


def _same(values: Tensor) -> Tensor:
    return (values[:, None] == values[None]).long()


def _clipped(values: Tensor, reach: int) -> Tensor:
    """Numbers differences j − i from 0 for −reach and less to 2 reach for reach and more."""
    return (values[None] - values[:, None]).clamp(-reach, reach) + reach


def _bits(count: int) -> Tensor:
    """Hints at one bit of the relation in each row: (count, 2^count)."""
    numbers = torch.arange(round(math.pow(2, count)))
    return torch.stack([STRENGTH * ((numbers >> bit) & 1) for bit in range(count)])
