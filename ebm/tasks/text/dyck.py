"""Balanced brackets, trained shallow and judged deep, where what is legal is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ebm.interfaces import Batch, Prediction
from ebm.randomness import stream
from ebm.tasks.rows import SHARES, RowsOf, draw_splits
from ebm.tasks.text.brackets import Brackets
from ebm.tasks.text.tokens import TokenTask
from ebm.words import nearest


class Dyck(TokenTask):
    """Balanced strings of brackets, token by token: which bracket closes has to be remembered.

    A string's half-length m is drawn uniformly from low … length/2; then it is drawn uniformly from
    all balanced strings of 2 m brackets whose depth, the most brackets that are open at a time, is
    within low … high; then each pair draws its kind. n strings are drawn, copies are dropped, and
    the distinct ones dealt out: 70 % train, 10 % validation, 20 % test. Deeper strings, which
    training never sees, are splits of their own: "deep" (the whole range) and "deep-5", "deep-6" …
    (one depth each), drawn n/5 at a time.

    Token k opens kind k, token kinds + k closes it, token 2 kinds is the end. A row is one string:
    the target is the string and an end, the context an end and the string. Behind them are ends of
    weight 0.

    A predictor that knows the distribution has by default a loss of 0.917 nats, an accuracy of 0.55
    and a closing accuracy of 1 on "test".

    Arguments:
        kinds: kinds of brackets.
        length: brackets of the longest string; the context is an end longer.
        depth: (low, high), the depths of train, validation and test.
        deep: (low, high), the depths of "deep"; none of those of `depth`.
        n: how many strings are drawn.
        start: where thinking starts, "uniform" or "noise".
        seed: fixes the strings and the split of each.

    Source: arXiv 2507.02092 judges out of distribution on BIG-bench's Dyck languages; these strings
    are our own.

    Raises:
        ValueError: an argument is out of range, or depths overlap.

    >>> task = Dyck(length=16, n=100)
    >>> task.spec, {split: task.depths[split] for split in ("train", "deep", "deep-6")}
    ({'vocab_size': 5}, {'train': (1, 4), 'deep': (5, 8), 'deep-6': (6, 6)})
    >>> target, context, weight = next(iter(task.loader("deep-6", 1)))
    >>> len(task.tokenizer.decode(target[weight > 0].tolist())) % 2
    0
    """

    rows_begin_with_end = True

    def __init__(
        self,
        kinds: int = 2,
        length: int = 64,
        depth: Sequence[int] = (1, 4),
        deep: Sequence[int] = (5, 8),
        n: int = 20_000,
        start: Literal["uniform", "noise"] = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__(start)
        if n < 1:
            raise ValueError(f"n={n}: it must be at least 1")
        for name, pair in (("depth", depth), ("deep", deep)):
            if len(pair) != 2 or not 1 <= pair[0] <= pair[1] or 2 * pair[1] > length:
                raise ValueError(f"{name}={pair}: pass (low, high), from 1 to at most half of length={length}")
        if not (depth[1] < deep[0] or deep[1] < depth[0]):
            raise ValueError(f"depth={depth} and deep={deep} overlap: what is judged deep must not be trained on")
        self.tokenizer = Brackets(kinds)
        self.kinds, self.length, self.context_length = kinds, length, length + 1
        self.spec = {"vocab_size": self.tokenizer.vocab_size}
        # split -> the depths of its strings
        self.depths = {split: (depth[0], depth[1]) for split in SHARES} | {"deep": (deep[0], deep[1])}
        self.depths |= {f"deep-{each}": (each, each) for each in range(deep[0], deep[1] + 1)}
        strings = draw_strings(n, kinds, length, *self.depths["train"], stream(seed, "dyck")).unique(dim=0)
        self._splits = {split: strings[rows] for split, rows in draw_splits(len(strings), None, seed).items()}
        for split in self.depths.keys() - self._splits:
            self._splits[split] = draw_strings(max(1, n // 5), kinds, length, *self.depths[split], stream(seed, "dyck", split))

    def data(self, split: str, *, seed: int = 0) -> Dataset[Batch]:
        """Serves a split's strings; ValueError for an unknown split, or an empty one."""
        if split not in self._splits:
            raise ValueError(f"unknown split {split!r}: {nearest(split, self._splits)}")
        strings = self._splits[split]
        if not len(strings):
            raise ValueError(f"split {split!r} is empty: draw more strings, by n, or longer ones, by length")
        end = torch.full((len(strings), 1), self.tokenizer.end)
        weight = torch.cat([torch.ones(end.shape), (strings != end).to(torch.get_default_dtype())], 1)
        return RowsOf(Batch(torch.cat([strings, end], 1), torch.cat([end, strings], 1), weight))

    def legal(self, context: Tensor) -> Tensor:
        """Marks what may follow (B, S, V) each token of contexts (B, S): an end and a string.

        An opening bracket may, where all can still be closed within `length`; the match of the last
        open one; the end, where none is open.
        """
        rows = torch.arange(len(context), device=context.device)
        depth = torch.zeros_like(rows)
        # The kinds of the open brackets, the last at `depth`; below them is what nothing closes.
        held = torch.full((len(context), context.shape[1] + 1), -1, device=context.device)
        legal = torch.zeros(*context.shape, 2 * self.kinds + 1, dtype=torch.bool, device=context.device)
        for place, token in enumerate(context.unbind(1)):
            opens, closes = token < self.kinds, (token >= self.kinds) & (token < 2 * self.kinds)
            depth = (depth + opens.long() - closes.long()).clamp(min=0)
            held[rows, depth] = torch.where(opens, token, held[rows, depth])
            legal[:, place, : self.kinds] = (place + 1 + depth + 1 <= self.length)[:, None]
            last = held[rows, depth]
            legal[rows, place, torch.where(last < 0, 2 * self.kinds, self.kinds + last)] = True
        return legal

    def is_right(self, ids: Tensor) -> Tensor:
        """Tells which rows (*more, L), an end and what follows, are a balanced string and its end.

        >>> task = Dyck(kinds=1, length=4, depth=(1, 1), deep=(2, 2), n=10)
        >>> task.is_right(torch.tensor([[2, 0, 1, 2], [2, 0, 1, 0], [2, 1, 2, -1]])).tolist()
        [True, False, False]
        """
        rows = ids.flatten(0, -2)
        context, follows = rows[:, :-1].clamp(min=0), rows[:, 1:]
        legal = self.legal(context).gather(-1, follows.clamp(min=0).unsqueeze(-1))[..., 0]
        last = (rows >= 0).sum(1, keepdim=True) - 1
        ends = (rows.gather(1, last)[:, 0] == self.tokenizer.end) & (last[:, 0] > 0)
        return ((legal | (follows < 0)).all(1) & ends).unflatten(0, ids.shape[:-1])

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores tokens as every token task does, closing brackets, and the mass of what is legal.

        `evaluate` reports `closing_accuracy`, the share of closing brackets whose kind is predicted
        right, and `legal`, the mean probability of what `legal` marks.
        """
        closing = (batch.target >= self.kinds) & (batch.target < 2 * self.kinds)
        right = closing & (prediction.y.argmax(-1) == batch.target)
        mass = (prediction.y.float().softmax(-1) * self.legal(batch.context)).sum(-1)
        return super().scores(prediction, batch) | {"closing": closing, "closing_accuracy": right, "legal": mass}

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Counts closing accuracy among closing brackets."""
        means = super().conclude(scores, split)
        means["closing_accuracy"] /= means.pop("closing")
        return means


