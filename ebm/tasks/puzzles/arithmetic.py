"""Arithmetic as blocks of digits to fill: sums and differences by columns, products by digits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from ebm.interfaces import Batch
from ebm.randomness import stream
from ebm.tasks.puzzles.answers import Answers
from ebm.tasks.rows import loader_of
from ebm.words import nearest

Operation = Literal["add", "subtract", "multiply"]
SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
BASE = 10


class Arithmetic(Answers):
    """Adds, subtracts or multiplies whole numbers: trained on short ones, judged on long ones.

    Sums and differences go by columns, the lowest first: the context is 10 a + b for the digits of
    a column, and 0 for one more column that a carry may reach. The answer is a digit for each
    column. Training has widths low … high; `nines` of the problems have mostly columns that hand a
    carry on. `validation` and `test` have numbers of the largest width at random; `hard` has twice
    as wide ones, `hardest` four times, with a chain that the lowest column starts or does not, and
    that runs through all columns.

    Products ("57*63") have the digits of both numbers as known positions, the lowest first, and
    behind them the answer's. There `train`, `validation`, `test` and `hard` are different pairs of
    numbers of the largest width, and the pairs of `hard` have the most carries.

    Arguments:
        operation: "add", "subtract" or "multiply".
        width: (low, high), the digits of both numbers in training.
        nines: the share of training problems that are mostly a chain.
        n: how many problems an epoch and a held-out split have.
        seed: fixes the held-out problems.

    Raises:
        ValueError: for widths that cannot be, or products of so many digits that pairs run out.

    >>> task = Arithmetic(width=(2, 3), n=100)
    >>> batch = next(iter(task.loader("hard", 1)))
    >>> task.show(batch.target[0], batch.context[0]).replace(" ", "").count("+"), task.spec["vocab_size"]
    (1, 10)
    >>> task.read("58+67").tolist()
    [87, 56, 0]
    """

    def __init__(
        self, operation: Operation = "add", width: tuple[int, int] = (2, 5), nines: float = 0.5, n: int = 2000, seed: int = 0
    ) -> None:
        if operation not in SIGNS:
            raise ValueError(f"operation={operation!r}: {nearest(operation, SIGNS)}")
        if len(width) != 2 or not 1 <= width[0] <= width[1] or n < 1 or not 0 <= nines <= 1:
            raise ValueError(f"width={width}, nines={nines}, n={n}: pass 1 <= low <= high digits, a share, and at least 1")
        if operation == "multiply" and (width[0] != width[1] or width[1] > 4):
            raise ValueError(f"width={width}: products have one width, (k, k), of at most 4 digits")
        self.operation, self.width, self.nines, self.n = operation, (width[0], width[1]), nines, n
        self.spec: dict[str, Any] = {"vocab_size": BASE, "context_vocab": BASE**2, "fixed": False}
        self.spec["relations"] = {"kind": "order", "reach": 1, "window": True}
        self.reads = f"problems such as {'1' * width[1]}{SIGNS[operation]}{'2' * width[1]}, drawn"
        if operation == "multiply":
            self.spec = {"vocab_size": BASE, "length": 4 * width[1]}
            self.splits = self._products(seed)
            return
        wide = width[1]
        if 4 * n > BASE ** (2 * wide):
            raise ValueError(f"n={n} of the {BASE ** (2 * wide)} problems of width {wide} for two splits: leave half to train on")
        self.splits = {}
        for split in ("validation", "test"):
            self.splits[split] = self._columns(*self._numbers(n, wide, stream(seed, "arithmetic", split)))
        for split, times in (("hard", 2), ("hardest", 4)):
            self.splits[split] = self._columns(*self._chains(n, times * wide, stream(seed, "arithmetic", split)))
        self._held = {row.numpy().tobytes() for split in ("validation", "test") for row in self.splits[split].context}

    # ------------------------------------------------------------------------------------------ columns

    def _numbers(self, count: int, wide: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draws digits (n, wide), the lowest first."""
        a, b = (torch.randint(BASE, (count, wide), generator=generator) for _ in range(2))
        return self._ordered(a, b)

    def _chains(self, count: int, wide: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draws problems whose lowest column carries or does not, and all others hand a carry on."""
        a, b = (torch.randint(BASE, (count, wide), generator=generator) for _ in range(2))
        carries = torch.rand(count, generator=generator) < 0.5
        if self.operation == "add":
            b[:, 1:] = BASE - 1 - a[:, 1:]
            first = a[:, 0] + b[:, 0] >= BASE
            turn = first != carries  # 9 − a and 9 − b have a sum of at most 9 where a and b have one of 10 or more: at least 9
            a[:, 0], b[:, 0] = torch.where(turn, BASE - 1 - a[:, 0], a[:, 0]), torch.where(turn, BASE - 1 - b[:, 0], b[:, 0])
            return a, b
        b[:, 1:-1] = a[:, 1:-1]  # equal digits hand a borrow on; the highest column pays
        low, high = torch.minimum(a[:, 0], b[:, 0]), torch.maximum(a[:, 0], b[:, 0])
        a[:, 0], b[:, 0] = torch.where(carries, low, high), torch.where(carries, high, low)
        b[:, -1] = (torch.rand(count, generator=generator) * a[:, -1].clamp(min=1)).long()
        a[:, -1] = a[:, -1].clamp(min=1)
        return a, b

    def _ordered(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Exchanges numbers where a difference would be negative."""
        if self.operation != "subtract":
            return a, b
        differ = (a - b).sign()
        highest = differ * 2 ** torch.arange(a.shape[1])  # the highest column that differs decides
        less = (highest.sum(1) < 0)[:, None]
        return torch.where(less, b, a), torch.where(less, a, b)

    def _columns(self, a: Tensor, b: Tensor) -> Batch:
        """Makes the batch of numbers given as digits (n, wide)."""
        context = torch.nn.functional.pad(BASE * a + b, (0, 1))
        return Batch(self.answer_of(context), context)

    def answer_of(self, context: Tensor) -> Tensor:
        """Computes answers (n, S) of contexts (n, S): sums and differences digit by digit."""
        if self.operation == "multiply":
            wide = self.width[1]
            powers = BASE ** torch.arange(wide, device=context.device)
            a, b = ((context[:, part : part + wide] * powers).sum(1) for part in (0, wide))
            return torch.cat([context[:, : 2 * wide], digits_of(a * b, 2 * wide)], 1)
        a, b = context // BASE, context % BASE
        carry, digits = torch.zeros_like(a[:, 0]), []
        for column in range(a.shape[1]):
            value = a[:, column] + b[:, column] + carry if self.operation == "add" else a[:, column] - b[:, column] + carry
            digits.append(value % BASE)
            carry = torch.div(value, BASE, rounding_mode="floor")
        return torch.stack(digits, 1)

    # ----------------------------------------------------------------------------------------- products

    def _products(self, seed: int) -> dict[str, Batch]:
        wide = self.width[1]
        count = BASE ** (2 * wide)
        if self.n * 3 > count // 2:
            raise ValueError(f"n={self.n} of the {count} pairs for each of three splits: leave half of them to train on")
        pairs = torch.randint(count, (4 * count,), generator=stream(seed, "pairs")) if wide > 3 else None
        order = torch.randperm(count, generator=stream(seed, "pairs")) if pairs is None else pairs.unique()[:200_000]
        carried = self._sum_of_digits(order)
        hardest = carried.argsort(stable=True)[-self.n :]
        rest = order[~torch.isin(torch.arange(len(order)), hardest)]
        parts = {
            "validation": rest[: self.n],
            "test": rest[self.n : 2 * self.n],
            "train": rest[2 * self.n :],
            "hard": order[hardest],
        }
        return {split: self._product(part) for split, part in parts.items()}

    def _sum_of_digits(self, pairs: Tensor) -> Tensor:
        """Measures how much is carried in a product: Σ of its factors' digits, multiplied out."""
        a, b = self._factors(pairs)
        return a.sum(1) * b.sum(1)

    def _factors(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.width[1]
        return digits_of(pairs // BASE**wide, wide), digits_of(pairs % BASE**wide, wide)

    def _product(self, pairs: Tensor) -> Batch:
        wide = self.width[1]
        a, b = self._factors(pairs)
        answer = digits_of((pairs // BASE**wide) * (pairs % BASE**wide), 2 * wide)
        known = torch.cat([a, b], 1)
        return Batch(torch.cat([known, answer], 1), torch.cat([known, torch.full_like(answer, -1)], 1))

    # -------------------------------------------------------------------------------------------- a task

    def rows(self, split: str) -> Batch:
        """Returns a split as one batch; of "train", which is drawn as needed, the largest width."""
        if split == "train" and self.operation != "multiply":
            return self._columns(*self._numbers(self.n, self.width[1], stream(0, "arithmetic", "train")))
        return super().rows(split)

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader; in training of columns every batch has a width of its own."""
        if split != "train" or self.operation == "multiply":
            return super().loader(split, batch_size, seed=seed, workers=workers)
        return loader_of(_Drawn(self, seed), batch_size, True, seed, workers)

    def draw(self, count: int, generator: Generator) -> Batch:
        """Draws `count` training problems of one width, none of which is held out."""
        wide = int(torch.randint(self.width[0], self.width[1] + 1, (), generator=generator))
        found = torch.empty(0, wide + 1, dtype=torch.long)
        while missing := count - len(found):  # what is held out is drawn again
            a, b = self._numbers(missing, wide, generator)
            chained = torch.rand(missing, 1, generator=generator) < self.nines
            hand_on = (torch.rand(a.shape, generator=generator) < 0.7) & chained
            b = torch.where(hand_on, BASE - 1 - a if self.operation == "add" else a, b)
            context = self._columns(*self._ordered(a, b)).context
            kept = [row.numpy().tobytes() not in self._held for row in context]
            found = torch.cat([found, context[torch.tensor(kept)]])
        return Batch(self.answer_of(found), found)

    def unknown(self, context: Tensor) -> Tensor:
        """Marks the positions that are asked for: all columns, or the digits of a product."""
        return context < 0 if self.operation == "multiply" else torch.ones_like(context, dtype=torch.bool)

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells which answers (*more, B, S) are right in every digit."""
        return (answer == self.answer_of(batch.context)).all(-1)

    def read(self, text: str) -> Tensor:
        """Reads a problem such as "57+63" as a context (S,).

        Raises:
            ValueError: it is no such problem, or has another number of digits than a product may have.
        """
        sign = SIGNS[self.operation]
        parts = text.replace(" ", "").strip().rstrip("=").split(sign)
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"{text.strip()[:40]!r} is no problem of this task: write 57{sign}63")
        if self.operation == "multiply":
            wide = self.width[1]
            if max(map(len, parts)) > wide:
                raise ValueError(f"{text.strip()[:40]!r}: this task multiplies numbers of at most {wide} digits")
            known = [int(sign) for part in parts for sign in reversed(part.zfill(wide))]
            return torch.tensor(known + [-1] * 2 * wide)
        wide = max(map(len, parts))
        a, b = ([int(sign) for sign in reversed(part.zfill(wide))] for part in parts)
        if self.operation == "subtract" and int(parts[0]) < int(parts[1]):
            raise ValueError(f"{text.strip()[:40]!r} is negative: write the larger number first")
        return torch.tensor([BASE * x + y for x, y in zip(a, b, strict=True)] + [0])

    def show(self, answer: Tensor, context: Tensor) -> str:
        """Writes a problem and its answer as text."""
        wide = self.width[1]
        if self.operation == "multiply":
            parts = [context[:wide], context[wide : 2 * wide], answer[2 * wide :]]
        else:
            parts = [context[:-1] // BASE, context[:-1] % BASE, answer]
        a, b, c = ("".join(map(str, part.flip(0).tolist())).lstrip("0") or "0" for part in parts)
        return f"{a} {SIGNS[self.operation]} {b} = {c}"


class _Drawn(Dataset[Batch]):
    """Draws a batch of training problems for each list of row numbers it is asked for."""

    def __init__(self, task: Arithmetic, seed: int) -> None:
        self.task, self.seed = task, seed

    def __len__(self) -> int:
        return self.task.n

    def __getitem__(self, index: Any) -> Batch:
        rows = index if isinstance(index, list) else [index]
        return self.task.draw(len(rows), stream(self.seed, "drawn", str(rows)))

    __getitems__ = __getitem__


def digits_of(numbers: Tensor, wide: int) -> Tensor:
    """Lists the digits (n, wide) of whole numbers (n,), the lowest first.

    >>> digits_of(torch.tensor([3591]), 5).tolist()
    [[1, 9, 5, 3, 0]]
    """
    return torch.stack([numbers // BASE**place % BASE for place in range(wide)], 1)
