"""NUTS's loops inside a program: over doublings, leaves and subtrees, with their marks in tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten  # private, but what torch.func itself maps trees by

from ebm.samplers.tree import Half, Motion, Subtree, Tree, Uniform, doubled, turned, with_leaf

try:  # a prototype, which may move or change: `check_loops` is asked before it is used
    from torch._higher_order_ops.while_loop import while_loop
except ImportError:
    while_loop: Any = getattr(torch, "while_loop", None)  # type: ignore[no-redef]


def grown_in_program(motion: Motion, tree: Tree, max_depth: int, table: Tensor) -> Tree:
    """Doubles paths as `ebm.samplers.nuts.grown` does, with the uniform numbers of a table (rows, *chains) in turn."""
    parts, spec = tree_flatten(tree)
    number = torch.arange(2 ** (max_depth - 1), device=table.device)
    level, ones = _count(number >> 1), _count((~number & (number + 1)) - 1)
    place = torch.where(number % 2 == 0, level, max_depth)  # the last is for leaves where nothing begins
    marks = tree.total.new_zeros(max_depth + 1, 3, *tree.total.shape)

    def goes_on(depth: Tensor, row: Tensor, *parts: Tensor) -> Tensor:
        return (depth < max_depth) & tree_unflatten(parts, spec).going.any()

    def doubles(depth: Tensor, row: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        def uniform(number: Any) -> Tensor:
            return table.index_select(0, (row + number).reshape(1)).squeeze(0)

        new, drawn = doubled(
            motion, tree_unflatten(parts, spec), uniform, LeafLoop(torch.ones_like(depth) << depth, (level, ones, place), marks)
        )
        return depth + 1, row + drawn, *(part.clone() for part in tree_flatten(new)[0])

    zero = torch.zeros((), dtype=torch.long, device=table.device)
    _, _, *parts = while_loop(goes_on, doubles, (zero, zero.clone(), *(part.clone() for part in parts)))
    return tree_unflatten(parts, spec)


class LeafLoop:
    """Adds leaves as `ebm.samplers.nuts.leaf_by_leaf` does."""

    def __init__(self, leaves: Tensor, counts: tuple[Tensor, Tensor, Tensor], marks: Tensor) -> None:
        self.leaves, self.counts, self.marks = leaves, counts, marks

    def __call__(self, motion: Motion, half: Half, uniform: Uniform) -> tuple[Half, Tensor, Tensor]:
        leaves, counts, marks = self.leaves, self.counts, self.marks
        parts, spec = tree_flatten(half)

        def goes_on(leaf: Tensor, *parts: Tensor) -> Tensor:
            return (leaf < leaves) & tree_unflatten(parts, spec).whole.any()

        def adds(leaf: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            before = tree_unflatten(parts, spec)
            after = with_leaf(motion, before, uniform(leaf + 1))
            level, ones, place = (count.index_select(0, leaf.reshape(1)) for count in counts)
            here = torch.stack([after.end.momentum, before.total, before.end.momentum])
            marks.index_copy_(0, place, here.unsqueeze(0))

            def ends_here(number: Tensor, whole: Tensor, second: Tensor) -> Tensor:
                return (number < ones).any()

            def checks(number: Tensor, whole: Tensor, second: Tensor) -> tuple[Tensor, ...]:
                mark = marks.index_select(0, level - number).squeeze(0)
                turns = turned(motion.mass, after, Subtree(*mark.unbind(0)), Subtree(*second.unbind(0)))
                return number + 1, whole & ~turns, mark

            _, whole, _ = while_loop(ends_here, checks, (torch.zeros_like(level), after.whole.clone(), here.clone()))
            return leaf + 1, *tree_flatten(after._replace(whole=whole))[0]

        leaf, *parts = while_loop(goes_on, adds, (torch.zeros_like(leaves), *(part.clone() for part in parts)))
        return tree_unflatten(parts, spec), marks[0, 0], leaf


def _count(number: Tensor) -> Tensor:
    """Counts the ones of binary numbers of up to 32 digits."""
    return sum(((number >> digit) & 1 for digit in range(32)), torch.zeros_like(number))


@lru_cache(maxsize=1)
def check_loops() -> None:
    """Runs a loop within a loop, as the tree's are, once.

    Raises:
        ValueError: the installed torch has no `while_loop`, or one that finds something else.
    """
    why = "it is not there"
    if while_loop is not None:
        try:
            with torch.no_grad():
                run = torch.compile(_triangle, backend="eager", fullgraph=True, dynamic=False)
                found = [int(each) for each in run(torch.zeros(3, dtype=torch.long))]
            why = "" if found == [6, 3, 2] else f"it finds {found} for [6, 3, 2]"
        except Exception as error:  # whatever a later version raises
            why = str(error).strip().partition("\n")[0] or type(error).__name__
    if why:
        what = f"torch {torch.__version__} runs no torch._higher_order_ops.while_loop as NUTS's tree needs it ({why})"
        raise ValueError(f"{what}: take the NUTS itself, as it is, or torch 2.14")


def _triangle(marks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums 1 + 2 + 3 by two loops, with the inner one's starts kept in a tensor that is written in place."""
    marks, zero = marks.clone(), torch.zeros((), dtype=torch.long)

    def adds(row: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        marks.index_copy_(0, row.reshape(1), row.reshape(1))
        _, more = while_loop(lambda n, _: n <= row, lambda n, total: (n + 1, total + 1), (zero.clone(), total.clone()))
        return row + 1, more

    rows, total = while_loop(lambda row, _: row < 3, adds, (zero.clone(), zero.clone()))
    return total, rows, marks[2]