def ways(length: int, low: int, high: int) -> Tensor:
    """Counts paths within 0 … high to depth 0: (steps left, was `low` reached, 1 + depth), scaled.

    >>> ways(4, 1, 2)[2, 1]    # of two steps, one way from depth 0 and one from depth 2
    tensor([0., 1., 0., 1., 0.], dtype=torch.float64)
    """
    counts = torch.zeros(length + 1, 2, high + 3, dtype=torch.float64)  # beyond the depths, at both ends, there is no way home
    counts[0, 1, 1] = 1.0
    reached = (torch.arange(high + 1) + 1 >= low).long()  # by opening a bracket at each depth
    for left in range(1, length + 1):
        before = counts[left - 1]
        for was in (0, 1):
            opened = before[reached | was, torch.arange(2, high + 3)]
            counts[left, was, 1:-1] = opened + before[was, :-2]
        counts[left] /= counts[left].max()  # only ratios count, and the counts themselves overflow
    return counts


def draw_strings(count: int, kinds: int, length: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    """Draws balanced strings of depths low … high as ids (count, length), padded by ends.

    >>> draw_strings(1, 1, 8, 4, 4, torch.Generator())    # ((((
    tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    """
    table = ways(length, low, high)
    rows = torch.arange(count)
    left = 2 * torch.randint(low, length // 2 + 1, (count,), generator=generator)
    depth, reached = torch.zeros_like(left), torch.zeros_like(left)
    held = torch.zeros(count, high + 1, dtype=torch.long)
    ids = torch.full((count, length), 2 * kinds)
    for place in range(length):
        going, left = left > 0, (left - 1).clamp(min=0)
        reaches = reached | (depth + 1 >= low)
        opened, closed = table[left, reaches, depth + 2], table[left, reached, depth]
        opens = torch.rand(count, generator=generator, dtype=torch.float64) * (opened + closed) < opened
        kind = torch.where(opens, torch.randint(kinds, (count,), generator=generator), held[rows, depth])
        ids[:, place] = torch.where(going, torch.where(opens, kind, kinds + kind), 2 * kinds)
        depth = torch.where(going, depth + 2 * opens - 1, depth)
        held[rows, depth] = torch.where(going & opens, kind, held[rows, depth])
        reached = torch.where(going & opens, reaches, reached)
    return ids
